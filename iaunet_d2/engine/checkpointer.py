"""Checkpoints that survive a kill, load without running code, and fit or say what does not."""

import logging
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from .._seam import uses_standin
from ..files import TEMPORARY_SUFFIX, atomic_write
from .errors import CheckpointError, OutputError
from .pickled_weights import read_pickled_weights

logger = logging.getLogger(__name__)

SHOWN = 10  # names of each kind in an error message

# The config sets these at construction, so that a file without them is whole.
FROM_CONFIG = ("pixel_mean", "pixel_std")

# Detectron2's older files have the anchors, which its models now make themselves.
OBSOLETE = "anchor_generator.cell_anchors"


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with the same files and layout, made safe.

    - A file appears under its name only when it is whole and on the disk; the tag
      ``last_checkpoint`` likewise.
    - Files are read with ``torch.load(weights_only=True)``, and pickles of the model zoo only as
      far as they hold arrays.
    - Everything stored is plain (tensors, numbers, strings, containers), so that it can be read in
      the same way.

    Args:
        model: the model, wrapped for several processes or not.
        save_dir: folder of the checkpoints.
        strict: whether a file given by ``MODEL.WEIGHTS`` must fit the model whole. A resumed
            checkpoint always must.
        checkpointables: further objects with ``state_dict`` and ``load_state_dict``.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, strict: bool = True, **checkpointables: Any
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.strict = strict
        self._strict_now = strict
        self._path_now = ""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write everything to ``<save_dir>/<name>.pth`` and tag it as the last checkpoint.

        Raises:
            OutputError: the file cannot be written; earlier checkpoints are untouched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        self._write({"model": self.model.state_dict(), **states, **kwargs}, f"{name}.pth")
        self.tag_last_checkpoint(f"{name}.pth")

    def save_weights(self, name: str, **extra: Any) -> None:
        """Write the model alone, with ``extra`` beside it, to be used as ``MODEL.WEIGHTS``."""
        if self.save_dir and self.save_to_disk:
            self._write({"model": self.model.state_dict(), **extra}, f"{name}.pth")

    def _write(self, data: dict[str, Any], basename: str) -> None:
        path = os.path.join(self.save_dir, basename)
        logger.info("Saving checkpoint to %s", path)
        data = plain(data)
        try:
            with atomic_write(path) as stream:
                torch.save(data, stream)
        except (OSError, RuntimeError) as error:  # torch reports a short write as RuntimeError
            free = shutil.disk_usage(self.save_dir).free / 2**20
            raise OutputError(
                f"{path} could not be written ({error}); {free:.0f} MiB are free on that disk. "
                "Earlier checkpoints "
                "are untouched: make room and continue with --resume."
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the file from which ``--resume`` continues."""
        with atomic_write(os.path.join(self.save_dir, "last_checkpoint")) as stream:
            stream.write(last_filename_basename.encode())

    def remove_temporary_files(self) -> None:
        """Remove what a killed process left half-written."""
        if self.save_to_disk and os.path.isdir(self.save_dir):
            for path in Path(self.save_dir).glob(f"*.pth{TEMPORARY_SUFFIX}"):
                path.unlink(missing_ok=True)

    def get_checkpoint_file(self) -> str:
        """The tagged checkpoint, or the newest whole one where that is missing or damaged.

        Raises:
            CheckpointError: the folder has no whole checkpoint.
        """
        tagged = super().get_checkpoint_file()
        if zipfile.is_zipfile(tagged):
            return tagged
        others = [p for p in Path(self.save_dir).glob("model_[0-9]*.pth") if zipfile.is_zipfile(p)]
        if not others:
            raise CheckpointError(
                f"--resume: {tagged} is missing or damaged, and {self.save_dir} has no other "
                "checkpoint; "
                "start again without --resume"
            )
        newest = max(others, key=lambda p: p.stem)
        logger.warning("%s is missing or damaged; resuming from %s instead.", tagged, newest)
        return str(newest)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file; see :class:`fvcore.common.checkpoint.Checkpointer`.

        Args:
            path: file, or address that iopath knows; empty loads nothing.
            checkpointables: names to load beside the model; None loads all, which is what resuming
                does.

        Returns:
            What the file holds beyond model and checkpointables.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it cannot be read, or does not fit the model.
        """
        if path and "://" not in path and not os.path.isfile(path):
            raise FileNotFoundError(f"weights file {path} does not exist (MODEL.WEIGHTS)")
        self._strict_now = self.strict or checkpointables is None
        self._path_now = path
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        data = read_checkpoint(filename)
        return data if "model" in data else {"model": data}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        state = checkpoint["model"]
        # A detector of the zoo, of whose parts the backbone may be the model's.
        detector = "__author__" in checkpoint and not self._strict_now
        if detector and state.keys().isdisjoint(self.model.state_dict()):
            checkpoint = {**checkpoint, "matching_heuristics": True}
        if checkpoint.get("matching_heuristics"):
            return self._load_like_names(checkpoint)
        if state and all(name.startswith("module.") for name in state):
            state = {name.removeprefix("module."): value for name, value in state.items()}
        message = mismatch(self.model.state_dict(), state)
        if message and self._strict_now:
            raise CheckpointError(
                f"the weights file {self._path_now} does not fit the model "
                f"({type(self.model).__name__}):\n{message}\n"
                "Compare the config with the config.yaml beside the file. To load what fits and "
                "train the rest, give "
                "the file as MODEL.WEIGHTS with MODEL.WEIGHTS_STRICT False."
            )
        if message:
            logger.warning("MODEL.WEIGHTS_STRICT is False; this was not loaded:\n%s", message)
        return super()._load_model({**checkpoint, "model": dict(state)})

    def _load_like_names(self, checkpoint: dict[str, Any]) -> Any:
        """Load a backbone of the model zoo, whose names are the ends of some of the model's.

        Detectron2 looks for these, and tells what it found.

        Raises:
            CheckpointError: there are none, or Detectron2 itself is not in use.
        """
        if uses_standin():
            raise CheckpointError(
                f"{self._path_now} (MODEL.WEIGHTS) is of Detectron2's model zoo: it takes "
                "Detectron2 itself and one of its backbones; for a timm backbone set "
                "MODEL.TIMM.PRETRAINED True or MODEL.TIMM.CHECKPOINT <file> instead"
            )
        first = next(iter(checkpoint["model"]), "no weights")
        incompatible = super()._load_model(checkpoint)
        left = {*incompatible.missing_keys, *(name for name, *_ in incompatible.incorrect_shapes)}
        if all(name in left for name, _ in self.model.named_parameters()):
            message = (
                f"nothing in {self._path_now} (MODEL.WEIGHTS: {first} ...) fits the model; take "
                "the backbone that it is of (MODEL.BACKBONE.NAME, for R-50.pkl "
                "build_resnet_backbone; MODEL.RESNETS.DEPTH), and for a timm backbone "
                "MODEL.TIMM.PRETRAINED True or MODEL.TIMM.CHECKPOINT <file> instead"
            )
            if self._strict_now:
                raise CheckpointError(message)
            logger.warning(message)
        return incompatible


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a file of weights onto the CPU without executing code from it.

    Raises:
        CheckpointError: it is of a kind that can only be read by executing code, or damaged, or
            holds no weights.
    """
    if path.endswith((".pkl", ".pickle")):
        return read_pickled_weights(path)
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{path} cannot be read as weights: it is damaged, or holds more than tensors and "
            "plain values "
            f"({reason[0]})"
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not a dict of weights")
    return data


def mismatch(model: dict[str, Any], file: dict[str, Any]) -> str:
    """Say what differs between two state dicts, a line for each kind; empty when nothing does."""
    missing = [n for n in model if n not in file and n not in FROM_CONFIG]
    unknown = [n for n in file if n not in model and OBSOLETE not in n]
    shapes = [
        f"{n} (file {_shape(file[n])}, model {_shape(model[n])})"
        for n in model
        if n in file and _shape(file[n]) != _shape(model[n])
    ]
    kinds = (
        ("missing in the file", missing),
        ("unknown to the model", unknown),
        ("of another shape", shapes),
    )
    return "\n".join(f"  {len(names)} {kind}: {_shown(names)}" for kind, names in kinds if names)


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor | np.ndarray) else type(value).__name__


def _shown(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def plain(value: Any) -> Any:
    """Replace NumPy numbers and arrays in nested containers by Python numbers and tensors."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(plain(v) for v in value)
    return value
