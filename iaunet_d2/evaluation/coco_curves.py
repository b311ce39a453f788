"""COCO's curves of precision and recall, and the numbers that are read off them."""

from dataclasses import dataclass

import numpy as np

_LARGEST_AREA = 1e5**2
# Where the IoU thresholds 0.50, 0.55, ..., 0.95 have 0.50 and 0.75.
IOU_50, IOU_75 = 0, 5


@dataclass(frozen=True)
class AreaRanges:
    """Sizes that precision is averaged over apart.

    Attributes:
        names: of the ranges.
        bounds: smallest and largest area in pixels, both included.
    """

    names: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]


def size_ranges(small: float, large: float) -> AreaRanges:
    """All sizes, up to ``small``, from there to ``large``, and over it (pixels)."""
    bounds = ((0.0, _LARGEST_AREA), (0.0, small), (small, large), (large, _LARGEST_AREA))
    return AreaRanges(("all", "small", "medium", "large"), bounds)


COCO_AREAS = size_ranges(32**2, 96**2)
LIVECELL_AREAS = size_ranges(324, 961)
"""Of LIVECell's own evaluation (sartorius-research/LIVECell, code/coco_evaluation.py)."""
ANY_AREA = AreaRanges(("all",), ((0.0, _LARGEST_AREA),))


@dataclass(frozen=True)
class CocoScores:
    """Curves over T IoU thresholds, K classes, A area ranges and M limits of detections.

    Attributes:
        precision: (T, R, K, A, M), 0 to 1, at R recalls; -1 without ground truth.
        recall: (T, K, A, M), 0 to 1; -1 without ground truth.
        scores: (T, R, K, A, M), the score at which that recall is reached.
        iou_thresholds: (T,).
        recall_thresholds: (R,).
        category_ids: K ids of the file; () where classes are not told apart (K is 1 then).
        areas: the area ranges.
        max_dets: the limits, ascending.
    """

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray
    iou_thresholds: np.ndarray
    recall_thresholds: np.ndarray
    category_ids: tuple[int, ...]
    areas: AreaRanges
    max_dets: tuple[int, ...]


def average(values: np.ndarray) -> float:
    """The mean, 0 to 100, of what is not -1; NaN where all is."""
    known = values[values > -1]
    return float(known.mean() * 100) if known.size else float("nan")


def summary(scores: CocoScores, limit_index: int = -1) -> dict[str, float]:
    """COCO's six main numbers, 0 to 100, all at one limit of detections.

    Args:
        scores: over the four ranges of :func:`size_ranges`.
        limit_index: which of ``scores.max_dets``.

    Returns:
        AP, AP50, AP75, APs, APm, APl; NaN without such objects.
    """
    precision = scores.precision[..., limit_index]
    whole, small, medium, large = (precision[..., place] for place in range(4))
    return {
        "AP": average(whole),
        "AP50": average(whole[IOU_50]),
        "AP75": average(whole[IOU_75]),
        "APs": average(small),
        "APm": average(medium),
        "APl": average(large),
    }
