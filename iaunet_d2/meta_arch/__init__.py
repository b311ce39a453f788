"""The Detectron2 side of each model: batch dicts in, losses or Instances out."""

from .base import SegmentationModel
from .iau_net import ImprovedAttentionUNet
from .iaunet import IAUNet
from .iaunet_v1 import IAUNetV1
from .mask2former import Mask2Former
from .maunet import MAUNet
from .rcnn import MaskRCNN, PointRend
from .vsm import VSM

__all__ = [
    "VSM",
    "IAUNet",
    "IAUNetV1",
    "ImprovedAttentionUNet",
    "MAUNet",
    "Mask2Former",
    "MaskRCNN",
    "PointRend",
    "SegmentationModel",
]
