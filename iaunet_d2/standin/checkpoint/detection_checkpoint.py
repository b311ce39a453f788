"""Checkpoint files in Detectron2's layout, read without executing what is in them."""

import pickle
from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qs, urlparse

import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from .. import LeftOutError
from ..utils import comm
from ..utils.file_io import PathManager

# Pickles of Caffe2 and pycls models: reading one can run any code, and only Detectron2's own
# models have the layer names that they are converted to.
LEGACY_SUFFIXES = (".pkl", ".pyth")


class DetectionCheckpointer(Checkpointer):
    """fvcore's ``Checkpointer``, writing on the main process only and reading tensors only.

    A file is a dict with ``model`` (state dict), one entry per checkpointable (``trainer`` holds
    iteration, optimizer and hooks, the LR schedule among them), and what else ``save`` was given.
    The name of the newest file stands in ``last_checkpoint`` beside it.

    Args:
        model: its state is saved; a DistributedDataParallel wrapper is taken off.
        save_dir: where ``save`` writes; empty: nowhere.
        save_to_disk: whether this process writes; by default the main process does.
        checkpointables: objects with ``state_dict`` and ``load_state_dict``, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        writes = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=writes, **checkpointables)
        self.path_manager = PathManager

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file into the model and the checkpointables; "" loads nothing.

        Args:
            path: of the file.
            checkpointables: names of those to load; None: all.

        Returns:
            What else the file holds.

        Raises:
            LeftOutError: the path ends in Detectron2's ``?matching_heuristics=True``.
        """
        if "matching_heuristics" in parse_qs(urlparse(path or "").query):
            raise LeftOutError("detectron2.checkpoint.c2_model_loading", path)
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read a file; a bare state dict counts as its own ``model`` entry.

        Raises:
            ValueError: the file is in a legacy pickle format.
            pickle.UnpicklingError: the file holds more than tensors and plain values.
        """
        if PurePath(filename).suffix in LEGACY_SUFFIXES:
            raise ValueError(
                f"{filename} is a legacy pickle, which can run code when read; the stand-in refuses"
                " it. Convert it to .pth with Detectron2, or give a .pth file."
            )
        loaded = self._torch_load(filename)
        return loaded if "model" in loaded else {"model": loaded}

    def _torch_load(self, f: str) -> dict[str, Any]:
        try:
            return torch.load(f, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(
                f"{f} was not read: it holds Python objects beside tensors, or is no PyTorch file"
                f" ({error})"
            ) from error

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if checkpoint.pop("matching_heuristics", False):
            raise LeftOutError("detectron2.checkpoint.c2_model_loading", "matching_heuristics")
        incompatible = super()._load_model(checkpoint)
        # The config sets these two; old files lack them, which is nothing to report.
        own = dict(self.model.named_buffers(recurse=False))
        for name in {"pixel_mean", "pixel_std"} & own.keys() & set(incompatible.missing_keys):
            incompatible.missing_keys.remove(name)
        return incompatible
