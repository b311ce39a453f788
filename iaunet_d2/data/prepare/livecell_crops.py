"""Crops of LIVECell with at most 100 cells, after the IAUNet paper, by a rule of our own.

The paper says: "randomly cropping them to a maximum of 100 instances". Its script is not published;
the folder that its configs name is ``crop_512x512``. What is left open is settled by this rule:

1. A crop is 512x512 pixels (of an image that is smaller, as much as there is).
2. A cell belongs to a crop if at least 16 of its pixels lie inside, or all of them. Its mask is
   exactly what is visible. 16 pixels are the area of one pixel of a network's stride-4 mask.
3. Of all crops of an image that 1 to 100 cells belong to, each is equally likely, which is the same
   as to draw crops until one qualifies. The draw depends on the seed and the image's file name, and
   on nothing else: not on the order of images, nor on the library's random numbers.
4. An image of which no crop qualifies gives none. The alternatives are worse: to drop annotations
   of cells that are in sight teaches and scores the opposite of the truth, and smaller crops change
   the scale at which dense types are seen. (For another data set, the authors' script leaves out
   images with over 100 cells.) So dense types have a smaller share of the crops than of LIVECell;
   how many images give none is told when the data set is made.
5. An image that is listed twice is cropped once, with the annotations of its first listing.

Results on these crops compare with each other, and with the paper's only roughly.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ..segmentation import compressed_rle, is_rle, rle_extent, usable_polygons
from .build import Sample

CROP_SIDE = 512
MAX_INSTANCES = 100
MIN_VISIBLE = 16
"""Pixels of a cell that is cut by the crop's edge."""
CROP_SEED = 0
"""Written beside every crop; another one gives other crops."""


@dataclass(frozen=True)
class Crop:
    """A rectangle of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class _Cell:
    """An instance that has pixels: its run lengths in the image, their number and their extent."""

    rle: dict[str, Any]
    area: int
    left: int
    top: int
    right: int
    bottom: int

    def pixels(self) -> np.ndarray:
        """(bottom - top, right - left), bool."""
        mask = mask_util.decode(self.rle)
        return mask[self.top : self.bottom, self.left : self.right].astype(bool)


def choose_crop(
    segmentations: Sequence[Any], size: tuple[int, int], name: str, seed: int = CROP_SEED
) -> Crop | None:
    """Draw one of the crops that 1 to 100 instances belong to.

    Args:
        segmentations: of the image's instances, polygons or run lengths.
        size: (height, width) of the image.
        name: of the image's file; with the seed, it decides the draw.
        seed: another one gives other crops.

    Returns:
        None where no crop qualifies.
    """
    height, width = (min(CROP_SIDE, side) for side in size)
    counts = instance_counts(segmentations, size, (height, width))
    if counts is None:
        return None
    places = np.flatnonzero((counts >= 1) & (counts <= MAX_INSTANCES))
    if not len(places):
        return None
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    place = int(places[int.from_bytes(digest[:8], "big") % len(places)])
    top, left = divmod(place, counts.shape[1])
    return Crop(left, top, width, height)


def instance_counts(
    segmentations: Sequence[Any], size: tuple[int, int], crop: tuple[int, int]
) -> np.ndarray | None:
    """How many instances belong to each crop of an image.

    Args:
        segmentations: polygons or run lengths.
        size: (height, width) of the image.
        crop: (height, width) of the crop, at most the image's.

    Returns:
        (H - h + 1, W - w + 1) of int: for every top and left of the crop. None if in every crop
        more than :data:`MAX_INSTANCES` lie whole: what is cut needs no counting then.
    """
    cells = _cells(segmentations, size)
    starts = [np.arange(side - part + 1) for side, part in zip(size, crop, strict=True)]
    whole = _count_whole([cell for cell in cells if cell], starts, crop)
    if whole.min() > MAX_INSTANCES:
        return None
    counts = np.zeros(whole.shape, dtype=np.int64)
    for cell in cells:
        if cell:
            visible = visible_areas(cell.pixels(), (cell.top, cell.left), starts, crop)
            counts += visible >= min(MIN_VISIBLE, cell.area)
    return counts


def visible_areas(
    pixels: np.ndarray,
    corner: tuple[int, int],
    starts: Sequence[np.ndarray],
    crop: tuple[int, int],
) -> np.ndarray:
    """Pixels of a mask inside every crop, by its summed-area table (Crow, 1984).

    Args:
        pixels: (h, w), bool, the mask in its own window.
        corner: (top, left) of the window in the image.
        starts: tops (Y,) and lefts (X,) of the crops.
        crop: their (height, width).

    Returns:
        (Y, X) of int.
    """
    table = np.zeros((pixels.shape[0] + 1, pixels.shape[1] + 1), dtype=np.int64)
    table[1:, 1:] = pixels.cumsum(0, dtype=np.int64).cumsum(1)
    first, last = [], []
    for axis in (0, 1):
        inside = starts[axis] - corner[axis]
        first.append(inside.clip(0, pixels.shape[axis]))
        last.append((inside + crop[axis]).clip(0, pixels.shape[axis]))
    rows = table[last[0]] - table[first[0]]
    return rows[:, last[1]] - rows[:, first[1]]


def cut(pixels: np.ndarray, annotations: Sequence[dict[str, Any]], crop: Crop) -> Sample:
    """The crop and the cells that belong to it; their masks are pixels, overlaps in each of them.

    Args:
        pixels: (H, W, C), C being 1 or 3, of the whole image.
        annotations: of the whole image, with ``segmentation`` and ``category_id``.
        crop: see :func:`choose_crop`.
    """
    size = (pixels.shape[0], pixels.shape[1])
    rows = slice(crop.top, crop.top + crop.height)
    columns = slice(crop.left, crop.left + crop.width)
    image = np.rint(pixels[rows, columns]).astype(np.uint8)
    cells = _cells([annotation.get("segmentation") for annotation in annotations], size)
    belonging: list[dict[str, Any]] = []
    for annotation, cell in zip(annotations, cells, strict=True):
        if not cell or not _meets(cell, crop):
            continue
        mask = mask_util.decode(cell.rle)[rows, columns].astype(bool)
        if mask.sum() >= min(MIN_VISIBLE, cell.area):
            crowd = annotation.get("iscrowd") or 0
            category = annotation["category_id"]
            belonging.append({"category_id": category, "iscrowd": crowd, "mask": mask})
    return Sample(image[..., 0] if image.shape[2] == 1 else image, belonging)


def _count_whole(
    cells: Sequence[_Cell], starts: Sequence[np.ndarray], crop: tuple[int, int]
) -> np.ndarray:
    """How many cells lie wholly inside each crop: (Y, X)."""
    inside = []
    for axis, (low, high) in enumerate((("top", "bottom"), ("left", "right"))):
        first = starts[axis][:, None]
        begin = np.array([getattr(cell, low) for cell in cells], dtype=np.int64)
        end = np.array([getattr(cell, high) for cell in cells], dtype=np.int64)
        inside.append(((begin >= first) & (end <= first + crop[axis])).astype(np.float32))
    return inside[0] @ inside[1].T


def _meets(cell: _Cell, crop: Crop) -> bool:
    return (
        cell.left < crop.left + crop.width
        and cell.right > crop.left
        and cell.top < crop.top + crop.height
        and cell.bottom > crop.top
    )


def _cells(segmentations: Sequence[Any], size: tuple[int, int]) -> list[_Cell | None]:
    """Every instance as drawn in the whole image; None for one that has no pixel.

    An outline is not moved into its crop before it is drawn: that would round its corners
    differently. The conversion of the whole image counts what is unusable; here it is left out.
    """
    cells: list[_Cell | None] = []
    for segmentation in segmentations:
        rle = _run_lengths(segmentation, size)
        area, extent = rle_extent(rle) if rle else (0, (0.0, 0.0, 0.0, 0.0))
        cells.append(_Cell(rle, area, *map(int, extent)) if rle and area else None)
    return cells


def _run_lengths(segmentation: Any, size: tuple[int, int]) -> dict[str, Any] | None:
    """Compressed run lengths in the image; None for what is unusable."""
    if is_rle(segmentation):
        try:
            rle = compressed_rle(segmentation)
        except ValueError:
            return None
        return rle if tuple(rle["size"]) == size else None
    polygons = usable_polygons(segmentation if isinstance(segmentation, list) else [])
    return mask_util.merge(mask_util.frPyObjects(polygons, *size)) if polygons else None
