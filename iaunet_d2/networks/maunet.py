"""MAUNet: one encoder, two decoders, for classes of pixels and for distances (Li et al., NeurIPS
2022 cell segmentation challenge).

Blocks are those of MONAI (https://github.com/Project-MONAI/MONAI, ``UnetResBlock`` and
``UnetrUpBlock``), which the authors took, written anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .maps import ShapedBackbone
from .stem import StemmedMaps

SLOPE = 0.01
"""Of the leaky ReLU."""

MIN_SIDE = 64
"""Instance normalisation needs more than one pixel, at stride 32 too."""


@dataclass
class MAUNetOutput:
    """What the two decoders say of a batch.

    Attributes:
        class_logits: (B, K + 3, H, W): background, the interiors of K classes, boundary, and the
            anti-ambiguity proxy, which no pixel has as its target.
        distance: (B, H, W), the distance field: near 1 in the middle of a cell, 0 outside.
    """

    class_logits: Tensor
    distance: Tensor

    def joined(self) -> Tensor:
        """Both as one tensor, the distance last: (B, K + 4, H, W)."""
        return torch.cat([self.class_logits, self.distance[:, None]], dim=1)

    def take(self, images: slice) -> "MAUNetOutput":
        """Of some images of the batch."""
        return MAUNetOutput(self.class_logits[images], self.distance[images])


class ResidualBlock(nn.Module):
    """3x3, norm, leaky ReLU, 3x3, norm, plus the input (1x1 and norm if widths differ), leaky ReLU.

    Norms are instance normalisation without learned scale, convolutions have no bias.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.InstanceNorm2d(out_channels)
        self.shortcut = (
            nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.InstanceNorm2d(out_channels),
            )
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        inner = F.leaky_relu(self.norm(self.conv1(features)), SLOPE)
        inner = self.norm(self.conv2(inner))
        return F.leaky_relu(inner + self.shortcut(features), SLOPE)


class UpBlock(nn.Module):
    """Twice the size by a transposed convolution, the skip connection beside it, residual block."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=False)
        self.block = ResidualBlock(2 * out_channels, out_channels)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """(B, C_in, H, W) and (B, C_out, 2H, 2W) -> (B, C_out, 2H, 2W)."""
        return self.block(torch.cat([self.up(features), skip], dim=1))


class Decoder(nn.Module):
    """Up blocks from the deepest map to the image's size.

    Args:
        widths: channels of the skip connections, the image's size first.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        pairs = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.blocks = nn.ModuleList(UpBlock(deep, shallow) for deep, shallow in pairs)

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, H/2^i, W/2^i) -> (B, C_0, H, W)."""
        features = skips[-1]
        for block, skip in zip(self.blocks, skips[-2::-1], strict=True):
            features = block(features, skip)
        return features


class MAUNetwork(nn.Module):
    """The network (section 2.2): both decoders see the same maps, and share no weights.

    Widths are ``width`` at strides 1 and 2, then twice as many with every stride. The paper gives
    none; 24 has exactly its numbers of parameters.

    Args:
        backbone: maps at strides 2, 4, 8 and so on; where it lacks stride 2, a convolution of the
            image makes that map.
        num_classes: K.
        width: channels of the image-sized maps.
        in_channels: of the image.
        last_stride: of the coarsest map that is read, 8, 16 or 32.

    Raises:
        MissingStrideError: the backbone lacks one of the strides from 4 to the last.
    """

    def __init__(
        self,
        backbone: ShapedBackbone,
        num_classes: int = 1,
        width: int = 24,
        in_channels: int = 3,
        last_stride: int = 32,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        strides = [stride for stride in (2, 4, 8, 16, 32) if stride <= last_stride]
        self.maps = StemmedMaps(backbone.output_shape(), strides, in_channels)
        channels = [in_channels, *self.maps.channels]
        widths = [width * 2 ** max(level - 1, 0) for level in range(len(channels))]
        self.skips = nn.ModuleList(
            ResidualBlock(c, w) for c, w in zip(channels, widths, strict=True)
        )
        self.class_decoder = Decoder(widths)
        self.distance_decoder = Decoder(widths)
        self.class_head = nn.Conv2d(width, num_classes + 3, 1)
        self.distance_head = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> MAUNetOutput:
        """Images (B, C, H, W), sides divisible by the last stride and at least ``MIN_SIDE``."""
        maps = [images, *self.maps(images, self.backbone(images))]
        skips = [skip(m) for skip, m in zip(self.skips, maps, strict=True)]
        class_logits = self.class_head(self.class_decoder(skips))
        distance = self.distance_head(self.distance_decoder(skips))
        return MAUNetOutput(class_logits, distance[:, 0])


class MAUNetEnsemble(nn.Module):
    """Several networks for the same images, whose logits are averaged (section 3, Table 1)."""

    def __init__(self, members: Sequence[MAUNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> list[MAUNetOutput]:
        """One output per member."""
        return [member(images) for member in self.members]


def outputs_of(network: nn.Module, images: Tensor) -> list[MAUNetOutput]:
    """One output per member; a single network is its only one."""
    found = network(images)
    return found if isinstance(found, list) else [found]


def mean_output(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of classes and the distance, averaged over the members: (B, K + 4, H, W)."""
    joined = [output.joined().float() for output in outputs_of(network, images)]
    return torch.stack(joined).mean(dim=0) if len(joined) > 1 else joined[0]
