"""The Detectron2 side of each model: batch dicts in, losses or Instances out."""

from .iaunet import IAUNet

__all__ = ["IAUNet"]
