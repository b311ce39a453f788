"""The shape of a feature map, as backbones announce it."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """What is known about a feature map before it is computed; ``None`` is "not known".

    ``stride`` is the ratio of the network input's side to the map's side.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
