"""Run lengths, many at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

# pycocotools' area() counts the masks it is given in a uint8, which NumPy 2 refuses to overflow.
_AT_ONCE = 255


def rle_areas(rles: Sequence[dict[str, Any]]) -> np.ndarray:
    """Pixels (N,), int64, of compressed run lengths."""
    if not rles:
        return np.zeros(0, dtype=np.int64)
    parts = [rles[start : start + _AT_ONCE] for start in range(0, len(rles), _AT_ONCE)]
    return np.concatenate([np.asarray(mask_util.area(list(p)), dtype=np.int64) for p in parts])


def shared_pixels(
    first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that masks of one frame have in common.

    Args:
        first: N compressed run lengths.
        second: M compressed run lengths. Only pairs whose boxes meet are compared.

    Returns:
        Shared pixels (N, M), int64, and intersection over union (N, M), float64.
    """
    if not (len(first) and len(second)):
        nothing = np.zeros((len(first), len(second)))
        return nothing.astype(np.int64), nothing
    iou = np.asarray(mask_util.iou(list(first), list(second), [0] * len(second)))
    total = rle_areas(first)[:, None] + rle_areas(second)
    # IoU = I / (A + B - I), solved for I; rounding takes away the division's error.
    return np.rint(iou * total / (1 + iou)).astype(np.int64), iou
