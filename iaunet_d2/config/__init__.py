"""Config keys of this project on top of Detectron2's, and where the shipped YAML files are."""

import ast
import contextlib
from pathlib import Path

import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from .baselines import add_baselines
from .common import add_common
from .former import leaves, merge_former_dump, take_at_their_word
from .iau_net import add_iau_net
from .iaunet import add_iaunet
from .iaunet_v1 import add_iaunet_v1
from .imports import PartImportError, add_imported_config, add_missing_keys, import_parts
from .maunet import add_maunet
from .parts import add_parts
from .seeded import add_seeded
from .vsm import add_vsm


def without_part_weights(cfg: CN) -> None:
    """Empty, in place, the keys that name weights of parts: a checkpoint holds them all."""
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.TIMM.CHECKPOINT = ""
    cfg.MODEL.MAUNET.MEMBER_WEIGHTS = ()
    cfg.MODEL.VSM.DETECTOR_WEIGHTS = ""
    cfg.MODEL.VSM.SEGMENTER_WEIGHTS = ""


def add_iaunet_config(cfg: CN) -> None:
    """Add every key of iaunet_d2 to ``cfg``, and this project's defaults of Detectron2's keys."""
    add_common(cfg)
    add_parts(cfg)
    add_iaunet(cfg)
    add_seeded(cfg)
    add_iaunet_v1(cfg)
    add_iau_net(cfg)
    add_maunet(cfg)
    add_vsm(cfg)
    add_baselines(cfg)
    add_imported_config(cfg)


def get_iaunet_cfg(config_file: str = "") -> CN:
    """Return Detectron2's config with this project's keys, and a config file's values, if any.

    What the file names in ``MODEL.IMPORTS`` is imported.

    Raises:
        FileNotFoundError: there is no such file.
        PartImportError: an import of the file's fails.
    """
    cfg = get_cfg()
    add_iaunet_config(cfg)
    if config_file:
        path = config_path(config_file)
        # As unsafe as merge_from_file, which reads the file next.
        settings = dict(leaves(CN.load_yaml_with_base(path, allow_unsafe=True)))
        imported = prepare_imports(cfg, settings.get("MODEL.IMPORTS", ()), path)
        if not merge_former_dump(cfg, settings, path):
            cfg.merge_from_file(path)
            take_at_their_word(cfg, settings)
        if imported:
            cfg.MODEL.IMPORTS = imported
    return cfg


def prepare_imports(cfg: CN, value: object, config_file: str = "") -> tuple[str, ...]:
    """Import what a value of ``MODEL.IMPORTS`` names, and add the keys of these parts to ``cfg``.

    Args:
        cfg: the config, in place.
        value: a tuple or list of names, or its text.
        config_file: beside which, and beside the files it builds on (``_BASE_``), files are looked
            for first; empty: in the working directory alone.

    Returns:
        the names, files as absolute paths.

    Raises:
        PartImportError: the value is no list of names, or an import fails.
    """
    names = value
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            names = ast.literal_eval(value)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        name = names if isinstance(names, str) and names else "my_parts.py"
        raise PartImportError(f"MODEL.IMPORTS {value!r} is no list of names; write ({name!r},)")
    imported = import_parts(names, _folders(Path(config_file)) if names and config_file else ())
    if imported:
        complete = get_cfg()
        add_iaunet_config(complete)
        add_missing_keys(cfg, complete)
    return imported


def _folders(config: Path) -> list[Path]:
    """Return the folders of a config and of those that it builds on, its own first."""
    bases: str | list[str] = []
    with contextlib.suppress(yaml.constructor.ConstructorError):  # tuples, as Python dumps them
        bases = yaml.safe_load(config.read_text(encoding="utf-8")).get("_BASE_", [])
    paths = [config.parent / Path(base).expanduser() for base in _listed(bases)]
    return [
        config.parent,
        *(folder for path in paths if path.is_file() for folder in _folders(path)),
    ]


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def config_path(name: str) -> str:
    """Find a config: a path as it is, or a name under ``configs/`` of checkout or package.

    Raises:
        FileNotFoundError: naming the places that were searched.
    """
    package = Path(__file__).resolve().parents[1]
    relative = Path(name).parts[1:] if Path(name).parts[:1] == ("configs",) else Path(name).parts
    candidates = [
        Path(name),
        *(root.joinpath(*relative) for root in (package / "configs", package.parent / "configs")),
    ]
    for candidate in candidates:
        if candidate.is_file():
            return str(candidate)
    raise FileNotFoundError(
        f"config {name!r} was not found; searched {', '.join(map(str, candidates))}"
    )
