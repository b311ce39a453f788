"""One image counted and measured: its masks, what they share, and the values of its pixels.

Masks are kept in their own windows: a crowded image has thousands, and a frame for each would not
fit into memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ..data.rasterise import Patch, clip_polygon, rasterise
from ..data.segmentation import compressed_rle, is_rle, usable_polygons


@dataclass(frozen=True)
class ImageStats:
    """What :func:`image_stats` gives.

    Attributes:
        size: width and height.
        classes: (N,) class numbers.
        areas: (N,) pixels of each mask.
        boxes: (N, 2) width and height of each mask.
        sharing: how many of the masks share enough of their pixels with others.
        foreground: pixels in at least one mask.
        shared: pixels in at least two.
        histogram: (C, 256) pixels of each value.
    """

    size: tuple[int, int]
    classes: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    sharing: int
    foreground: int
    shared: int
    histogram: np.ndarray


def image_stats(
    image: np.ndarray, annotations: Sequence[dict[str, Any]], min_shared: int = 1
) -> ImageStats:
    """Count and measure one image.

    Args:
        image: (H, W, C) ``uint8``.
        annotations: with ``category_id`` and ``segmentation``.
        min_shared: an instance counts as sharing if so many of its pixels lie in others too.
    """
    height, width = image.shape[:2]
    patches = [annotation_patch(a["segmentation"], (height, width)) for a in annotations]
    depth = np.zeros((height, width), np.uint16)
    for patch in patches:
        _window(depth, patch)[:] += patch.pixels
    in_others = [np.count_nonzero(_window(depth, patch)[patch.pixels] > 1) for patch in patches]
    return ImageStats(
        size=(width, height),
        classes=np.array([a["category_id"] for a in annotations], int),
        areas=np.array([patch.pixels.sum() for patch in patches], int),
        boxes=np.array([patch.pixels.shape[::-1] for patch in patches], int).reshape(-1, 2),
        sharing=sum(int(count >= min_shared) for count in in_others),
        foreground=int((depth > 0).sum()),
        shared=int((depth > 1).sum()),
        histogram=np.stack(
            [np.bincount(image[..., c].ravel(), minlength=256) for c in range(image.shape[2])]
        ),
    )


def annotation_patch(segmentation: Any, frame_size: tuple[int, int]) -> Patch:
    """The pixels of a segmentation, polygons or run lengths, in the least window that holds them.

    Args:
        segmentation: as in COCO files.
        frame_size: (height, width) of the image.

    Returns:
        A patch; with no row and no column where the segmentation has no pixel in the frame.
    """
    patch: Patch | None = None
    if is_rle(segmentation):
        mask = mask_util.decode(compressed_rle(segmentation)).astype(bool)
        patch = Patch(0, 0, mask)
    elif polygons := usable_polygons(segmentation):
        corners = [_corners(polygon, frame_size) for polygon in polygons]
        corners = [points for points in corners if len(points)]
        patch = rasterise(corners, frame_size) if corners else None
    if patch is None or not patch.pixels.any():
        return Patch(0, 0, np.zeros((0, 0), bool))
    rows, columns = (np.flatnonzero(patch.pixels.any(axis)) for axis in (1, 0))
    inside = patch.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # A copy, so that the array it is cut from can go.
    return Patch(int(patch.top + rows[0]), int(patch.left + columns[0]), inside.copy())


def _corners(polygon: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """A polygon's points (points, 2), as pycocotools takes them for the whole frame."""
    points = polygon.reshape(-1, 2)
    sides = np.array(frame_size[::-1])
    if (points < -sides).any() or (points > 2 * sides).any():
        # Far out: its window would be of any size.
        points = clip_polygon(points, tuple(-sides), tuple(2 * sides))
    # Fifths of a pixel, towards 0 where a corner lies outside the frame: as pycocotools has it.
    return np.trunc(5 * points + 0.5) / 5


def _window(frame: np.ndarray, patch: Patch) -> np.ndarray:
    height, width = patch.pixels.shape
    return frame[patch.top : patch.top + height, patch.left : patch.left + width]


def histogram_moments(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (of the population) from counts of the values 0, 1, ...

    Args:
        histogram: (C, values) of whole numbers.

    Returns:
        Two arrays (C,).
    """
    values = np.arange(histogram.shape[1], dtype=np.float64)
    total = histogram.sum(1)
    mean = histogram @ values / total
    variance = (histogram * (values - mean[:, None]) ** 2).sum(1) / total
    return mean, np.sqrt(variance)
