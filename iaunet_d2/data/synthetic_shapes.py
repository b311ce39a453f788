"""Outlines of synthetic cells and where they lie: blobs, long and bent ones, overlapping."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

_TRIES = 60
# Share of the smaller cell that two cells may have in common.
_OVERLAP = (0.08, 0.4)
_TOUCH = 0.01


@dataclass(frozen=True)
class CellShape:
    """An outline: r(angle) in a frame that is stretched, bent and turned.

    Attributes:
        frame: side of the image in pixels.
        centre: row and column in pixels.
        radius: mean radius in pixels.
        aspect: length by width; area does not depend on it.
        bend: curvature of the long axis, in units of the radius.
        turn: angle of the long axis in radians.
        waves: amplitudes and phases (K, 2) of the outline's harmonics 2, 3, ...
    """

    frame: int
    centre: tuple[float, float]
    radius: float
    aspect: float
    bend: float
    turn: float
    waves: np.ndarray

    def relative_radius(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Distance from the centre relative to the outline's in that direction: below 1 inside.

        Args:
            rows: pixel rows, broadcastable with columns.
            columns: pixel columns.
        """
        dy, dx = rows - self.centre[0], columns - self.centre[1]
        u = (dx * np.cos(self.turn) + dy * np.sin(self.turn)) / self.radius
        v = (dy * np.cos(self.turn) - dx * np.sin(self.turn)) / self.radius
        v = v - self.bend * (u**2 - 0.25 * self.aspect)
        u, v = u / np.sqrt(self.aspect), v * np.sqrt(self.aspect)
        angle = np.arctan2(v, u)
        outline = np.ones_like(angle)
        for k, (amplitude, phase) in enumerate(self.waves, 2):
            outline += amplitude * np.cos(k * angle + phase)
        return np.hypot(u, v) / outline

    def window(self, margin: float = 0.0) -> tuple[slice, slice]:
        """Rows and columns of the frame that hold the cell and ``margin`` pixels around it."""
        stretch = 1.2 * np.sqrt(self.aspect) + abs(self.bend) * self.aspect
        reach = int(np.ceil(self.radius * stretch + margin))
        first = [min(max(int(c) - reach, 0), self.frame) for c in self.centre]
        last = [min(max(int(c) + reach + 1, 0), self.frame) for c in self.centre]
        return slice(first[0], last[0]), slice(first[1], last[1])

    def mask(self) -> np.ndarray:
        """Boolean mask (frame, frame): pixels whose centre lies inside."""
        mask = np.zeros((self.frame, self.frame), dtype=bool)
        rows, columns = self.window()
        y, x = pixel_centres(rows, columns)
        mask[rows, columns] = self.relative_radius(y, x) < 1
        return mask


def pixel_centres(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixel centres of a window: (h, 1) and (1, w)."""
    y = np.arange(rows.start, rows.stop) + 0.5
    x = np.arange(columns.start, columns.stop) + 0.5
    return y[:, None], x[None, :]


def draw_shape(rng: np.random.Generator, frame: int) -> CellShape:
    """Draw an outline; half of the cells are roundish, the others lobed, long, or long and bent."""
    kind = rng.choice(["round", "lobed", "long", "bent"], p=[0.4, 0.25, 0.2, 0.15])
    aspect = {"round": (1.0, 1.3), "lobed": (1.0, 1.7), "long": (2.0, 3.2), "bent": (2.0, 2.8)}
    roughness = {"round": 0.04, "lobed": 0.13, "long": 0.05, "bent": 0.04}[kind]
    orders = np.arange(2, 7)
    amplitudes = roughness * rng.standard_normal(len(orders)) * (2 / orders)
    phases = rng.uniform(0, 2 * np.pi, len(orders))
    return CellShape(
        frame=frame,
        centre=(float(rng.uniform(0, frame)), float(rng.uniform(0, frame))),
        radius=float(rng.uniform(0.075, 0.125) * frame),
        aspect=float(rng.uniform(*aspect[kind])),
        bend=float(rng.uniform(0.15, 0.35) * rng.choice([-1, 1])) if kind == "bent" else 0.0,
        turn=float(rng.uniform(0, np.pi)),
        waves=np.stack([amplitudes, phases], axis=1),
    )


def place(
    draw: Callable[[], CellShape],
    shapes: list[CellShape],
    masks: list[np.ndarray],
    rng: np.random.Generator,
    overlap_share: float,
) -> tuple[CellShape, np.ndarray] | None:
    """Find a place for a new cell: over the rim of another one, or free of all.

    Args:
        draw: gives a shape.
        shapes: cells that lie already.
        masks: their masks.
        rng: random numbers.
        overlap_share: probability that the cell shall overlap another.

    Returns:
        The shape and its mask; None if no place was found.
    """
    overlapping = bool(shapes) and rng.random() < overlap_share
    for _ in range(_TRIES):
        shape = draw()
        if overlapping:
            other = shapes[int(rng.integers(len(shapes)))]
            angle = rng.uniform(0, 2 * np.pi)
            distance = (shape.radius + other.radius) * rng.uniform(0.6, 1.1)
            centre = (
                other.centre[0] + distance * np.sin(angle),
                other.centre[1] + distance * np.cos(angle),
            )
            shape = replace(shape, centre=centre)
        mask = shape.mask()
        if mask.sum() < 0.5 * np.pi * shape.radius**2:  # mostly outside the image
            continue
        shared = [float((mask & m).sum() / min(mask.sum(), m.sum())) for m in masks]
        most = max(shared, default=0.0)
        if (_OVERLAP[0] <= most <= _OVERLAP[1]) if overlapping else most <= _TOUCH:
            return shape, mask
    return None
