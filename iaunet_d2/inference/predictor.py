"""A trained model, called with one image at a time."""

import os
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

from ..config import without_part_weights
from ..data import IAUNetDatasetMapper
from ..data.readers import to_byte_range
from ..engine.checkpointer import AtomicCheckpointer
from ..meta_arch import SegmentationModel
from ..networks.scored_masks import ScoredMasks, on_cpu, tight_crops


class Predictor:
    """The counterpart of Detectron2's ``DefaultPredictor`` for microscope images.

    It reads files as training does (16 bit, channels, percentiles), and weights without executing
    code from them, whichever Detectron2 is in use.

    Args:
        cfg: the config of the run, with ``MODEL.WEIGHTS``.

    Raises:
        ValueError: ``MODEL.WEIGHTS`` is empty.
        FileNotFoundError: there is no such file.
        CheckpointError: the weights cannot be read or do not fit the model.
    """

    def __init__(self, cfg: CfgNode) -> None:
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("MODEL.WEIGHTS is empty: name the weights, such as model_best.pth")
        cfg = cfg.clone()
        cfg.defrost()
        # The weights file holds every part's weights: there is nothing to fetch.
        without_part_weights(cfg)
        self.model = build_model(cfg).eval()
        AtomicCheckpointer(self.model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
        if isinstance(self.model, SegmentationModel):
            self.model.fold()
        self.mapper = IAUNetDatasetMapper(cfg, is_train=False)
        self.percentiles = tuple(cfg.INPUT.PERCENTILES)

    @torch.no_grad()
    def __call__(self, image: np.ndarray | str | os.PathLike[str]) -> Instances:
        """Find the instances of one image.

        Args:
            image: a file (PNG, JPEG, TIFF), or an array (H, W) or (H, W, C), colours as red,
                green, blue; what is not ``uint8`` is stretched as ``INPUT.PERCENTILES`` says.

        Returns:
            ``Instances`` of the image's size on the CPU, best first: ``pred_masks`` (N, H, W) bool,
            ``pred_boxes``, ``scores``, ``pred_classes``.

        Raises:
            BadFileError: the file cannot be used, or the number of channels is wrong.
            ValueError: the array has another shape, or holds NaN or Inf.
        """
        if isinstance(image, np.ndarray):
            entry = self.mapper.map(self.mapper.adapt(self._pixels(image), "the array"), {})
        else:
            entry = self.mapper({"file_name": os.fspath(image)})
        return self.model([entry])[0]["instances"].to("cpu")

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        """The array as the file reader would give it: (H, W, C), 0..255."""
        if image.ndim not in (2, 3) or image.size == 0:
            raise ValueError(f"an image is (H, W) or (H, W, C) and not empty, not {image.shape}")
        if not np.isfinite(image).all():
            raise ValueError("the image holds NaN or Inf; replace them first")
        return to_byte_range(image.reshape(*image.shape[:2], -1), self.percentiles)


@torch.no_grad()
def find_instances(model: nn.Module, entries: list[dict[str, Any]]) -> list[ScoredMasks]:
    """Instances as crops, best first, by any meta-architecture.

    A model of this package gives crops; any other gives full frames (``pred_masks``), which are cut
    down.

    Args:
        model: in evaluation mode.
        entries: of the mapper, one per image.

    Raises:
        ValueError: the model finds no masks, as a detector of boxes alone.
    """
    segment = getattr(model, "segment", None)
    if segment is not None:
        return segment(entries)
    return [_from_frames(output, model) for output in model(entries)]


def _from_frames(output: dict[str, Any], model: nn.Module) -> ScoredMasks:
    found = output.get("instances")
    if found is None or not found.has("pred_masks"):
        raise ValueError(
            f"{type(model).__name__} gives no masks of instances: a model of instance segmentation "
            "is needed (MODEL.MASK_ON True)"
        )
    crops, corners = tight_crops(
        on_cpu(list(found.pred_masks.bool())), [(0, 0)] * len(found.pred_masks)
    )
    scores = found.scores.float().cpu()
    classes = found.pred_classes.cpu().long()
    instances = ScoredMasks(crops, corners, scores, classes, tuple(found.image_size))
    return instances.take(torch.argsort(scores, descending=True, stable=True))
