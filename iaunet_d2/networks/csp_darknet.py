"""CSPDarknet, the backbone of YOLOX (Ge et al., 2021, https://arxiv.org/abs/2107.08430).

Cross-stage partial blocks: Wang et al., CVPR workshops 2020, https://arxiv.org/abs/1911.11929.
The sizes of the family differ in two numbers: a depth (blocks per stage) and a width (channels).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .maps import map_shapes

BATCH_NORM_EPS = 1e-3
SPP_SIZES = (5, 9, 13)


def scaled_depth(depth: float) -> int:
    """Bottlenecks of a short stage, at least one: three of a network of depth 1."""
    return max(round(3 * depth), 1)


def scaled_width(channels: int, width: float) -> int:
    """Channels of a layer that has ``channels`` in the network of width 1."""
    return int(channels * width)


def space_to_depth(images: Tensor) -> Tensor:
    """Each 2x2 block's pixels as channels, none lost: (B, C, H, W) -> (B, 4 C, H / 2, W / 2).

    The order is upper left, lower left, upper right, lower right, as in the published weights.
    """
    left, right = images[..., 0::2], images[..., 1::2]
    corners = [half[..., row::2, :] for half in (left, right) for row in (0, 1)]
    return torch.cat(corners, dim=1)


class ConvUnit(nn.Sequential):
    """Convolution without bias, BatchNorm, SiLU; the size stays the same but for the stride."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS),
            nn.SiLU(inplace=True),
        )


class Bottleneck(nn.Module):
    """1x1 and 3x3 convolution of the same width, added to the input if ``shortcut``."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvUnit(channels, channels, 1), ConvUnit(channels, channels, 3))
        self.shortcut = shortcut

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out = self.convs(features)
        return features + out if self.shortcut else out


class CSPLayer(nn.Module):
    """Bottlenecks on one half of the channels, the other half goes past them.

    Args:
        in_channels, out_channels: of the maps; each half is ``out_channels // 2`` wide.
        blocks: number of bottlenecks.
        shortcut: whether these are residual.
    """

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, shortcut: bool = True
    ) -> None:
        super().__init__()
        half = out_channels // 2
        self.enter = ConvUnit(in_channels, half, 1)
        self.past = ConvUnit(in_channels, half, 1)
        self.blocks = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(blocks)))
        self.leave = ConvUnit(2 * half, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)."""
        halves = [self.blocks(self.enter(features)), self.past(features)]
        return self.leave(torch.cat(halves, dim=1))


class SpatialPyramidPooling(nn.Module):
    """Maxima over growing windows beside the map itself: context of many sizes at once.

    He et al., 2014, https://arxiv.org/abs/1406.4729, in the form of YOLOv3-SPP: stride 1.
    """

    def __init__(self, channels: int, sizes: Sequence[int] = SPP_SIZES) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.enter = ConvUnit(channels, channels // 2, 1)
        self.leave = ConvUnit(channels // 2 * (len(self.sizes) + 1), channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        features = self.enter(features)
        pooled = [F.max_pool2d(features, size, 1, size // 2) for size in self.sizes]
        return self.leave(torch.cat([features, *pooled], dim=1))


class CSPDarknet(nn.Module):
    """Maps at strides 8, 16 and 32.

    Convolutions start from PyTorch's initial weights, as YOLOX trains them.

    Args:
        depth, width: size of the network; 1 and 1 is YOLOX-L.
        in_channels: of the images.

    Attributes:
        channels: of the three maps.
    """

    def __init__(self, depth: float, width: float, in_channels: int = 3) -> None:
        super().__init__()
        blocks = scaled_depth(depth)
        base = scaled_width(64, width)
        c4, c8, c16, c32 = (base * factor for factor in (2, 4, 8, 16))
        self.channels = (c8, c16, c32)
        self.stem = ConvUnit(4 * in_channels, base, 3)
        self.stage4 = nn.Sequential(ConvUnit(base, c4, 3, 2), CSPLayer(c4, c4, blocks))
        self.stage8 = nn.Sequential(ConvUnit(c4, c8, 3, 2), CSPLayer(c8, c8, 3 * blocks))
        self.stage16 = nn.Sequential(ConvUnit(c8, c16, 3, 2), CSPLayer(c16, c16, 3 * blocks))
        self.stage32 = nn.Sequential(
            ConvUnit(c16, c32, 3, 2),
            SpatialPyramidPooling(c32),
            CSPLayer(c32, c32, blocks, shortcut=False),
        )

    def output_shape(self) -> dict[str, Any]:
        """Return channels and stride of each map by its name."""
        return dict(map_shapes(self.channels, (8, 16, 32)))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Turn images (B, C, H, W), H and W divisible by 32, into maps at strides 8, 16 and 32."""
        at8 = self.stage8(self.stage4(self.stem(space_to_depth(images))))
        at16 = self.stage16(at8)
        return {"res3": at8, "res4": at16, "res5": self.stage32(at16)}
