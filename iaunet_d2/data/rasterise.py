"""Masks of the instances that a crop meets: geometry first, pixels only where they are needed.

A crowded image has thousands of outlines and a crop meets a fraction of them. So outlines are moved
by the image's transforms as points, all at once; a box test finds those that meet the crop; and
only they become pixels, each in its own window.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from .segmentation import compressed_rle, is_rle

# Outlines that reach further out of the crop than this many of its sides are clipped: no window is
# of any size. The others are drawn whole, to the pixel as in the whole image.
_REACH = 1
# Pixels around the crop that a clipped outline keeps, so that its new edges lie outside.
_MARGIN = 4
# Beyond any image, and still exact to a fraction of a pixel.
_FAR = 1e12


@dataclass(frozen=True)
class Patch:
    """Part of a mask: a boolean array (h, w) whose upper left pixel is (top, left) of the frame."""

    top: int
    left: int
    pixels: np.ndarray

    def paste(self, frame: np.ndarray) -> None:
        """Set the patch's pixels in a frame (H, W)."""
        height, width = self.pixels.shape
        frame[self.top : self.top + height, self.left : self.left + width] |= self.pixels

    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the pixels that are set, at least one."""
        columns, rows = (np.flatnonzero(self.pixels.any(axis)) for axis in (0, 1))
        return (
            self.left + int(columns[0]),
            self.top + int(rows[0]),
            self.left + int(columns[-1]) + 1,
            self.top + int(rows[-1]) + 1,
        )


def masks_in_frame(
    segmentations: Sequence[Any],
    transforms: Any,
    source_size: tuple[int, int],
    frame_size: tuple[int, int],
    min_area: int = 1,
) -> tuple[np.ndarray, list[int]]:
    """Masks of the instances that meet a transformed frame; the others are never rasterised.

    Args and errors as of :func:`patches_in_frame`.

    Returns:
        Boolean masks (N, H, W), one per instance kept, overlaps in each of them; and the indices of
        those kept.
    """
    patches = patches_in_frame(segmentations, transforms, source_size, frame_size, min_area)
    return pasted(patches.values(), frame_size), list(patches)


def pasted(patches: Collection[Patch], frame_size: tuple[int, int]) -> np.ndarray:
    """Patches as boolean masks (N, H, W)."""
    masks = np.zeros((len(patches), *frame_size), dtype=bool)
    for mask, patch in zip(masks, patches, strict=True):
        patch.paste(mask)
    return masks


def patches_in_frame(
    segmentations: Sequence[Any],
    transforms: Any,
    source_size: tuple[int, int],
    frame_size: tuple[int, int],
    min_area: int = 1,
) -> dict[int, Patch]:
    """Patches of the instances that meet a transformed frame, by their index, in its order.

    Args:
        segmentations: one per instance, polygons or run lengths, in pixels of the source image.
        transforms: Detectron2 ``TransformList`` from the source image to the frame.
        source_size: (height, width) before the transforms.
        frame_size: (height, width) after the transforms.
        min_area: instances with fewer pixels inside the frame are left out.

    Raises:
        ValueError: run lengths that do not fit the source image.
    """
    patches: dict[int, Patch] = {}
    outlines = [k for k, s in enumerate(segmentations) if not is_rle(s)]
    patches.update(_outline_patches(segmentations, outlines, transforms, frame_size))
    runs = [k for k, s in enumerate(segmentations) if is_rle(s)]
    patches.update(_run_patches(segmentations, runs, transforms, source_size, frame_size))

    least = max(min_area, 1)
    return {k: patches[k] for k in sorted(patches) if np.count_nonzero(patches[k].pixels) >= least}


def rasterise(polygons: Sequence[np.ndarray], frame_size: tuple[int, int]) -> Patch | None:
    """The union of polygons as pycocotools draws it, in the window where it meets the frame.

    The window begins at or before the outline's least corner, because pycocotools rounds negative
    numbers differently. What it rounds on a tie depends on the distance from the origin, too: in
    one of some 7,500 outlines a pixel differs from that outline's mask in another window.

    Args:
        polygons: arrays (points, 2) of finite x and y in pixels of the frame.
        frame_size: (height, width).

    Returns:
        A patch, or None where the outlines do not meet the frame.
    """
    # Corners are rounded to fifths of a pixel. Rounded before they are moved into the window, those
    # on the verge fall to the same side as in the whole frame.
    polygons = [np.floor(5 * np.asarray(p) + 0.5) / 5 for p in polygons]
    points = np.concatenate(polygons)
    left, top = (int(v) for v in np.floor(points.min(0)))
    right, bottom = (int(v) for v in np.ceil(points.max(0)) + 1)
    right, bottom = min(right, frame_size[1]), min(bottom, frame_size[0])
    if right <= max(left, 0) or bottom <= max(top, 0):
        return None
    corner = np.array([left, top], dtype=np.float64)
    flat = [(p - corner).ravel() for p in polygons]
    parts = mask_util.frPyObjects(flat, bottom - top, right - left)
    pixels = mask_util.decode(mask_util.merge(parts)).astype(bool)
    return Patch(max(top, 0), max(left, 0), pixels[max(-top, 0) :, max(-left, 0) :])


def encode_patch(patch: Patch, frame_size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths of a patch in its frame, without making the frame.

    Args:
        patch: at least one pixel is set, and all lie inside the frame.
        frame_size: height and width.

    Returns:
        ``{"size": [height, width], "counts": text}``.
    """
    height, width = frame_size
    columns = np.pad(patch.pixels.T.astype(np.int8), ((0, 0), (1, 1)))
    column, row = np.nonzero(np.diff(columns, axis=1))  # where runs begin and end, in turn
    places = (column + patch.left) * height + row + patch.top
    starts, ends = places[0::2], places[1::2]
    # A run down to the foot of one column goes on at the head of the next.
    apart = starts[1:] != ends[:-1]
    starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    bounds = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [height * width]])
    counts = np.diff(bounds).tolist()
    if counts[-1] == 0:
        counts.pop()
    rle = compressed_rle({"size": [height, width], "counts": counts})
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def clip_polygon(
    points: np.ndarray, low: tuple[float, float], high: tuple[float, float]
) -> np.ndarray:
    """The part of a polygon inside a rectangle (Sutherland and Hodgman, 1974).

    Where the polygon leaves the rectangle and comes back, the result runs along the rectangle's
    side, and may do so to and fro: that encloses nothing.

    Args:
        points: (points, 2), finite x and y; convex or not.
        low: least x and y of the rectangle.
        high: greatest x and y.

    Returns:
        (points, 2); of length 0 if nothing is inside.
    """
    for axis in (0, 1):
        for sign, limit in ((1.0, low[axis]), (-1.0, high[axis])):
            depth = sign * (points[:, axis] - limit)
            inside = depth >= 0
            if inside.all():
                continue
            ahead, depth_ahead = np.roll(points, -1, axis=0), np.roll(depth, -1)
            crosses = inside != (depth_ahead >= 0)
            share = np.divide(depth, depth - depth_ahead, where=crosses, out=np.zeros_like(depth))
            crossing = points + share[:, None] * (ahead - points)
            crossing[:, axis] = limit
            # Each point that is inside, then the crossing on the way to the next.
            both = np.stack([points, crossing], axis=1)
            points = both[np.stack([inside, crosses], axis=1)]
    return points


def source_pixels(
    transforms: Any, source_size: tuple[int, int], frame_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """For each pixel of the frame, the source pixel that holds its centre.

    That is nearest-neighbour resampling as a look-up.

    Args:
        transforms: from the source image to the frame.
        source_size: (height, width) before.
        frame_size: (height, width) after.

    Returns:
        Rows and columns, each (H, W), outside the source where the frame is; None if the transforms
        are not affine.
    """
    height, width = source_size
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height], [width / 3, height / 2]])
    moved = np.asarray(transforms.apply_coords(corners.astype(np.float64)), dtype=np.float64)
    origin = moved[0]
    matrix = np.stack([(moved[1] - origin) / width, (moved[2] - origin) / height], axis=1)
    if not np.allclose(corners @ matrix.T + origin, moved, atol=1e-3):
        return None
    inverse = np.linalg.inv(matrix)
    x = np.arange(frame_size[1])[None, :] + 0.5 - origin[0]
    y = np.arange(frame_size[0])[:, None] + 0.5 - origin[1]
    # The small number decides ties (a centre on a pixel edge) the same way on every machine.
    columns = np.floor(inverse[0, 0] * x + inverse[0, 1] * y + 1e-6).astype(np.int32)
    rows = np.floor(inverse[1, 0] * x + inverse[1, 1] * y + 1e-6).astype(np.int32)
    return rows, columns


def _outline_patches(
    segmentations: Sequence[Any],
    indices: list[int],
    transforms: Any,
    frame_size: tuple[int, int],
) -> dict[int, Patch]:
    polygons: list[np.ndarray] = []
    owners: list[int] = []
    for k in indices:
        for polygon in segmentations[k]:
            points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
            if len(points) >= 3 and np.isfinite(points).all():
                polygons.append(points)
                owners.append(k)
    if not polygons:
        return {}
    ends = np.cumsum([len(p) for p in polygons])
    moved = np.asarray(transforms.apply_coords(np.concatenate(polygons)), dtype=np.float64)
    np.clip(moved, -_FAR, _FAR, out=moved)
    starts = np.concatenate([[0], ends[:-1]])
    low, high = np.minimum.reduceat(moved, starts), np.maximum.reduceat(moved, starts)
    sides = np.array(frame_size[::-1])
    reach = _REACH * max(frame_size)
    far: np.ndarray = np.any((low < -reach) | (high > sides + reach), axis=1)

    met: dict[int, list[np.ndarray]] = {}
    for place in np.flatnonzero(((high > 0) & (low < sides)).all(1)):
        points = moved[starts[place] : ends[place]]
        if far[place]:
            points = clip_polygon(points, (-_MARGIN, -_MARGIN), tuple(sides + _MARGIN))
        if len(points):
            met.setdefault(owners[place], []).append(points)
    patches = {k: rasterise(parts, frame_size) for k, parts in met.items()}
    return {k: patch for k, patch in patches.items() if patch is not None}


def _run_patches(
    segmentations: Sequence[Any],
    indices: list[int],
    transforms: Any,
    source_size: tuple[int, int],
    frame_size: tuple[int, int],
) -> dict[int, Patch]:
    if not indices:
        return {}
    rles = [compressed_rle(segmentations[k]) for k in indices]
    for rle in rles:
        if tuple(rle["size"]) != tuple(source_size):
            raise ValueError(
                f"its run lengths are for {rle['size']} (height, width), the image is "
                f"{list(source_size)}"
            )
    windows = _windows(mask_util.toBbox(rles), transforms, frame_size)
    look_up = source_pixels(transforms, source_size, frame_size)
    patches = {}
    for k, rle, (left, top, right, bottom) in zip(indices, rles, windows, strict=True):
        if right <= left or bottom <= top:
            continue
        mask = mask_util.decode(rle)
        if look_up is None:
            patches[k] = Patch(0, 0, np.asarray(transforms.apply_segmentation(mask), dtype=bool))
            continue
        rows, columns = (index[top:bottom, left:right] for index in look_up)
        inside = (rows >= 0) & (rows < source_size[0]) & (columns >= 0) & (columns < source_size[1])
        values = mask[rows.clip(0, source_size[0] - 1), columns.clip(0, source_size[1] - 1)]
        patches[k] = Patch(top, left, (values != 0) & inside)
    return patches


def _windows(boxes: np.ndarray, transforms: Any, frame_size: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 4) of the source, x, y, width, height, as left, top, right, bottom of the frame."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    corners = np.stack(
        [low, np.stack([high[:, 0], low[:, 1]], 1), high, np.stack([low[:, 0], high[:, 1]], 1)], 1
    )
    moved = np.asarray(transforms.apply_coords(corners.reshape(-1, 2).astype(np.float64)))
    moved = moved.reshape(-1, 4, 2)
    limit = np.array(frame_size[::-1])
    # One pixel more on each side: a transform that is not affine may bend the box's edges.
    first = np.clip(np.floor(moved.min(1)) - 1, 0, limit).astype(int)
    last = np.clip(np.ceil(moved.max(1)) + 1, 0, limit).astype(int)
    return np.concatenate([first, last], axis=1)
