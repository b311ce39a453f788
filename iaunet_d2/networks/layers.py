"""Building blocks of the pixel decoder (IAUNet, CVPRW 2025, section 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def coordinate_channels(features: Tensor) -> Tensor:
    """x and y from -1 to 1 at every position (CoordConv): (B, C, H, W) -> (B, 2, H, W)."""
    batch, _, height, width = features.shape
    y = torch.linspace(-1, 1, height, dtype=features.dtype, device=features.device)
    x = torch.linspace(-1, 1, width, dtype=features.dtype, device=features.device)
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    return grid.expand(batch, -1, -1, -1)


def upsample(features: Tensor, like: Tensor, align_corners: bool = True) -> Tensor:
    """Bilinear, to the size of ``like``: (B, C, h, w) -> (B, C, H, W).

    With corners aligned a place moves by up to half a pixel of the coarse map, depending on where
    in the image it is.
    """
    size = like.shape[-2:]
    return F.interpolate(features, size=size, mode="bilinear", align_corners=align_corners)


class ConvBlock(nn.Sequential):
    """Two (3x3 convolution, BatchNorm, ReLU); depthwise-separable convolutions on request."""

    def __init__(self, in_channels: int, out_channels: int, separable: bool) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            if separable:
                layers.append(nn.Conv2d(channels, channels, 3, padding=1, groups=channels))
                layers.append(nn.Conv2d(channels, out_channels, 1))
            else:
                layers.append(nn.Conv2d(channels, out_channels, 3, padding=1))
            layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from all channels' means (Hu et al., 2018)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, channels // reduction)
        self.expand = nn.Linear(channels // reduction, channels)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        means = features.mean(dim=(2, 3))
        gate = self.expand(F.relu(self.reduce(means))).sigmoid()
        return features * gate[:, :, None, None]


def init_normal(module: nn.Module, std: float = 0.01) -> None:
    """Convolution and linear weights from N(0, std), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_kaiming(module: nn.Module) -> None:
    """Convolution weights from He's normal distribution over the fan-out, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_xavier(module: nn.Module) -> None:
    """Every matrix from Glorot's uniform distribution; biases and norms are left."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
