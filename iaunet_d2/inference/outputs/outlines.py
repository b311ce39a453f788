"""Outlines along the edges of pixels: they enclose the very pixels of a mask.

Corners are whole numbers. (0, 0) is the upper left corner of the upper left pixel, as QuPath and
ImageJ's areas count. Contours through the centres of the outermost pixels, as OpenCV's
``findContours`` draws them, lose half a pixel on every side.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage


class Polygon(NamedTuple):
    """A connected part of a mask.

    Every ring is (points, 2) int64, x and y of its corners, the last one not the first again. It
    runs with the mask on its right hand as seen in the image (y downwards): by the formula for
    areas in x and y, outer rings are positive and holes negative, as RFC 7946 (GeoJSON) wants.
    """

    exterior: np.ndarray
    holes: list[np.ndarray]


class _Segments(NamedTuple):
    """The horizontal sides of all rings, S of them, in the order of reading (row by row)."""

    starts: np.ndarray  # (S, 2) x and y where the side begins, the mask being on its right
    ends: np.ndarray  # (S, 2) and where it ends
    inner: np.ndarray  # (S, 2) row and column of the pixel of the mask at its left end


def outline(crop: np.ndarray, corner: tuple[int, int] = (0, 0)) -> list[Polygon]:
    """The outlines of a mask, exact to the pixel.

    Pixels that touch by a corner alone are separate parts. No ring touches itself, and a hole
    meets another ring in single points only: all polygons are valid as simple features (OGC).

    Args:
        crop: (h, w), bool.
        corner: row and column of its first pixel in the image; it is added to all points.

    Returns:
        The parts, from the top down; none for an empty mask.
    """
    x, y, inside, twice = _corners(crop)
    if not x.size:
        return []
    segments = _sides(x, y, inside, corner)
    rising = ~inside[twice]
    ring_of, rings = _follow(_links(x, twice, rising, segments))
    # A part, or a hole, that touches itself by a corner would be a ring that passes twice there.
    # The other way to go on at that corner makes two rings of it.
    again = ring_of[twice >> 1] == ring_of[(twice + 1) >> 1]
    if again.any():
        ring_of, rings = _follow(_links(x, twice, rising ^ again, segments))
    return _polygons(crop, segments, ring_of, rings)


def _corners(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where outlines turn, row by row.

    Returns:
        x and y of the corners (K,), one where pixels touch by it alone standing twice in turn;
        whether the pixel to the lower right of each is in the mask (K,); and the first of the two
        indices of each double one (D,).
    """
    padded = np.pad(np.asarray(crop, dtype=bool), 1)
    upright = padded[:, 1:] ^ padded[:, :-1]
    # Of the four pixels around a corner one or three are in the mask, or two, one across the other.
    odd = upright[1:] ^ upright[:-1]
    double = upright[1:] & upright[:-1] & (padded[1:, 1:] ^ padded[:-1, 1:])
    y, x = np.nonzero(odd | double)
    doubled = double[y, x]
    twice = np.flatnonzero(doubled)
    if twice.size:
        y, x = np.repeat(y, 1 + doubled), np.repeat(x, 1 + doubled)
        twice += np.arange(len(twice))
    return x, y, padded[y + 1, x + 1], twice


def _sides(x: np.ndarray, y: np.ndarray, inside: np.ndarray, corner: tuple[int, int]) -> _Segments:
    """Horizontal sides join the corners of a row in pairs: 0 and 1, 2 and 3, and so on."""
    points = np.stack([x + corner[1], y + corner[0]], axis=1)
    below = inside[0::2]
    lefts, rights = points[0::2], points[1::2]
    starts = np.where(below[:, None], lefts, rights)
    ends = np.where(below[:, None], rights, lefts)
    return _Segments(starts, ends, np.stack([y[0::2] - ~below, x[0::2]], axis=1))


def _links(
    x: np.ndarray, twice: np.ndarray, swapped: np.ndarray, segments: _Segments
) -> np.ndarray:
    """The horizontal side that follows each, by the vertical one between them: (S,).

    Vertical sides join the corners of a column in pairs. Of a double corner, the first index ends
    the side on its left; it goes with the vertical side above, or with that below where swapped.
    """
    numbers = np.arange(len(x))
    first = twice[swapped]
    numbers[first], numbers[first + 1] = first + 1, first
    column = numbers[np.argsort(x, kind="stable")]
    partner = np.empty_like(column)
    partner[column[0::2]], partner[column[1::2]] = column[1::2], column[0::2]
    rightwards = segments.ends[:, 0] > segments.starts[:, 0]
    return partner[2 * np.arange(len(rightwards)) + rightwards] >> 1


def _follow(links: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
    """The rings: which one each side belongs to (S,), and the sides of each in turn."""
    following = links.tolist()
    ring_of = [-1] * len(following)
    rings: list[list[int]] = []
    for first in range(len(following)):
        if ring_of[first] >= 0:
            continue
        ring, side = [], first
        while ring_of[side] < 0:
            ring_of[side] = len(rings)
            ring.append(side)
            side = following[side]
        rings.append(ring)
    return np.array(ring_of), rings


def _polygons(
    crop: np.ndarray, segments: _Segments, ring_of: np.ndarray, rings: list[list[int]]
) -> list[Polygon]:
    """Holes with the parts that they are in."""
    points = [
        np.stack([segments.starts[ring], segments.ends[ring]], axis=1).reshape(-1, 2)
        for ring in rings
    ]
    # Area by the integral of -y dx; upright sides add nothing.
    steps = segments.starts[:, 0] - segments.ends[:, 0]
    areas = np.bincount(ring_of, weights=segments.starts[:, 1] * steps)
    outer = np.flatnonzero(areas > 0).tolist()
    polygons = {k: Polygon(points[k], []) for k in outer}
    if len(outer) == len(rings):
        return list(polygons.values())
    owner = dict.fromkeys(range(len(rings)), outer[0])
    if len(outer) > 1:
        parts = ndimage.label(crop)[0]
        part_of = [parts[tuple(segments.inner[ring[0]])] for ring in rings]
        ring_of_part = {part_of[k]: k for k in outer}
        owner = {k: ring_of_part[part] for k, part in enumerate(part_of)}
    for k in range(len(rings)):
        if k not in polygons:
            polygons[owner[k]].holes.append(points[k])
    return list(polygons.values())
