"""What is compared, as the command line says it: ``CONFIG[=WEIGHTS[,WEIGHTS...]]``."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode


@dataclass(frozen=True)
class ModelSpec:
    """One row.

    Attributes:
        name: of the row.
        config: path, or name below ``configs/``.
        weights: one file per seed; none for a model whose costs alone are measured.
    """

    name: str
    config: str
    weights: tuple[str, ...] = ()


def model_specs(texts: Sequence[str], names: Sequence[str] = ()) -> list[ModelSpec]:
    """Read ``CONFIG``, ``CONFIG=WEIGHTS`` and ``CONFIG=WEIGHTS,WEIGHTS,...``.

    Args:
        texts: one per row.
        names: of the rows; those of the config files, numbered where they repeat, by default.

    Raises:
        ValueError: there are names for more or fewer rows, names repeat, or a text lacks a part.
    """
    if names and len(names) != len(texts):
        raise ValueError(f"--names has {len(names)} names for {len(texts)} models")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"--names has {', '.join(repeated)} more than once")
    specs: list[ModelSpec] = []
    for place, text in enumerate(texts):
        config, has_weights, weights = text.partition("=")
        files = tuple(weights.split(",")) if has_weights else ()
        if not config or not all(files):
            raise ValueError(f"{text!r}: CONFIG or CONFIG=WEIGHTS[,WEIGHTS...] is needed")
        name = names[place] if names else _unused(Path(config).stem, specs)
        specs.append(ModelSpec(name, config, files))
    return specs


def _unused(name: str, specs: Sequence[ModelSpec]) -> str:
    taken = {spec.name for spec in specs}
    number, free = 2, name
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free


def weights_of(spec: ModelSpec, cfg: CfgNode, untrained: bool) -> tuple[str, ...]:
    """The weights files of a row: those given, else ``MODEL.WEIGHTS`` of the config.

    Raises:
        ValueError: there are none, and untrained models were not asked for.
        FileNotFoundError: one does not exist.
    """
    files = spec.weights or ((cfg.MODEL.WEIGHTS,) if cfg.MODEL.WEIGHTS else ())
    if not files and not untrained:
        raise ValueError(
            f"{spec.name}: has no weights; give them ({spec.config}=model.pth), or --untrained "
            "for its costs without its accuracy"
        )
    for file in files:
        if "://" not in file and not Path(file).is_file():
            raise FileNotFoundError(f"{spec.name}: weights file {file} does not exist")
    return tuple(files)
