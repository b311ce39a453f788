"""Networks that were trained apart, put together into one model's folder."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..config import without_part_weights
from ..files import atomic_write
from .checkpointer import AtomicCheckpointer
from .errors import ConfigError
from .preflight import check_model, check_writable
from .training_data import FILE_NAME as TRAINING_DATA

WEIGHTS = "model_final"
CONFIG = "config.yaml"


def write_ensemble(cfg: CfgNode, files: Sequence[str], folder: str | os.PathLike[str]) -> Path:
    """Build an ensemble of MAUNets from its members' checkpoints, and write it as a training does.

    The folder gets ``config.yaml`` and ``model_final.pth``, and from the first member's folder
    ``training_data.json``, if there is one.

    Args:
        cfg: of the ensemble (``MODEL.MAUNET.ENCODERS``); stays as it is.
        files: the members' weights, in the order of the encoders.
        folder: made if it does not exist.

    Returns:
        the file of the weights.

    Raises:
        ConfigError: the config is of another model.
        ValueError: there are more or fewer files than encoders.
        CheckpointError: a file does not fit its network.
        FileNotFoundError: a file does not exist.
        OutputError: the folder cannot be written.
    """
    if cfg.MODEL.META_ARCHITECTURE != "MAUNet":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}; ensembles are of MAUNet, "
            "such as configs/systems/maunet_ensemble.yaml"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = os.fspath(folder), "cpu", ""
    without_part_weights(cfg)
    cfg.MODEL.MAUNET.MEMBER_WEIGHTS = tuple(files)
    check_model(cfg)
    model = build_model(cfg)
    check_writable(cfg.OUTPUT_DIR)
    checkpointer = AtomicCheckpointer(model, cfg.OUTPUT_DIR)
    checkpointer.save_weights(WEIGHTS)
    # The weights are all in one file now.
    cfg.MODEL.MAUNET.MEMBER_WEIGHTS = ()
    with atomic_write(Path(folder, CONFIG)) as stream:
        stream.write(cfg.dump().encode())
    about = Path(files[0]).parent / TRAINING_DATA
    if about.is_file():
        shutil.copyfile(about, Path(folder, TRAINING_DATA))
    return Path(folder, f"{WEIGHTS}.pth")
