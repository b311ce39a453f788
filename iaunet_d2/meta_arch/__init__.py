"""The Detectron2 side of each model: batch dicts in, losses or Instances out."""

from .backbones import TimmBackbone, build_backbone
from .base import SegmentationModel
from .iau_net import ImprovedAttentionUNet
from .iaunet import IAUNet
from .iaunet_v1 import IAUNetV1
from .mask2former import Mask2Former
from .maunet import MAUNet
from .pixel_decoders import FPNPixelDecoder, IAUNetPixelDecoder, MSDeformAttnPixelDecoder
from .query_decoders import IAUNetQueryDecoder, MultiScaleMaskedTransformerDecoder
from .rcnn import MaskRCNN, PointRend
from .registries import PIXEL_DECODER_REGISTRY, QUERY_DECODER_REGISTRY
from .vsm import VSM

__all__ = [
    "PIXEL_DECODER_REGISTRY",
    "QUERY_DECODER_REGISTRY",
    "VSM",
    "FPNPixelDecoder",
    "IAUNet",
    "IAUNetPixelDecoder",
    "IAUNetQueryDecoder",
    "IAUNetV1",
    "ImprovedAttentionUNet",
    "MAUNet",
    "MSDeformAttnPixelDecoder",
    "Mask2Former",
    "MaskRCNN",
    "MultiScaleMaskedTransformerDecoder",
    "PointRend",
    "SegmentationModel",
    "TimmBackbone",
    "build_backbone",
]
