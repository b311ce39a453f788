"""IAU-net's network: a residual U-net with attention gates and a deformable last layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from .attention_gate import build_gate, joined
from .maps import ShapedBackbone
from .stem import StemmedMaps

WIDTHS = (64, 128, 256, 512, 1024)


class DeformableConv(nn.Module):
    """A 3x3 convolution that reads where it wants to (IAU-net, equation 3; Dai et al. 2017).

    An ordinary 3x3 convolution predicts one offset per pixel and tap, without modulation. It starts
    at zero, so at first this is an ordinary convolution.

    Args:
        in_channels, out_channels: of the convolution, which has no bias.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(in_channels, 2 * 3 * 3, 3, padding=1)
        self.conv = DeformConv2d(in_channels, out_channels, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        # The kernel reads outside of memory where an offset is no number, and zeros where it is
        # infinite. What made it so is in the features, too, and without the offset it is read.
        offsets = self.offsets(features).float().nan_to_num(0, 0, 0)
        # Half precision has no fractions of a pixel far away, and no kernel on every device.
        with torch.autocast(device_type=features.device.type, enabled=False):
            return self.conv(features.float(), offsets)


class ResidualUnit(nn.Module):
    """3x3, BatchNorm, ReLU, 3x3, BatchNorm, plus a shortcut, ReLU (He et al. 2016).

    Args:
        in_channels, out_channels: where they differ, the shortcut is a 1x1 convolution with
            BatchNorm.
        deformable: the second convolution is deformable.
    """

    def __init__(self, in_channels: int, out_channels: int, deformable: bool = False) -> None:
        super().__init__()
        second = (
            DeformableConv(out_channels, out_channels)
            if deformable
            else nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        )
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            second,
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        return (self.body(features) + self.shortcut(features)).relu()


class DecoderLevel(nn.Module):
    """Upsampling, attention gate, concatenation with the skip, residual unit.

    Args:
        in_channels: of the level below.
        channels: of this level and of its skip.
        gate: see :func:`~.attention_gate.build_gate`.
        deformable: see :class:`ResidualUnit`.
    """

    def __init__(self, in_channels: int, channels: int, gate: str, deformable: bool) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, channels, 2, stride=2)
        self.gate = build_gate(gate, channels)
        self.unit = ResidualUnit(2 * channels, channels, deformable)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(B, C', H / 2, W / 2) and (B, C, H, W) -> (B, C, H, W)."""
        return self.unit(joined(self.gate, self.upsample(below), skip))


class AttentionUNet(nn.Module):
    """The improved attention U-net (Liu et al., "Attention U-net for Cell Instance Segmentation").

    The paper names residual units, upsampling modules, attention gates after them and a deformable
    convolution in the decoder's last layer. Numbers of levels and channels, the way of upsampling,
    the order of layers in a unit, and the initialisation are not given: they are those of the U-net
    with the residual units of ResNet, max pooling between levels and He's initialisation.

    Args:
        in_channels: of the image.
        out_channels: of the prediction.
        widths: channels per level, the finest first; each level halves the resolution.
        gate: "literal", "oktay" or "none".
        deformable: the second convolution of the last unit is deformable.
        backbone: maps at strides 2, 4, ..., one for each level but the finest, in place of the
            encoder's own; their channels are the widths. Where it lacks stride 2, a convolution of
            the image makes that map.

    Raises:
        ValueError: fewer than two widths.
        MissingStrideError: the backbone lacks one of the strides from 4 on.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        widths: Sequence[int] = WIDTHS,
        gate: str = "literal",
        deformable: bool = True,
        backbone: ShapedBackbone | None = None,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths {tuple(widths)}: a U-net has two levels or more")
        own = tuple(widths)
        self.maps: StemmedMaps | None = None
        if backbone is not None:
            strides = [2**level for level in range(1, len(own))]
            self.maps = StemmedMaps(backbone.output_shape(), strides, in_channels)
            own, widths = own[:1], (widths[0], *self.maps.channels)
        self.encoder = nn.ModuleList(
            ResidualUnit(before, after)
            for before, after in zip((in_channels, *own), own, strict=False)
        )
        self.backbone = backbone
        self.pool = nn.MaxPool2d(2)
        self.decoder = nn.ModuleList(
            DecoderLevel(widths[i + 1], widths[i], gate, deformable and i == 0)
            for i in reversed(range(len(widths) - 1))
        )
        self.head = nn.Conv2d(widths[0], out_channels, 1)
        for part in (self.encoder, self.decoder, self.head):  # a backbone has its own weights
            part.apply(_init)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits of images (B, C, H, W): (B, C', H, W).

        Raises:
            ValueError: a side is not divisible by 2 ** (levels - 1).
        """
        step = 2 ** len(self.decoder)
        if images.shape[-2] % step or images.shape[-1] % step:
            raise ValueError(
                f"images of {images.shape[-2]} x {images.shape[-1]} pixels; both sides must be "
                f"multiples of {step}"
            )
        features, skips = images, []
        for level, unit in enumerate(self.encoder):
            features = unit(self.pool(features) if level else features)
            skips.append(features)
        if self.backbone is not None and self.maps is not None:
            skips.extend(self.maps(images, self.backbone(images)))
        features = skips[-1]
        for unit, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            features = unit(features, skip)
        return self.head(features)


def _init(module: nn.Module) -> None:
    """He's initialisation over the fan-in; predicted offsets start at zero."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | DeformConv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    # Called after its children.
    if isinstance(module, DeformableConv):
        for parameter in module.offsets.parameters():
            nn.init.zeros_(parameter)
