"""The Detectron2 side of each model: batch dicts in, losses or Instances out."""

from .base import SegmentationModel
from .iaunet import IAUNet
from .mask2former import Mask2Former
from .rcnn import MaskRCNN, PointRend

__all__ = ["IAUNet", "Mask2Former", "MaskRCNN", "PointRend", "SegmentationModel"]
