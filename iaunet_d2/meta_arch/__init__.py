"""The Detectron2 side of each model: batch dicts in, losses or Instances out."""

from .base import SegmentationModel
from .iaunet import IAUNet

__all__ = ["IAUNet", "SegmentationModel"]
