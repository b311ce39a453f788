"""Registry and base class of backbones."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from ..config import CfgNode
from ..layers import ShapeSpec
from ..utils.registry import Registry

BACKBONE_REGISTRY = Registry("BACKBONE")


class Backbone(nn.Module, ABC):
    """A network from images (B, C, H, W) to named feature maps.

    Subclasses set ``_out_features`` (names), ``_out_feature_channels`` and ``_out_feature_strides``
    (both by name), or override :meth:`output_shape`.
    """

    _out_features: list[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    @abstractmethod
    def forward(self, *args: Any) -> dict[str, Tensor]:
        """Feature maps (B, C_i, H_i, W_i) by name."""

    @property
    def size_divisibility(self) -> int:
        """Both sides of the input must be a multiple of this; 0 where any size will do."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further wishes on the padding: ``size_divisibility`` and ``square_size``."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every map, by name."""
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {n: ShapeSpec(channels=channels[n], stride=strides[n]) for n in self._out_features}


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build the backbone registered as ``cfg.MODEL.BACKBONE.NAME``.

    Args:
        input_shape: shape of the network's input; by default as many channels as MODEL.PIXEL_MEAN.

    Raises:
        TypeError: what is registered under that name does not build a :class:`Backbone`.
    """
    shape = input_shape or ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    name = cfg.MODEL.BACKBONE.NAME
    backbone = BACKBONE_REGISTRY.get(name)(cfg, shape)
    if not isinstance(backbone, Backbone):
        raise TypeError(f"MODEL.BACKBONE.NAME {name!r} built a {type(backbone)}, not a Backbone")
    return backbone
