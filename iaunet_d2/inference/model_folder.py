"""From what a user names, an output folder of training or a config, to config and weights."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode

from .._version import __version__
from ..config import config_path, get_iaunet_cfg
from ..config.imports import without_places
from ..engine.errors import ConfigError
from ..engine.preflight import check_model, merge_config
from ..engine.training_data import TrainingData, read_training_data
from ..meta_arch.lookup import reads_num_classes

logger = logging.getLogger(__name__)

CONFIG = "config.yaml"
WEIGHTS = ("model_best.pth", "model_final.pth")
LAST = "last_checkpoint"
"""Names the file of the last checkpoint."""


@dataclass(frozen=True)
class ModelFiles:
    """What a model is made of.

    Attributes:
        config: the YAML file.
        weights: the file of the weights.
        training: what it was trained on; None where that is not known.
    """

    config: Path
    weights: Path
    training: TrainingData | None = None


def find_model(
    model: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None
) -> ModelFiles:
    """Find config and weights.

    Args:
        model: a folder that training wrote (``OUTPUT_DIR``), a weights file in such a folder, or a
            config: a path, or a name below the shipped ``configs/``.
        weights: the weights; None takes a folder's ``model_best.pth``, else ``model_final.pth``,
            else the last checkpoint.

    Raises:
        FileNotFoundError: a file or folder does not exist, or the folder lacks config or weights.
        ValueError: ``model`` is a config, and there are no weights.
    """
    path = Path(model).expanduser()
    if path.suffix in (".pth", ".pkl") and path.is_file() and weights is None:
        path, weights = path.parent, path
    if path.is_dir():
        config = path / CONFIG
        if not config.is_file():
            raise FileNotFoundError(
                f"{path}: has no {CONFIG}. A folder that training wrote (its OUTPUT_DIR) has one; "
                "else name a config file and weights."
            )
        chosen = _existing(weights) if weights is not None else _weights_in(path)
    else:
        config = _config(path)
        if weights is None:
            raise ValueError(
                f"{config}: is a config; name the weights too, or the folder that training wrote"
            )
        chosen = _existing(weights)
    training = read_training_data(config.parent) or read_training_data(chosen.parent)
    return ModelFiles(config, chosen, training)


def _config(path: Path) -> Path:
    try:
        return Path(config_path(str(path)))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"model {path} does not exist: neither a folder that training wrote nor a config file"
        ) from error


def _existing(weights: str | os.PathLike[str]) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist")
    return path


def _weights_in(folder: Path) -> Path:
    last = folder / LAST
    names = [*WEIGHTS, *([last.read_text().strip()] if last.is_file() else ())]
    for name in names:
        if name and (folder / name).is_file():
            return folder / name
    others = sorted(path.name for path in folder.glob("*.pth"))
    raise FileNotFoundError(
        f"{folder}: has no weights ({', '.join(dict.fromkeys(names))}). "
        + (f"It has {', '.join(others)}: name one as the weights." if others else "Train first.")
    )


def model_config(files: ModelFiles, device: str = "auto", opts: Sequence[str] = ()) -> CfgNode:
    """The config of a model that is to be loaded: device and weights set, nothing to be fetched.

    Args:
        files: of the model.
        device: see :func:`choose_device`.
        opts: keys and values that replace those of the config, in turn.

    Raises:
        ConfigError: the config was made by another version, or a key or a value is wrong, or there
            is no such model or device here.
    """
    cfg = get_iaunet_cfg()
    try:
        merge_config(cfg, str(files.config), [])
    except ConfigError as error:
        made = files.training.version if files.training else "another version"
        if made == __version__:
            raise
        raise ConfigError(
            f"{error}. The config was made for iaunet_d2 {made}, and this is {__version__}: "
            "use that version, or take the key out of the file"
        ) from error
    merge_config(cfg, "", opts)
    cfg.MODEL.WEIGHTS = str(files.weights)
    cfg.MODEL.DEVICE = choose_device(device)
    check_model(cfg)
    return cfg


def sees_frame(cfg: CfgNode) -> bool:
    """Tell whether what a model finds depends on how large the image around a cell is.

    Not with seeded queries on IAUNet's own pixel decoder, where it has no part that looks at the
    image as a whole.
    """
    own, parts = cfg.MODEL.IAUNET, cfg.MODEL
    return (
        parts.QUERY_DECODER.NAME != "SeededQueryDecoder"
        or parts.PIXEL_DECODER.NAME not in ("", "IAUNetPixelDecoder")
        or (own.COORD_CONV or own.SE or own.ALIGN_CORNERS)
    )


def choose_device(name: str = "auto") -> str:
    """A device of this machine.

    Args:
        name: "auto" takes a GPU of Nvidia's (each process started by torchrun its own), else the
            CPU; else a name that torch knows. Apple's GPU ("mps") is taken only by name.

    Raises:
        ConfigError: "mps", and there is none.
    """
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps: torch finds no Apple GPU here; take cpu")
    if name not in ("auto", "cuda"):
        return name
    if not torch.cuda.is_available():
        return "cpu" if name == "auto" else "cuda"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def fingerprint(cfg: CfgNode) -> str:
    """What tells a model from others: of the weights' bytes and the config, wherever they lie."""
    cfg = cfg.clone()
    weights = cfg.MODEL.WEIGHTS
    cfg.defrost()
    cfg.MODEL.WEIGHTS = cfg.MODEL.DEVICE = cfg.OUTPUT_DIR = ""
    cfg.MODEL.IMPORTS = without_places(cfg.MODEL.IMPORTS)
    digest = hashlib.sha256(cfg.dump().encode())
    with open(weights, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def class_names(cfg: CfgNode, trained: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes: those of the training, else numbers; "cell" for a single one."""
    if trained:
        return tuple(trained)
    count = cfg.MODEL.NUM_CLASSES if reads_num_classes(cfg) else 1
    return ("cell",) if count == 1 else tuple(f"class {k}" for k in range(count))
