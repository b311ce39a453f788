"""The outlines of ImageJ's compound ROIs, as rings of straight lines.

A compound ROI (Combine or XOR in the ROI Manager; selections with holes) is stored as a path of
numbers: the kind of a segment, then its points, as java.awt.geom.PathIterator has them. roifile
gives the numbers, and decodes straight segments alone; curves are decoded here.
"""

from collections.abc import Sequence

import numpy as np

from .polygons import as_ring, box_ring, ellipse_ring

# Kind of segment -> name, and how many points follow.
_MOVE, _LINE, _QUADRATIC, _CUBIC, _CLOSE = range(5)
_POINTS = {_MOVE: 1, _LINE: 1, _QUADRATIC: 2, _CUBIC: 3, _CLOSE: 0}
_STEPS = 64


def compound_rings(path: Sequence[float]) -> list[np.ndarray]:
    """The rings of a compound ROI's path, each (points, 2).

    Raises:
        ValueError: the path is damaged.
    """
    rings: list[list[np.ndarray]] = []
    place = 0
    while place < len(path):
        kind = path[place]
        if kind not in _POINTS:
            raise ValueError(f"its path has a segment of the kind {kind}")
        count = 2 * _POINTS[int(kind)]
        numbers = path[place + 1 : place + 1 + count]
        if len(numbers) < count or (kind != _MOVE and not rings):
            raise ValueError("its path is cut off, or does not begin with a point")
        points = np.array(numbers, dtype=np.float64).reshape(-1, 2)
        if kind == _MOVE:
            rings.append([points])
        elif kind != _CLOSE:  # rings are closed anyway
            rings[-1].append(points if kind == _LINE else _curve(rings[-1][-1][-1], points))
        place += 1 + count
    return [as_ring(np.concatenate(ring)) for ring in rings]


def rectangle_ring(
    left: float, top: float, right: float, bottom: float, corner: float
) -> np.ndarray:
    """A rectangle, with corners rounded by arcs of this diameter (0: none)."""
    if corner <= 0:
        return box_ring(left, top, right, bottom)
    width, height = min(corner, right - left), min(corner, bottom - top)
    arcs = ellipse_ring(-width / 2, -height / 2, width / 2, height / 2)
    centre = np.array([left + right, top + bottom]) / 2
    reach = np.array([right - left - width, bottom - top - height]) / 2
    # The four quarters of one ellipse, moved apart. A point on an axis goes to either side.
    return centre + arcs + np.where(arcs >= 0, reach, -reach)


def _curve(start: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points on a Bézier curve of second or third degree after its start."""
    t = np.linspace(0, 1, _STEPS + 1)[1:, None]
    if len(points) == 2:
        weights = [(1 - t) ** 2, 2 * t * (1 - t), t**2]
    else:
        weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
    return sum(
        (w * p for w, p in zip(weights, [start, *points], strict=True)), start=np.zeros((1, 2))
    )
