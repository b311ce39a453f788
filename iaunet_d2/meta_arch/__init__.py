"""The Detectron2 side of each model: a list of batch dicts in, losses or Instances out. Import registers them."""

from .iaunet import IAUNet

__all__ = ["IAUNet"]
