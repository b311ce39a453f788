"""Outlines to masks, exactly: a pixel belongs to an object if its centre lies inside the outline.

Coordinates are in pixels with the origin at the upper left corner of the upper left pixel, whose
centre is (0.5, 0.5): so do QuPath, ImageJ's areas, LabelMe, CVAT and YOLO count. An outline along
pixel edges gives back the very mask that it was drawn around. (pycocotools' own drawing, which
COCO's polygons are read with, moves edges by up to a pixel.)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..rasterise import Patch

FrameSize = tuple[int, int]
"""Height and width of an image."""
Part = Sequence[np.ndarray]
"""Rings (points, 2) of x and y: what an odd number of them encloses is inside, so holes are."""

# Beyond any image; coordinates up to here are exact to far less than a pixel.
_FAR = 1e8
# How far an arc's chords may be from the arc, in pixels.
_SAGITTA = 1e-3


def as_ring(points: Any) -> np.ndarray:
    """A list of points as float64 (points, 2); of one that is given as numbers, all after x and y.

    Raises:
        ValueError: it is no list of points, or a number is not finite or beyond any image.
    """
    try:
        ring = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("its points are not pairs of numbers") from error
    if ring.size == 0:
        return np.zeros((0, 2))
    if ring.ndim != 2 or ring.shape[1] < 2:
        raise ValueError("its points are not pairs of numbers")
    ring = ring[:, :2]
    if not (np.abs(ring) <= _FAR).all():  # NaN compares false too
        raise ValueError("a coordinate is not finite, or beyond any image")
    return ring


def ellipse_ring(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """The ellipse in a box, (points, 2), with chords within a thousandth of a pixel of it."""
    radii = np.array([right - left, bottom - top]) / 2
    half_angle = np.arccos(1 - min(_SAGITTA / max(float(np.abs(radii).max()), 1e-9), 0.5))
    angles = np.linspace(0, 2 * np.pi, int(np.ceil(np.pi / half_angle)), endpoint=False)
    centre = np.array([left + right, top + bottom]) / 2
    return centre + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def box_ring(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """The four corners of a box, (4, 2)."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def draw_parts(parts: Sequence[Part], frame_size: FrameSize) -> Patch | None:
    """The union of an object's parts, in its own window of the frame; None if that is empty.

    Args:
        parts: each one or more rings, by the even-odd rule.
        frame_size: height and width.
    """
    drawn = [patch for part in parts if (patch := _draw_part(part, frame_size)) is not None]
    return union(drawn)


def union(patches: Sequence[Patch]) -> Patch | None:
    """The pixels of any of several patches; None if there are none."""
    if len(patches) < 2:
        return patches[0] if patches else None
    top, left = min(p.top for p in patches), min(p.left for p in patches)
    bottom = max(p.top + p.pixels.shape[0] for p in patches)
    right = max(p.left + p.pixels.shape[1] for p in patches)
    frame = np.zeros((bottom - top, right - left), dtype=bool)
    for patch in patches:
        Patch(patch.top - top, patch.left - left, patch.pixels).paste(frame)
    return Patch(top, left, frame)


def paste_mask(mask: np.ndarray, top: int, left: int, frame_size: FrameSize) -> Patch | None:
    """The part inside the frame of a mask (h, w) whose upper left pixel is (top, left)."""
    height, width = frame_size
    rows = slice(max(-top, 0), max(height - top, 0))
    columns = slice(max(-left, 0), max(width - left, 0))
    inside = np.asarray(mask[rows, columns], dtype=bool)
    return Patch(max(top, 0), max(left, 0), inside) if inside.any() else None


def _draw_part(rings: Part, frame_size: FrameSize) -> Patch | None:
    rings = [ring for ring in rings if len(ring) >= 3]
    if not rings:
        return None
    points = np.concatenate(rings)
    limit = np.array(frame_size[::-1])
    left, top = np.clip(np.floor(points.min(axis=0)), 0, limit).astype(int)
    right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, limit).astype(int)
    if right <= left or bottom <= top:
        return None
    corner = np.array([left, top])
    begins = np.concatenate(rings) - corner
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings]) - corner
    pixels = _inside(begins, ends, bottom - top, right - left)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not rows.size:
        return None
    # An outline between pixel centres may leave the window's margin empty.
    tight = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Patch(int(top + rows[0]), int(left + columns[0]), tight)


def _inside(begins: np.ndarray, ends: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels (height, width) whose centre an odd number of edges lies left of.

    Args:
        begins: (edges, 2), x and y where the edges begin.
        ends: (edges, 2), where they end.
    """
    # Every edge downwards, whichever way it was drawn: one that two objects share crosses a row at
    # the same place for both, and one that is gone to and fro cancels.
    down = (begins[:, 1] <= ends[:, 1])[:, None]
    (x0, y0), (x1, y1) = np.where(down, begins, ends).T, np.where(down, ends, begins).T
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(int) for y in (y0, y1))
    crossed = last - first
    edge = np.repeat(np.arange(len(crossed)), crossed)
    row = np.arange(crossed.sum()) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) * slope
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(int)
    odd = np.zeros((height, width + 1), dtype=bool)
    np.logical_xor.at(odd, (row, column), True)
    return np.logical_xor.accumulate(odd, axis=1)[:, :width]
