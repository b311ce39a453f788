"""One annotation's segmentation in COCO's forms: polygons, and run lengths of both kinds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


def is_rle(segmentation: Any) -> bool:
    """Whether the segmentation is run lengths, of either form."""
    return isinstance(segmentation, dict)


def compressed_rle(segmentation: dict[str, Any]) -> dict[str, Any]:
    """Run lengths in pycocotools' compressed form, from either form.

    Args:
        segmentation: ``{"size": [height, width], "counts": text, bytes or list of numbers}``.

    Raises:
        ValueError: ``counts`` or ``size`` is missing or malformed, or plain counts do not fill the
            frame.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(map(_is_count, size))):
        raise ValueError(f"its run lengths have the size {size!r}; [height, width] is needed")
    height, width = size
    if isinstance(counts, str):
        counts = counts.encode()
    if isinstance(counts, bytes):
        _require_full(int(run_lengths(counts).sum()), height, width)
        return {"size": [height, width], "counts": counts}
    if not isinstance(counts, list) or not all(map(_is_count, counts)):
        raise ValueError("its run lengths are neither text nor a list of whole numbers")
    _require_full(sum(counts), height, width)
    return mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compressed run lengths of a mask (H, W), bool or 0 and 1, as JSON takes them (text)."""
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def segmentation_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths of polygons or of run lengths of either kind.

    Text is taken as it is: the reader of the data set has checked it.
    """
    if is_rle(segmentation):
        counts = segmentation["counts"]
        if isinstance(counts, list):
            return compressed_rle(segmentation)
        return {**segmentation, "counts": counts.encode() if isinstance(counts, str) else counts}
    if not segmentation:
        return mask_util.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    return mask_util.merge(mask_util.frPyObjects([list(p) for p in segmentation], height, width))


def rle_extent(rle: dict[str, Any]) -> tuple[int, Box]:
    """Area in pixels, and left, top, right and bottom, of compressed run lengths."""
    x, y, w, h = (float(v) for v in mask_util.toBbox(rle))
    return int(mask_util.area(rle)), (x, y, x + w, y + h)


def usable_polygons(polygons: list[Any]) -> list[np.ndarray]:
    """The polygons that enclose an area.

    They have at least three points, an even number of finite values, and an area over 0.

    Returns:
        Arrays (2 * points,) of float64, x and y in turn.
    """
    usable = []
    for polygon in polygons:
        flat = as_flat_polygon(polygon)
        if flat is None or len(flat) < 6 or len(flat) % 2 or not np.isfinite(flat).all():
            continue
        x, y = flat[0::2] - flat[0], flat[1::2] - flat[1]
        # Twice the area (shoelace formula), zero for points on one line. The last point's term is
        # zero because the first point is the origin.
        if abs(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])) > 1e-6:
            usable.append(flat)
    return usable


def as_flat_polygon(polygon: Any) -> np.ndarray | None:
    """A polygon's numbers as float64 (2 * points,); None if it is not a list of numbers."""
    try:
        flat = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return flat if flat.ndim == 1 else None


def polygons_box(polygons: list[np.ndarray]) -> Box:
    """Left, top, right and bottom of several polygons."""
    points = np.concatenate(polygons).reshape(-1, 2)
    left, top = points.min(0)
    right, bottom = points.max(0)
    return float(left), float(top), float(right), float(bottom)


def polygons_area(polygons: list[np.ndarray], height: int, width: int) -> int:
    """Pixels of the union of the polygons inside a frame, by pycocotools' rasterisation."""
    parts = mask_util.frPyObjects([list(p) for p in polygons], height, width)
    return int(mask_util.area(mask_util.merge(parts)))


def annotation_masks(record: dict[str, Any], ignored: tuple[int, ...] = ()) -> Iterator[np.ndarray]:
    """Masks (H, W), bool, of a record's annotations, in its own frame: polygons or run lengths.

    Args:
        record: Detectron2's standard data-set dict.
        ignored: values of ``iscrowd`` that are left out.
    """
    height, width = record["height"], record["width"]
    for annotation in record.get("annotations", ()):
        shape = annotation.get("segmentation")
        if not shape or annotation.get("iscrowd", 0) in ignored:
            continue
        if is_rle(shape):
            encoded = compressed_rle(shape)
        else:
            encoded = mask_util.merge(
                mask_util.frPyObjects([list(p) for p in shape], height, width)
            )
        yield mask_util.decode(encoded).astype(bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _require_full(covered: int, height: int, width: int) -> None:
    """Runs that do not fill the frame would leave pycocotools' mask undefined."""
    if covered != height * width:
        raise ValueError(
            f"its run lengths cover {covered} pixels of {height}x{width} (height x width)"
        )


def run_lengths(counts: bytes) -> np.ndarray:
    """Lengths (R,) int64 of the runs, of 0 and of 1 in turn, in compressed text.

    COCO's text holds a number in characters of 5 bits each, from "0" on, lowest first; a 6th bit
    says that more follow, and the highest bit of the last one is the sign. From the fourth number
    on, what stands there is the difference from the run before the last.

    Raises:
        ValueError: the text is none of this kind.
    """
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its run lengths are damaged text")
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(codes.size) - np.repeat(first, last - first + 1)
    if place.max() > 6:
        raise ValueError("its run lengths are damaged text")
    numbers = np.add.reduceat((codes & 31) << (5 * place), first)
    numbers -= np.where(codes[last] & 16, np.int64(1) << (5 * (place[last] + 1)), 0)
    runs = np.concatenate([numbers[:1], np.zeros(len(numbers) - 1, np.int64)])
    runs[1::2], runs[2::2] = np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])
    if runs.min() < 0:
        raise ValueError("its run lengths are damaged text")
    return runs
