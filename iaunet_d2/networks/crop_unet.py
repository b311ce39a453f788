"""The U-Net that segments one cell in the crop around it (VSM, section 2.2.2).

Paper: "A versatile semi-supervised model for cell instance segmentation", NeurIPS 2022 CellSeg. It
says only "U-Net"; its counts (29.06 M parameters, 3.18 GMAC at 64 x 64) are those of its code's
"U-Net s5-d16" with an ASPP head (Chen et al., https://arxiv.org/abs/1706.05587) and an auxiliary
head, which is what stands here.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import init_kaiming

STAGES = 5
CLASSES = 2  # background, cell


@dataclass(frozen=True)
class CropUNetSettings:
    """Sizes of the network; the defaults are the paper's.

    Attributes:
        in_channels: of the crops.
        width: channels of the first stage; each further one has twice as many.
        aspp_width: channels of each branch of the ASPP head, and of their fusion.
        aspp_rates: dilation of its branches; 1 is a 1x1 convolution.
        aux_width: channels of the auxiliary head; 0 leaves it out.
        dropout: of whole maps in front of the classifiers.
    """

    in_channels: int = 3
    width: int = 64
    aspp_width: int = 16
    aspp_rates: tuple[int, ...] = (1, 12, 24, 36)
    aux_width: int = 64
    dropout: float = 0.1


@dataclass
class CropLogits:
    """What the network gives for crops (B, C, S, S).

    Attributes:
        main: (B, 2, S, S), background and cell.
        aux: (B, 2, S/2, S/2) of the auxiliary head; None without one, and at inference.
    """

    main: Tensor
    aux: Tensor | None


class CropUNet(nn.Module):
    """U-Net of five stages down to 1/16.

    The auxiliary head is for the loss alone: it is computed where ``forward`` is asked for it.

    Args:
        settings: sizes.
    """

    STRIDE = 2 ** (STAGES - 1)

    def __init__(self, settings: CropUNetSettings | None = None) -> None:
        super().__init__()
        own = settings or CropUNetSettings()
        widths = [own.width * 2**i for i in range(STAGES)]
        ins = [own.in_channels, *widths]
        self.encoder = nn.ModuleList(_two_convs(a, b) for a, b in zip(ins, widths, strict=False))
        self.decoder = nn.ModuleList(_Up(widths[i + 1], widths[i]) for i in (3, 2, 1, 0))
        self.head = _ASPPHead(own.width, own.aspp_width, own.aspp_rates, own.dropout)
        self.aux_head = _aux_head(2 * own.width, own) if own.aux_width else None
        init_kaiming(self)
        for layer in self.modules():
            if isinstance(layer, _Classifier):
                nn.init.normal_(layer.weight, std=0.01)

    def forward(self, crops: Tensor, with_aux: bool = False) -> CropLogits:
        """Classify the pixels of crops.

        Args:
            crops: (B, C, S, S), S divisible by 16.
            with_aux: compute the auxiliary head, if there is one.

        Raises:
            ValueError: S is not divisible by 16.
        """
        if crops.shape[-1] % self.STRIDE or crops.shape[-2] % self.STRIDE:
            raise ValueError(
                f"crops of {crops.shape[-2]} x {crops.shape[-1]} pixels; both sides must be "
                f"divisible by {self.STRIDE}"
            )
        skips = []
        x = crops
        for i, stage in enumerate(self.encoder):
            x = stage(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        half = x
        for up, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            half, x = x, up(x, skip)  # the last one's input is at 1/2
        aux = self.aux_head(half) if with_aux and self.aux_head is not None else None
        return CropLogits(self.head(x), aux)


class CropNorm(nn.BatchNorm2d):
    """Batch normalisation of maps that may be a single pixel.

    One value per channel has no variance, and torch refuses to train on it: a batch of one crop
    after global pooling, or of 16 x 16 at 1/16. Running statistics then take the place of the
    batch's, and are left as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


class _Classifier(nn.Conv2d):
    """1x1 convolution that starts undecided."""


class _ASPPHead(nn.Module):
    """Parallel dilated convolutions and global pooling, fused, and a classifier."""

    def __init__(self, channels: int, width: int, rates: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.pooled = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), CropNorm(width), nn.ReLU(inplace=True)
        )
        self.branches = nn.ModuleList(
            _conv(channels, width, 1 if rate == 1 else 3, rate) for rate in rates
        )
        self.fusion = _conv((len(rates) + 1) * width, width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _Classifier(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2, H, W)."""
        pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        fused = self.fusion(torch.cat([pooled, *(branch(x) for branch in self.branches)], dim=1))
        return self.classifier(self.dropout(fused))


class _Up(nn.Module):
    """Bilinear x2, 1x1 convolution, concatenation with the skip connection, two convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = _conv(in_channels, out_channels, 1)
        self.convs = _two_convs(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, H, W) and (B, C/2, 2H, 2W) -> (B, C/2, 2H, 2W)."""
        raised = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.convs(torch.cat([skip, self.reduce(raised)], dim=1))


def _conv(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias at the same size, BatchNorm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False
        ),
        CropNorm(out_channels),
        nn.ReLU(inplace=True),
    )


def _two_convs(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(_conv(in_channels, out_channels, 3), _conv(out_channels, out_channels, 3))


def _aux_head(channels: int, settings: CropUNetSettings) -> nn.Sequential:
    """3x3 convolution and classifier on the map at 1/2: (B, C, S/2, S/2) -> (B, 2, S/2, S/2)."""
    return nn.Sequential(
        _conv(channels, settings.aux_width, 3),
        nn.Dropout2d(settings.dropout),
        _Classifier(settings.aux_width, CLASSES, 1),
    )
