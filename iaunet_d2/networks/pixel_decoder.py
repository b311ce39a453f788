"""The pixel decoder of IAUNet (section 3.1) and its light mask head (section 3.2.3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import (
    ConvBlock,
    SqueezeExcitation,
    coordinate_channels,
    init_kaiming,
    init_normal,
    upsample,
)


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

    Raises:
        ValueError: unknown ``skip`` or ``residual``.
    """

    def __init__(
        self,
        skip_dim: int,
        coarser_dim: int,
        dim: int,
        coord_conv: bool = True,
        se_reduction: int = 2,
        skip: str = "concat",
        residual: str = "projection",
        separable: bool = True,
    ) -> None:
        super().__init__()
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
            raised = upsample(torch.cat(entering, dim=1), like=skip)
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

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block = ConvBlock(dim, dim, separable=False)
        init_kaiming(self.block)

    def forward(self, main: Tensor, coarser: Tensor | None = None) -> Tensor:
        """Main features (B, C, H, W) and the coarser level's mask features to (B, C, H, W)."""
        return self.block(main if coarser is None else upsample(coarser, like=main).add_(main))


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


class PixelDecoder(nn.Module):
    """Three levels (strides 32, 16, 8), each with a mask branch, and the mask head (stride 4).

    Args:
        in_channels: channels of the backbone's maps, finest (stride 4) first.
        dim: channels of everything that leaves.
        mask_branch: separate mask features; without it the main features take their place (Table
            4).
        coord_conv, se_reduction, skip, residual, separable: see :class:`DecoderLevel`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        dim: int = 256,
        mask_branch: bool = True,
        coord_conv: bool = True,
        se_reduction: int = 2,
        skip: str = "concat",
        residual: str = "projection",
        separable: bool = True,
    ) -> None:
        super().__init__()
        finest, *rest = in_channels
        deepest_first = rest[::-1]
        self.skips = nn.ModuleList(nn.Conv2d(channels, dim, 1) for channels in deepest_first)
        for conv in self.skips:
            init_normal(conv)
        self.levels = nn.ModuleList(
            DecoderLevel(
                dim, dim * (i > 0), dim, coord_conv, se_reduction, skip, residual, separable
            )
            for i in range(len(deepest_first))
        )
        self.mask_branches = nn.ModuleList(MaskBranch(dim) for _ in deepest_first if mask_branch)
        self.mask_head = MaskHead(finest, dim)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Backbone maps, finest first, to the levels' mask features and the mask head's map.

        Returns:
            three tensors (B, C, H/s, W/s) with s = 32, 16, 8, and one (B, C, H/4, W/4).
        """
        main: Tensor | None = None
        mask: Tensor | None = None
        levels = []
        for i, features in enumerate(reversed(maps[1:])):
            main = self.levels[i](self.skips[i](features), main)
            mask = self.mask_branches[i](main, mask) if self.mask_branches else main
            levels.append(mask)
        return levels, self.mask_head(maps[0], levels[-1])
