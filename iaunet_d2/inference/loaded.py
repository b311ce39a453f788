"""Planes that are ready for the model."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T

from ..data import IAUNetDatasetMapper
from ..data.readers import Limits
from .sources.base import Plane


@dataclass(frozen=True)
class Loaded:
    """A plane that is ready for the model.

    Attributes:
        plane: in memory if it is kept.
        tile: side of its tiles in pixels; 0 for one that is shown whole.
        limits: of the grey values.
        statistics: mean and standard deviation of each channel (2, C), by which all its tiles are
            normalised; None where a model's ``INPUT.NORMALIZE`` asks for none.
        entry: what the model takes, for a plane that is shown whole.
    """

    plane: Plane
    tile: int
    limits: Limits
    statistics: torch.Tensor | None = None
    entry: dict[str, Any] | None = None


def batches_with(one: Loaded, other: Loaded) -> bool:
    """Whether two planes may share a pass: shown whole, and of the same size to the network."""
    if one.entry is None or other.entry is None:
        return False
    return one.entry["image"].shape == other.entry["image"].shape


def scaled_mapper(mapper: IAUNetDatasetMapper, factor: float) -> IAUNetDatasetMapper:
    """Return a copy of a mapper that resizes by a factor, whatever the size, and does no more."""
    changed = copy.copy(mapper)
    changed.augmentations = T.AugmentationList([ScaleBy(factor)])
    return changed


class ScaleBy(T.Augmentation):
    """Resize by a factor, whatever the size."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The resizing of an image (H, W, C)."""
        height, width = image.shape[:2]
        new = [max(1, round(side * self.factor)) for side in (height, width)]
        return T.ResizeTransform(height, width, new[0], new[1])
