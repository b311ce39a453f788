"""Maps from stride 2 on, also of backbones whose finest map is at stride 4."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .maps import maps_at

STEM_CHANNELS = 64  # as many as a ResNet has at this stride


class StemmedMaps(nn.Module):
    """Select the maps of a backbone by stride, and make the one at stride 2 where it has none.

    U-nets that end at the image's size read stride 2, which Detectron2's backbones do not give: a
    3x3 convolution of the image with stride 2, batch norm and ReLU takes its place. With a backbone
    that has the map there is nothing to learn here.

    Args:
        shapes: of the backbone's maps, see :func:`~.maps.maps_at`.
        strides: ascending, from 2 on.
        in_channels: of the image.

    Attributes:
        channels: of the maps, finest first.

    Raises:
        MissingStrideError: the backbone lacks a stride above 2.
    """

    def __init__(self, shapes: Mapping[str, Any], strides: Sequence[int], in_channels: int) -> None:
        super().__init__()
        missing = strides[0] == 2 and all(shape.stride != 2 for shape in shapes.values())
        self.selection = maps_at(shapes, strides[1:] if missing else strides)
        self.channels = list(self.selection.channels)
        self.stem: nn.Module | None = None
        if missing:
            self.channels = [STEM_CHANNELS, *self.channels]
            self.stem = nn.Sequential(
                nn.Conv2d(in_channels, STEM_CHANNELS, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(STEM_CHANNELS),
                nn.ReLU(inplace=True),
            )

    def forward(self, images: Tensor, maps: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the maps, finest first, of images (B, C, H, W) and the backbone's output."""
        selected = self.selection.of(maps)
        return selected if self.stem is None else [self.stem(images), *selected]
