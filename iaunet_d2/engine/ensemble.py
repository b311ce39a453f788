"""Networks that were trained apart, put together into one model's folder."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..config import without_part_weights
from ..files import atomic_write
from .checkpointer import AtomicCheckpointer
from .errors import ConfigError
from .preflight import check_model, check_writable
from .training_data import TrainingData, read_training_data, save_training_data

WEIGHTS = "model_final"
CONFIG = "config.yaml"


def write_ensemble(cfg: CfgNode, files: Sequence[str], folder: str | os.PathLike[str]) -> Path:
    """Build an ensemble of MAUNets from its members' checkpoints, and write it as a training does.

    The folder gets ``config.yaml`` and ``model_final.pth``, and ``training_data.json`` if there is
    one in a member's folder (:func:`joint_training_data`).

    Args:
        cfg: of the ensemble (``MODEL.MAUNET.ENCODERS``); stays as it is.
        files: the members' weights, in the order of the encoders.
        folder: made if it does not exist.

    Returns:
        the file of the weights.

    Raises:
        ConfigError: the config is of another model.
        ValueError: there are more or fewer files than encoders, or the members were trained on
            different classes.
        CheckpointError: a file does not fit its network.
        FileNotFoundError: a file does not exist.
        OutputError: the folder cannot be written.
    """
    if cfg.MODEL.META_ARCHITECTURE != "MAUNet":
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}; ensembles are of MAUNet, "
            "such as configs/systems/maunet_ensemble.yaml"
        )
    about = joint_training_data(files)
    cfg = cfg.clone()
    cfg.defrost()
    device = cfg.MODEL.DEVICE
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = os.fspath(folder), "cpu", ""
    without_part_weights(cfg)
    cfg.MODEL.MAUNET.MEMBER_WEIGHTS = tuple(files)
    check_model(cfg)
    model = build_model(cfg)
    check_writable(cfg.OUTPUT_DIR)
    checkpointer = AtomicCheckpointer(model, cfg.OUTPUT_DIR)
    checkpointer.save_weights(WEIGHTS)
    # The weights are all in one file now, and the device was for this alone.
    cfg.MODEL.MAUNET.MEMBER_WEIGHTS, cfg.MODEL.DEVICE = (), device
    with atomic_write(Path(folder, CONFIG)) as stream:
        stream.write(cfg.dump().encode())
    if about is not None:
        save_training_data(about, folder)
    return Path(folder, f"{WEIGHTS}.pth")


def joint_training_data(files: Sequence[str]) -> TrainingData | None:
    """What the members were trained on: numbers of the first, data sets and pseudo-labels of all.

    Args:
        files: the members' weights, in the folders of their trainings.

    Returns:
        None where no folder tells.

    Raises:
        ValueError: the classes are not the same, or a file is damaged.
    """
    known = {file: read_training_data(Path(file).parent) for file in files}
    named = {about.classes: file for file, about in known.items() if about and about.classes}
    if len(named) > 1:
        raise ValueError(
            "the networks of an ensemble need the same classes in the same order, and there are "
            + ", ".join(f"{classes} of {file}" for classes, file in named.items())
        )
    found = [about for about in known.values() if about is not None]
    if not found:
        return None
    first = found[0]
    names = tuple(dict.fromkeys(name for about in found for name in about.data_sets))
    labels = [block for about in found for block in about.pseudo_labels]
    return replace(
        first,
        classes=next(iter(named), ()),
        data_sets=names,
        mix=first.mix if names == first.data_sets else (),  # a weight per data set
        pseudo_labels=tuple(b for k, b in enumerate(labels) if b not in labels[:k]),
    )
