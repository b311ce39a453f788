"""Pixel decoders: that of IAUNet (section 3.1) with its light mask head (3.2.3), and an FPN."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from .layers import (
    ConvBlock,
    SqueezeExcitation,
    coordinate_channels,
    init_kaiming,
    init_normal,
    upsample,
)
from .maps import MapShape, maps_at

MASK_FEATURES = "mask_features"
"""Name of the mask features in a pixel decoder's ``output_shape()``."""


class DecoderLevel(nn.Module):
    """One decoder level: ``X = SE(G_x([X', S]) + shortcut)`` (equation 1).

    Args:
        skip_dim: channels of the skip connection.
        coarser_dim: of the features from the coarser level; 0 where there is no coarser level, and
            the block sees the skip connection alone.
        dim: of the result. ``skip="add"`` and ``residual="identity"`` need one number for all.
        coord_conv: put two coordinate channels in front of the features that enter the block.
        se_reduction: reduction of squeeze-and-excitation; 0 leaves it out.
        skip: ``concat`` or ``add`` the skip connection to the upsampled features.
        residual: ``projection`` of the block's input by a 1x1 convolution, or ``identity``,
            equation 1's ``+ X'``.
        separable: depthwise-separable convolutions in the block.
        align_corners: upsample with corners aligned (as published).

    Raises:
        ValueError: unknown ``skip`` or ``residual``.
    """

    def __init__(
        self,
        skip_dim: int,
        coarser_dim: int,
        dim: int,
        *,
        coord_conv: bool = True,
        se_reduction: int = 2,
        skip: str = "concat",
        residual: str = "projection",
        separable: bool = True,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        if skip not in ("concat", "add"):
            raise ValueError(f"MODEL.IAUNET.SKIP is {skip!r}; it is 'concat' or 'add'")
        if residual not in ("projection", "identity"):
            raise ValueError(
                f"MODEL.IAUNET.RESIDUAL is {residual!r}; it is 'projection' or 'identity'"
            )
        self.coord_conv = coord_conv
        self.concat = skip == "concat" and coarser_dim > 0
        in_channels = (coarser_dim or skip_dim) + 2 * coord_conv + skip_dim * self.concat
        self.block = ConvBlock(in_channels, dim, separable)
        self.shortcut = nn.Conv2d(in_channels, dim, 1) if residual == "projection" else None
        self.se = SqueezeExcitation(dim, se_reduction) if se_reduction else nn.Identity()
        init_normal(self.block)
        if self.shortcut is not None:
            init_normal(self.shortcut)

    def forward(self, skip: Tensor, coarser: Tensor | None = None) -> Tensor:
        """Skip (B, C, H, W) and the coarser main features (B, C', H/2, W/2) to (B, C", H, W)."""
        features = skip if coarser is None else coarser
        entering = [coordinate_channels(features)] if self.coord_conv else []
        entering.append(features)
        if coarser is not None:
            # Coordinates are made on the coarse grid and upsampled with the features, as the
            # authors' code does.
            raised = upsample(torch.cat(entering, dim=1), skip, self.align_corners)
            features = raised[:, -coarser.shape[1] :]
            if self.concat:
                entering = [raised, skip]
            else:
                entering = [raised[:, : -coarser.shape[1]], features + skip]
        block_input = torch.cat(entering, dim=1)
        inner = self.block(block_input)
        if self.shortcut is None:
            return self.se(inner + features)
        return self.se(self.shortcut(block_input).add_(inner))


class MaskBranch(nn.Module):
    """Mask features ``X_m = G_m(X'_m + X)`` of one level (equation 2), G_m two 3x3 convolutions."""

    def __init__(self, dim: int, align_corners: bool = True) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.block = ConvBlock(dim, dim, separable=False)
        init_kaiming(self.block)

    def forward(self, main: Tensor, coarser: Tensor | None = None) -> Tensor:
        """Main features (B, C, H, W) and the coarser level's mask features to (B, C, H, W)."""
        if coarser is None:
            return self.block(main)
        return self.block(upsample(coarser, main, self.align_corners).add_(main))


class MaskHead(nn.Module):
    """Mask features at stride 4, shared by all predictions.

    They come from the finest backbone map and the finest mask features.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.lateral = nn.Sequential(nn.Conv2d(in_channels, dim, 1), nn.BatchNorm2d(dim))
        self.output = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1), nn.BatchNorm2d(dim), nn.ReLU(inplace=True)
        )

    def forward(self, finest: Tensor, mask_features: Tensor) -> Tensor:
        """Maps (B, C_2, H/4, W/4) of the backbone and (B, C, H/8, W/8) to (B, C, H/4, W/4)."""
        raised = F.interpolate(
            mask_features, size=finest.shape[-2:], mode="bilinear", align_corners=False
        )
        # In place here and below: a fresh map of this size costs more than the addition.
        return self.output(raised.add_(self.lateral(finest)))


class PixelDecoder(nn.Module, ABC):
    """Turn a backbone's maps into what queries read, and into mask features.

    A decoder of your own derives from this class, sets both attributes and defines ``forward``.

    Attributes:
        level_channels: of the levels, coarsest first.
        mask_channels: of the mask features.
    """

    level_channels: list[int]
    mask_channels: int

    @abstractmethod
    def forward(self, maps: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """Decode maps by name.

        Returns:
            levels (B, C_i, H/s, W/s) with strides s = 32, 16, 8, and mask features
            (B, C, H/4, W/4).
        """

    def output_shape(self) -> dict[str, MapShape]:
        """Return the shapes of the levels, coarsest first, and then of ``mask_features``."""
        return level_shapes(self.level_channels, self.mask_channels)


def level_shapes(level_channels: Sequence[int], mask_channels: int) -> dict[str, MapShape]:
    """Describe what a pixel decoder gives: levels, coarsest first, and mask features at stride 4.

    A query decoder that is built beside its pixel decoder takes it as ``input_shape``.
    """
    count = len(level_channels)
    strides = [4 << (count - i) for i in range(count)]
    shapes = zip(level_channels, strides, strict=True)
    levels = {f"level{i}": MapShape(*shape) for i, shape in enumerate(shapes)}
    return {**levels, MASK_FEATURES: MapShape(mask_channels, 4)}


class UNetPixelDecoder(PixelDecoder):
    """Three levels (strides 32, 16, 8), each with a mask branch, and the mask head (stride 4).

    Args:
        input_shape: channels and strides of the backbone's maps, by name.
        hidden_dim: channels of everything that leaves.
        mask_branch: separate mask features; without it the main features take their place (Table
            4).
        coord_conv, se_reduction, skip, residual, separable, align_corners: see
            :class:`DecoderLevel`.

    Raises:
        MissingStrideError: a map at stride 4, 8, 16 or 32 is missing.
    """

    def __init__(
        self,
        *,
        input_shape: Mapping[str, Any],
        hidden_dim: int = 256,
        mask_branch: bool = True,
        coord_conv: bool = True,
        se_reduction: int = 2,
        skip: str = "concat",
        residual: str = "projection",
        separable: bool = True,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.maps = maps_at(input_shape)
        finest, *rest = self.maps.channels
        deepest_first = rest[::-1]
        self.level_channels, self.mask_channels = [hidden_dim] * len(rest), hidden_dim
        self.skips = nn.ModuleList(nn.Conv2d(channels, hidden_dim, 1) for channels in deepest_first)
        for conv in self.skips:
            init_normal(conv)
        self.levels = nn.ModuleList(
            DecoderLevel(
                hidden_dim,
                hidden_dim * (i > 0),
                hidden_dim,
                coord_conv=coord_conv,
                se_reduction=se_reduction,
                skip=skip,
                residual=residual,
                separable=separable,
                align_corners=align_corners,
            )
            for i in range(len(deepest_first))
        )
        self.mask_branches = nn.ModuleList(
            MaskBranch(hidden_dim, align_corners) for _ in deepest_first if mask_branch
        )
        self.mask_head = MaskHead(finest, hidden_dim)

    def forward(self, maps: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """Decode a backbone's maps into the levels' mask features and the mask head's map.

        Returns:
            three tensors (B, C, H/s, W/s) with s = 32, 16, 8, and one (B, C, H/4, W/4).
        """
        finest, *rest = self.maps.of(maps)
        main: Tensor | None = None
        mask: Tensor | None = None
        levels = []
        for i, features in enumerate(reversed(rest)):
            main = self.levels[i](self.skips[i](features), main)
            mask = self.mask_branches[i](main, mask) if self.mask_branches else main
            levels.append(mask)
        return levels, self.mask_head(finest, levels[-1])


class PyramidPixelDecoder(PixelDecoder):
    """Decode by a feature pyramid network (Lin et al., CVPR 2017), torchvision's.

    The levels are its maps at strides 32, 16 and 8; a 3x3 convolution of the one at stride 4 gives
    the mask features, as in the basic pixel decoder of MaskFormer (Cheng et al., NeurIPS 2021).

    Args:
        input_shape: channels and strides of the backbone's maps, by name.
        hidden_dim: channels of everything that leaves.

    Raises:
        MissingStrideError: a map at stride 4, 8, 16 or 32 is missing.
    """

    def __init__(self, *, input_shape: Mapping[str, Any], hidden_dim: int = 256) -> None:
        super().__init__()
        self.maps = maps_at(input_shape)
        count = len(self.maps.names) - 1
        self.level_channels, self.mask_channels = [hidden_dim] * count, hidden_dim
        self.pyramid = FeaturePyramidNetwork(list(self.maps.channels), hidden_dim)
        self.mask_head = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1)

    def forward(self, maps: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """Decode a backbone's maps; see :meth:`PixelDecoder.forward`."""
        named = OrderedDict((str(i), m) for i, m in enumerate(self.maps.of(maps)))
        finest, *rest = self.pyramid(named).values()
        return rest[::-1], self.mask_head(finest)
