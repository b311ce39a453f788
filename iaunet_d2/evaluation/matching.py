"""Pixels that true and predicted instances share, and which of them belong together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from .rle import rle_areas, shared_pixels


@dataclass(frozen=True)
class Contingency:
    """Pixels of N true and M predicted instances of one image.

    Attributes:
        shared: (N, M) int64, pixels that both have.
        truth: (N,) int64, pixels of each true instance, over 0.
        predicted: (M,) int64, pixels of each predicted instance, over 0.
    """

    shared: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray

    def iou(self) -> np.ndarray:
        """Intersection over union (N, M), 0 to 1."""
        return self.shared / (self.truth[:, None] + self.predicted - self.shared)

    def dice(self) -> np.ndarray:
        """Twice the intersection over the sum of both areas (N, M), 0 to 1."""
        return 2 * self.shared / (self.truth[:, None] + self.predicted)


def contingency_of_masks(
    truth: Sequence[dict[str, Any]], predicted: Sequence[dict[str, Any]]
) -> Contingency:
    """Count the pixels of masks that may overlap each other.

    Args:
        truth: N compressed run lengths, none of them empty.
        predicted: M of the same frame.
    """
    shared, _ = shared_pixels(truth, predicted)
    return Contingency(shared, rle_areas(truth), rle_areas(predicted))


def pair_count(hits: np.ndarray) -> int:
    """The most pairs (row, column) with ``hits`` true that share no row and no column.

    Args:
        hits: (N, M) bool.
    """
    rows, columns = hits.any(1), hits.any(0)
    candidates = hits[rows][:, columns]
    pairs = int(candidates.sum())
    if pairs == candidates.shape[0] == candidates.shape[1]:
        return pairs  # each has one partner, as all have at an IoU over 0.5 without overlaps
    chosen = linear_sum_assignment(candidates, maximize=True)
    return int(candidates[chosen].sum())


def greedy_pairs(values: np.ndarray, above: float) -> tuple[np.ndarray, np.ndarray]:
    """Pair rows with columns one to one, the highest value first.

    Args:
        values: (N, M).
        above: only values over it make a pair.

    Returns:
        Row and column of each pair, (K,) each.
    """
    rows, columns = np.nonzero(values > above)
    order = np.argsort(-values[rows, columns], kind="stable")
    free_rows, free_columns = np.ones(values.shape[0], bool), np.ones(values.shape[1], bool)
    kept = []
    for k in order:
        if free_rows[rows[k]] and free_columns[columns[k]]:
            free_rows[rows[k]] = free_columns[columns[k]] = False
            kept.append(k)
    chosen = np.array(kept, dtype=np.int64)
    return rows[chosen], columns[chosen]


def detection_counts(
    contingency: Contingency, thresholds: Sequence[float], strict: bool = False
) -> np.ndarray:
    """True positives, false positives and false negatives at IoU thresholds.

    Instances are paired one to one, so that there are as many pairs as can be
    (``scipy.optimize.linear_sum_assignment``).

    Args:
        contingency: of one image.
        thresholds: T numbers; a pair has at least this IoU.
        strict: a pair has more than it.

    Returns:
        (T, 3) int64. Those of several images may be summed.
    """
    iou = contingency.iou()
    found = [pair_count(iou > t if strict else iou >= t) for t in thresholds]
    true_positives = np.array(found, dtype=np.int64)
    missed, wrong = len(contingency.truth), len(contingency.predicted)
    return np.stack([true_positives, wrong - true_positives, missed - true_positives], axis=1)


def ratio(part: Any, whole: Any) -> np.ndarray:
    """``part / whole`` by element; NaN where ``whole`` is 0."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole != 0)


def mean(values: Any) -> float:
    """Mean without NaNs; NaN if nothing is left."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[~np.isnan(numbers)]
    return float(numbers.mean()) if numbers.size else float("nan")


def percent(metrics: dict[str, float]) -> dict[str, float]:
    """Shares (0 to 1) as 0 to 100."""
    return {name: 100.0 * float(value) for name, value in metrics.items()}
