"""Boxes, masks and instances of one image, and batches of images of different size."""

from .boxes import Boxes, BoxMode, pairwise_ioa, pairwise_iou
from .image_list import ImageList
from .instances import Instances
from .masks import BitMasks, PolygonMasks, polygons_to_bitmask

__all__ = [
    "BitMasks",
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "PolygonMasks",
    "pairwise_ioa",
    "pairwise_iou",
    "polygons_to_bitmask",
]
