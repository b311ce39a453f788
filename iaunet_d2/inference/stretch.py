"""Grey values to 0..255 for a whole plane, so that tiles of it are stretched alike."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..data.readers import Limits, pixel_limits
from .sources.base import Plane

EXACT_PIXELS = 4096**2
"""Planes up to this many pixels are measured whole, larger ones by a sample of as many."""

_BLOCK = 256


def plane_limits(plane: Plane, percentiles: Sequence[float] = ()) -> Limits:
    """The values of a plane that become 0 and 255.

    The same as :func:`iaunet_d2.data.readers.to_byte_range` takes, for planes up to
    :data:`EXACT_PIXELS`. Of larger ones evenly spaced blocks are read, a band of rows at a time.

    Args:
        plane: the plane; read only where it needs stretching.
        percentiles: ``INPUT.PERCENTILES``.

    Raises:
        BadFileError: a part of the file is damaged.
    """
    if plane.dtype == np.uint8 and not percentiles:
        return ()
    return pixel_limits(plane_pixels(plane), percentiles)


def plane_pixels(plane: Plane) -> np.ndarray:
    """Return what a plane is measured by: itself, or of a larger one evenly spaced blocks.

    Returns:
        (H, W, C), or (1, n, C).

    Raises:
        BadFileError: a part of the file is damaged.
    """
    height, width, _ = plane.shape
    if height * width <= EXACT_PIXELS:
        return plane.read(0, 0, height, width)
    return np.concatenate(list(_sample(plane)))[None]


def _sample(plane: Plane) -> Iterator[np.ndarray]:
    """Pixels (n, C) of evenly spaced blocks, about :data:`EXACT_PIXELS` in all."""
    height, width, channels = plane.shape
    blocks = EXACT_PIXELS // _BLOCK**2
    rows = min(max(1, height // _BLOCK), max(16, blocks * _BLOCK // width))
    columns = min(max(1, width // _BLOCK), max(1, blocks // rows))
    for top in _starts(height, rows):
        # In most files a block costs as much as its band: rows are compressed together.
        band = plane.read(top, 0, min(_BLOCK, height), width)
        for left in _starts(width, columns):
            yield band[:, left : left + _BLOCK].reshape(-1, channels)


def _starts(side: int, count: int) -> list[int]:
    """Where ``count`` blocks begin that lie evenly in a side."""
    room = max(0, side - _BLOCK)
    return [room // 2] if count == 1 else [round(k * room / (count - 1)) for k in range(count)]
