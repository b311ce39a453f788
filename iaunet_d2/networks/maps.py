"""Feature maps of a backbone, taken by their strides, so that any backbone fits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

STRIDES = (4, 8, 16, 32)


class MissingStrideError(ValueError):
    """A backbone has no map at a stride that the model needs."""


@dataclass(frozen=True)
class MapShape:
    """Shape of a map (B, channels, H / stride, W / stride); Detectron2's ``ShapeSpec`` fits too."""

    channels: int
    stride: int


class ShapedBackbone(Protocol):
    """A module that turns images into a dict of maps, as Detectron2's ``Backbone``."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Turn images (B, C, H, W) into maps by name."""

    def output_shape(self) -> Mapping[str, Any]:
        """Return ``channels`` and ``stride`` of each map by its name."""


@dataclass(frozen=True)
class MapSelection:
    """The maps of a backbone that a network reads, finest first.

    Attributes:
        names: of the maps.
        channels: of the maps.
        strides: of the maps.
    """

    names: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the selected maps of a backbone's output, finest first.

        Raises:
            ValueError: there are no maps of these names.
        """
        if not maps.keys() >= set(self.names):
            raise ValueError(
                f"the backbone gives maps named {list(maps)}, and the network was built for "
                f"{list(self.names)}: give it the backbone's output_shape()"
            )
        return [maps[name] for name in self.names]


def map_name(stride: int) -> str:
    """Name a map as Detectron2 names those of its ResNets: ``res2`` at stride 4, ``res3`` at 8."""
    return f"res{stride.bit_length() - 1}"


def map_shapes(
    channels: Iterable[int], strides: Iterable[int] = STRIDES, names: Iterable[str] = ()
) -> dict[str, MapShape]:
    """Describe maps, by default under the names of :func:`map_name`, as ``output_shape()`` does.

    Args:
        channels, strides: of the maps, finest first.
        names: of the maps, where the backbone has its own.
    """
    strides = list(strides)
    names = list(names) or [map_name(stride) for stride in strides]
    shapes = zip(names, channels, strides, strict=True)
    return {name: MapShape(count, stride) for name, count, stride in shapes}


def maps_at(shapes: Mapping[str, Any], strides: Sequence[int] = STRIDES) -> MapSelection:
    """Select one map for each stride; of several at one stride the last, which is the deepest.

    Args:
        shapes: ``channels`` and ``stride`` by name, as ``Backbone.output_shape()`` gives them.
        strides: that the network needs, ascending.

    Raises:
        MissingStrideError: there is no map at one of the strides.
    """
    by_stride = {shape.stride: (name, shape.channels) for name, shape in shapes.items()}
    if missing := [stride for stride in strides if stride not in by_stride]:
        there = ", ".join(f"{name} at {shape.stride}" for name, shape in shapes.items())
        raise MissingStrideError(
            f"the backbone (MODEL.BACKBONE.NAME) has no map at stride {missing[0]}; the model "
            f"needs strides {tuple(strides)}, and there are: {there}"
        )
    names, channels = zip(*(by_stride[stride] for stride in strides), strict=True)
    return MapSelection(names, channels, tuple(strides))
