"""Backbones as Detectron2's: timm's, YOLOX's, and builders for Detectron2's own Swin and ViTDet.

``MODEL.BACKBONE.NAME`` names a builder in ``BACKBONE_REGISTRY``. Every model takes its maps by
their strides, so that any builder serves any model: these, Detectron2's ``build_resnet_backbone``
and ``build_resnet_fpn_backbone``, or one of your own.
"""

import functools
import importlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from .._seam import uses_standin
from ..networks import STRIDES, CSPDarknet, MissingStrideError, TimmPyramid, maps_at
from ..networks.maps import map_name
from .registries import UnknownPartError, registered

TIMM_BUILDER = "build_timm_backbone"

# Detectron2's registered builders, and the keys of Detectron2's that choose their maps.
KEYS_OF_MAPS = {
    "build_resnet_backbone": ("MODEL.RESNETS.OUT_FEATURES",),
    "build_resnet_fpn_backbone": ("MODEL.RESNETS.OUT_FEATURES", "MODEL.FPN.IN_FEATURES"),
    "build_retinanet_resnet_fpn_backbone": ("MODEL.RESNETS.OUT_FEATURES", "MODEL.FPN.IN_FEATURES"),
}


class TimmBackbone(TimmPyramid, Backbone):
    """A timm model as a Detectron2 backbone; arguments as of its base class."""

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each map by its name."""
        return _specs(super().output_shape())

    @property
    def size_divisibility(self) -> int:
        """Sides of the input are multiples of the coarsest stride."""
        return self.strides[-1]


class CSPDarknetBackbone(CSPDarknet, Backbone):
    """YOLOX's CSPDarknet as a Detectron2 backbone: maps at strides 8, 16 and 32."""

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each map by its name."""
        return _specs(super().output_shape())

    @property
    def size_divisibility(self) -> int:
        """Sides of the input are multiples of the coarsest stride."""
        return 32


def _specs(shapes: dict[str, Any]) -> dict[str, ShapeSpec]:
    return {n: ShapeSpec(channels=s.channels, stride=s.stride) for n, s in shapes.items()}


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: Any, input_shape: ShapeSpec) -> Backbone:
    """Build the timm model that ``MODEL.TIMM`` describes, with maps at strides 4 to 32."""
    return timm_backbone(cfg, STRIDES, in_channels=input_shape.channels)


def timm_backbone(
    cfg: Any,
    strides: Sequence[int],
    name: str = "",
    key: str = "MODEL.TIMM.NAME",
    in_channels: int = 0,
) -> TimmBackbone:
    """Build a timm model with the weights that ``MODEL.TIMM`` asks for.

    Args:
        cfg: the config.
        strides: of the maps, ascending.
        name: of the model, instead of ``MODEL.TIMM.NAME``.
        key: config key of the name, for the errors.
        in_channels: of the image; 0 takes the entries of ``MODEL.PIXEL_MEAN``.
    """
    own = cfg.MODEL.TIMM
    return TimmBackbone(
        name or own.NAME,
        in_channels or len(cfg.MODEL.PIXEL_MEAN),
        own.PRETRAINED,
        own.CHECKPOINT,
        own.DROP_PATH_RATE,
        tuple(strides),
        key,
        own.NORM_EVAL,
    )


@BACKBONE_REGISTRY.register()
def build_csp_darknet_backbone(cfg: Any, input_shape: ShapeSpec) -> Backbone:
    """Build YOLOX's backbone in the size that ``MODEL.VSM.DEPTH`` and ``WIDTH`` give."""
    own = cfg.MODEL.VSM
    return CSPDarknetBackbone(own.DEPTH, own.WIDTH, input_shape.channels)


@BACKBONE_REGISTRY.register()
def build_d2_swin_backbone(cfg: Any, input_shape: ShapeSpec) -> Backbone:
    """Build Detectron2's own Swin Transformer as ``MODEL.D2_SWIN`` describes.

    Raises:
        UnknownPartError: Detectron2 itself is not installed.
    """
    own = cfg.MODEL.D2_SWIN
    backbone = _of_detectron2("swin", "build_d2_swin_backbone").SwinTransformer(
        in_chans=input_shape.channels,
        embed_dim=own.EMBED_DIM,
        depths=tuple(own.DEPTHS),
        num_heads=tuple(own.NUM_HEADS),
        window_size=own.WINDOW_SIZE,
        drop_path_rate=own.DROP_PATH_RATE,
    )
    backbone._size_divisibility = 32  # Detectron2 writes it under another name than it reads
    return backbone


@BACKBONE_REGISTRY.register()
def build_d2_vitdet_backbone(cfg: Any, input_shape: ShapeSpec) -> Backbone:
    """Build Detectron2's own ViT with a simple feature pyramid as ``MODEL.D2_VITDET`` describes.

    Blocks attend in windows, but for those in ``GLOBAL_BLOCKS`` (Li et al., ECCV 2022).

    Raises:
        UnknownPartError: Detectron2 itself is not installed.
    """
    own, module = cfg.MODEL.D2_VITDET, _of_detectron2("vit", "build_d2_vitdet_backbone")
    vit = module.ViT(
        img_size=own.IMAGE_SIZE,
        in_chans=input_shape.channels,
        embed_dim=own.EMBED_DIM,
        depth=own.DEPTH,
        num_heads=own.NUM_HEADS,
        drop_path_rate=own.DROP_PATH_RATE,
        window_size=own.WINDOW_SIZE,
        window_block_indexes=[i for i in range(own.DEPTH) if i not in own.GLOBAL_BLOCKS],
        use_rel_pos=True,
    )
    return module.SimpleFeaturePyramid(
        vit, "last_feat", own.OUT_CHANNELS, scale_factors=(4.0, 2.0, 1.0, 0.5)
    )


def _of_detectron2(module: str, name: str) -> Any:
    """Import one of Detectron2's backbones, which the stand-in does not have."""
    try:
        return importlib.import_module(f"detectron2.modeling.backbone.{module}")
    except ImportError as error:
        raise _needs_detectron2(name, str(error)) from error


def _needs_detectron2(name: str, why: str = "") -> UnknownPartError:
    if uses_standin():
        why = "the stand-in has none of its backbones"
    return UnknownPartError(
        f"MODEL.BACKBONE.NAME {name!r} needs Detectron2 itself ({why}); install it, or take "
        f"{TIMM_BUILDER}"
    )


def build_backbone(cfg: Any, strides: Sequence[int] = STRIDES) -> Backbone:
    """Build the backbone that ``MODEL.BACKBONE.NAME`` names.

    Args:
        cfg: the config.
        strides: that the model reads; a timm model is built to the last of them. Stride 2 may be
            missing (:class:`~iaunet_d2.networks.stem.StemmedMaps`).

    Raises:
        UnknownPartError: the name is not registered, or what is does not build a backbone.
        MissingStrideError: the backbone has no map at one of the strides.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if name in KEYS_OF_MAPS and name not in BACKBONE_REGISTRY:
        raise _needs_detectron2(name)
    builder = registered(BACKBONE_REGISTRY, name, "MODEL.BACKBONE.NAME")
    if name == TIMM_BUILDER:
        return timm_backbone(cfg, strides)
    _check_maps_of_resnet(cfg, strides)
    backbone = builder(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
    if not isinstance(backbone, Backbone):
        raise UnknownPartError(
            f"MODEL.BACKBONE.NAME {name!r} built a {type(backbone).__name__}, which is no "
            "detectron2.modeling.Backbone"
        )
    shapes = backbone.output_shape()
    there = {shape.stride for shape in shapes.values()}
    read = maps_at(shapes, [stride for stride in strides if stride != 2 or 2 in there]).names
    if set(read) != set(shapes):
        _freeze_unread(backbone, read, len(cfg.MODEL.PIXEL_MEAN))
    return backbone


def _check_maps_of_resnet(cfg: Any, strides: Sequence[int]) -> None:
    """Name the keys that choose the maps of Detectron2's ResNets; its defaults give stride 16."""
    name, coarse = cfg.MODEL.BACKBONE.NAME, [stride for stride in strides if stride > 2]
    asked = {key: list(_value(cfg, key)) for key in KEYS_OF_MAPS.get(name, ())}
    for key, names in asked.items():
        if missing := [stride for stride in coarse if map_name(stride) not in names]:
            needed = [map_name(stride) for stride in coarse]
            raise MissingStrideError(
                f"MODEL.BACKBONE.NAME {name!r} has no map at stride {missing[0]}: {key} is "
                f"{names}; the model needs strides {tuple(coarse)}: set "
                + " and ".join(f'{each} "{needed}"' for each in asked)
            )


def _value(cfg: Any, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), cfg)


def _freeze_unread(backbone: Backbone, names: Sequence[str], channels: int) -> None:
    """Turn gradients off, in place, of parameters that only other maps than these depend on.

    With several processes PyTorch waits for a gradient of every parameter that asks for one.
    """
    modes = [(module, module.training) for module in backbone.modules()]
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    asked = (getattr(backbone, "size_divisibility", 0), *backbone.padding_constraints.values())
    side = math.lcm(STRIDES[-1], *(value for value in asked if value > 0))
    try:
        backbone.eval()  # draws no random number, and keeps statistics
        maps = backbone(torch.zeros(1, channels, side, side))
    finally:
        for module, mode in modes:
            module.training = mode
    read = torch.stack([maps[name].sum() for name in names]).sum()
    if not read.requires_grad:
        return
    gradients = torch.autograd.grad(read, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
