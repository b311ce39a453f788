"""Registries of models and backbones, and their builders."""

from .. import left_out_class
from ..layers import ShapeSpec
from .backbone import BACKBONE_REGISTRY, Backbone, build_backbone
from .meta_arch import META_ARCH_REGISTRY, build_model
from .postprocessing import sem_seg_postprocess

# Detectron2's training script imports it, for its own models.
GeneralizedRCNNWithTTA = left_out_class("GeneralizedRCNNWithTTA", "detectron2.modeling.*")

__all__ = [
    "BACKBONE_REGISTRY",
    "META_ARCH_REGISTRY",
    "Backbone",
    "GeneralizedRCNNWithTTA",
    "ShapeSpec",
    "build_backbone",
    "build_model",
    "sem_seg_postprocess",
]
