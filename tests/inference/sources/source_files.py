"""Small images and helpers for the tests of image sources."""

from pathlib import Path
from typing import Any

import numpy as np

from iaunet_d2.inference.sources import Plane, open_planes

RNG = np.random.default_rng(5)


def noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    """Values over the type's range (floats: -1 to 1)."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return RNG.uniform(-1, 1, shape).astype(kind)
    if kind.kind == "b":
        return RNG.random(shape) < 0.5
    info = np.iinfo(kind)
    return RNG.integers(info.min, info.max, shape, dtype=kind, endpoint=True)


def whole(plane: Plane) -> np.ndarray:
    """All of a plane; its shape and type are those announced."""
    values = plane.read(0, 0, *plane.shape[:2])
    assert values.shape == plane.shape
    assert values.dtype == plane.dtype
    assert values.dtype.isnative
    return values


def assert_parts_agree(plane: Plane, expected: np.ndarray) -> None:
    """The whole, and rectangles at corners, across borders of tiles, single pixels, empty ones."""
    np.testing.assert_array_equal(whole(plane), expected)
    high, wide = plane.shape[:2]
    corners = [(0, 0), (high - 1, wide - 1), (high // 2, wide // 3), (min(14, high - 1), 0)]
    for top, left in corners:
        for height, width in [(1, 1), (high - top, wide - left), (min(7, high - top), 1), (0, 0)]:
            np.testing.assert_array_equal(
                plane.read(top, left, height, width),
                expected[top : top + height, left : left + width],
            )


def one(path: Path, **options: Any) -> Plane:
    """The only plane of a file."""
    planes = open_planes(path, **options)
    assert len(planes) == 1
    return planes[0]
