"""Targets per pixel, made of instance masks: interior, boundary, distance (IAU-net and MAUNet)."""

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

# What a loader can make: whether cells have a boundary class, and whether there is a distance.
DENSE_TARGETS = {
    "foreground": (False, False),
    "classes": (True, False),
    "classes+distance": (True, True),
}

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=np.uint8)


@dataclass(frozen=True)
class DenseTarget:
    """Ground truth per pixel, of an image or, with a first dimension more, of a batch.

    Attributes:
        classes: (H, W) int64: 0 background, 1 to K inside of a cell of class k - 1, K + 1 boundary.
        distance: (H, W) float32: 0 outside of cells, 1 where a cell is deepest; None where it was
            not asked for.
    """

    classes: Tensor
    distance: Tensor | None


def dense_target(
    masks: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    boundary: bool = True,
    distance: bool = True,
    min_interior: int = 16,
) -> DenseTarget:
    """Make the targets of label-map systems from instances that may overlap.

    A pixel of several cells belongs to the smallest, as the published recipes start from label maps
    without overlaps; areas, boundaries and distances are those of what stays visible of each cell.
    Work is done in each cell's rectangle.

    Args:
        masks: (N, H, W) bool.
        labels: (N,), 0 to ``num_classes`` - 1.
        num_classes: K.
        boundary: make the boundary class (:func:`interior_classes`); False: every visible pixel of
            a cell is of the cell's class.
        distance: make the distance (:func:`distance_field`).
        min_interior: smaller connected parts of an interior, in pixels, become boundary.

    Raises:
        ValueError: masks of another form than (N, H, W), or labels that do not fit.
    """
    masks, labels = np.ascontiguousarray(masks, dtype=bool), np.asarray(labels, dtype=np.int64)
    if masks.ndim != 3 or labels.shape != masks.shape[:1]:
        raise ValueError(
            f"masks {masks.shape} and labels {labels.shape}; (N, H, W) and (N,) are needed"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"class labels from {labels.min()} to {labels.max()} for {num_classes} classes; they "
            "must be from 0 to one less than MODEL.NUM_CLASSES"
        )
    cells, order = flat_cells(masks)
    values = np.concatenate([[0], labels[order] + 1])  # what an interior pixel of each cell is
    if boundary:
        classes = interior_classes(cells, values, num_classes + 1, min_interior)
    else:
        classes = values[cells]
    field = distance_field(cells, classes == values[cells]) if distance else None
    return DenseTarget(
        torch.from_numpy(classes), None if field is None else torch.from_numpy(field)
    )


def flat_cells(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paint overlapping masks (N, H, W), bool, into one map, small ones on top of large ones.

    Among equally large ones the first is on top, as in this package's label-map metrics.

    Returns:
        cells (H, W) int32, 0 or 1 + the place in ``order``; and order (N,), the masks' indices,
        large ones first.
    """
    boxes = [cv2.boundingRect(mask.view(np.uint8)) for mask in masks]  # left, top, width, height
    windows = [np.s_[y : y + h, x : x + w] for x, y, w, h in boxes]
    areas = [np.count_nonzero(mask[window]) for mask, window in zip(masks, windows, strict=True)]
    order = np.argsort(np.array(areas, dtype=np.int64), kind="stable")[::-1]
    cells = np.zeros(masks.shape[1:], dtype=np.int32)
    for place, k in enumerate(order):
        cells[windows[k]][masks[k][windows[k]]] = place + 1
    return cells, order


def interior_classes(
    cells: np.ndarray, values: np.ndarray, boundary_value: int, min_interior: int
) -> np.ndarray:
    """Split cells into interior and boundary (MAUNet, section 2.1, as its code does it).

    The boundary of a cell of S pixels is its inner boundary, dilated by a disk of radius
    ceil(sqrt(S) / 40): about as wide as the sqrt(S) / 20 of the text, half of it outside the cell.
    The frame's edge is no boundary. A later (smaller) cell is painted over an earlier one.

    Connected parts of an interior (by edges) smaller than ``min_interior`` pixels become boundary;
    so a tiny cell is boundary all over. The authors leave them as background, which tells the
    network that cells have holes.

    Args:
        cells: (H, W), 0 or 1, 2, ... in the order of painting.
        values: of the interior per cell, the background's first.
        boundary_value: of the boundary.
        min_interior: in pixels.

    Returns:
        (H, W) int64.
    """
    classes = np.zeros(cells.shape, dtype=np.int64)
    for number, box in enumerate(ndimage.find_objects(cells), start=1):
        if box is None:
            continue  # nothing of it is visible
        area = np.count_nonzero(cells[box] == number)
        radius = math.ceil(math.sqrt(area) / 40)
        window = _grown(box, radius)
        cell = (cells[window] == number).view(np.uint8)
        edge = cv2.dilate(cell & ~cv2.erode(cell, CROSS), _disk(radius))
        interior = _without_small_parts(cell & ~edge, min_interior)
        part = classes[window]
        part[(cell | edge).view(bool)] = boundary_value
        part[interior.view(bool)] = values[number]
    return classes


def distance_field(cells: np.ndarray, interior: np.ndarray) -> np.ndarray:
    """How deep in its cell a pixel lies, 0 to 1 (MAUNet, section 2.1, as its code does it).

    d = 1 / (1 + (e_max - e) / sqrt(S)) with e the Euclidean distance to the nearest pixel that is
    not interior of the same cell, e_max its maximum in the cell and S the cell's pixels. The text
    measures from the cell's centre instead, which may lie outside of a curved cell. On the boundary
    e is 0; a cell without interior is 1 all over, and so is one that fills the frame.

    Args:
        cells: (H, W), 0 or the cell's number.
        interior: (H, W) bool.

    Returns:
        (H, W) float32, 0 outside of the cells.
    """
    field = np.zeros(cells.shape, dtype=np.float32)
    for number, box in enumerate(ndimage.find_objects(cells), start=1):
        if box is None:
            continue
        window = _grown(box, 1)
        cell = cells[window] == number
        core = (cell & interior[window]).view(np.uint8)
        # Without a pixel to measure to, there is no distance.
        depth = np.zeros(core.shape, dtype=np.float32)
        if not core.all():
            depth = cv2.distanceTransform(core, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            # Its last bit depends on where the array lies in memory. Squares are whole numbers.
            depth = np.sqrt(np.rint(np.square(depth)))
        root = math.sqrt(np.count_nonzero(cell))
        field[window][cell] = (1 / (1 + (depth.max() - depth) / root))[cell]
    return field


def _grown(box: tuple[slice, slice], margin: int) -> tuple[slice, slice]:
    """A window with a margin on all sides; slices end at the frame by themselves."""
    rows, columns = (slice(max(side.start - margin, 0), side.stop + margin) for side in box)
    return rows, columns


@functools.lru_cache(maxsize=64)
def _disk(radius: int) -> np.ndarray:
    """Pixels at most ``radius`` away from the middle one: (2 radius + 1, 2 radius + 1) uint8."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def _without_small_parts(mask: np.ndarray, min_size: int) -> np.ndarray:
    """A mask (h, w), uint8 0 and 1, without its connected parts (by edges) of fewer pixels."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    keep = (stats[:, cv2.CC_STAT_AREA] >= min_size).astype(np.uint8)
    keep[0] = 0
    return keep[parts] if count > 1 else mask
