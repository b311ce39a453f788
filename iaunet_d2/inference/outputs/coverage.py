"""How many cells cover each pixel: what tables and counts say of overlaps."""

import numpy as np

from ..cells import Cells


def window(frame: np.ndarray, cells: Cells, i: int) -> np.ndarray:
    """The part of an array (H, W, ...) that lies under the crop of a cell: a view."""
    (top, left), (height, width) = cells.corners[i], cells.crops[i].shape
    return frame[top : top + height, left : left + width]


def coverage(cells: Cells) -> np.ndarray:
    """Cells over each pixel, 2 where there are more: (H, W) uint8.

    One byte a pixel, so that the frame of a slide of 20,000 x 20,000 takes 400 MB.
    """
    depth = np.zeros(cells.image_size, np.uint8)
    for i, crop in enumerate(cells.crops):
        under = window(depth, cells, i)
        under += crop & (under < 2)
    return depth


def overlap_fractions(cells: Cells, depth: np.ndarray) -> np.ndarray:
    """Share of each cell's pixels that other cells cover too: (N,) float64, 0 to 1.

    Args:
        cells: N cells.
        depth: their :func:`coverage`.
    """
    shared = [np.count_nonzero(window(depth, cells, i)[c] > 1) for i, c in enumerate(cells.crops)]
    return np.array(shared, np.float64) / cells.areas
