"""Metrics of label maps, where a pixel belongs to one instance or to none.

All of them ignore classes. What an image without true and without predicted instances would have
is 0 / 0: it is NaN (as Cellpose has it; StarDist says 0) and is left out of means over images.
Anything predicted where nothing is, or nothing where something is, is 0.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..data.segmentation import run_lengths
from .ground_truth import GroundTruth
from .mask_evaluator import ImageMasks, MaskEvaluator, image_masks
from .matching import Contingency, detection_counts, mean, percent, ratio
from .predictions import Predictions, PredictionStore
from .rle import rle_areas

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def foreground(rle: dict[str, Any]) -> np.ndarray:
    """Pixels of a mask as indices (area,), int64, into its frame read column by column.

    This takes time and memory by the mask's area, and decoding takes it by the frame's, which
    matters for thousands of cells in a slide.
    """
    runs = run_lengths(rle["counts"])
    starts, lengths = (np.cumsum(runs) - runs)[1::2], runs[1::2]
    return np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)


def label_map(
    masks: Sequence[dict[str, Any]], priorities: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Paint masks into one map; a pixel of several belongs to the one of highest priority.

    Among equal priorities, to the one that comes first.

    Args:
        masks: N compressed run lengths.
        priorities: (N,), such as scores.
        height: of the frame.
        width: of the frame.

    Returns:
        (height, width) int32: 0, or k + 1 for the mask at index k. A mask of which nothing is left
        has no label.
    """
    columns = np.zeros(height * width, dtype=np.int32)
    for k in np.argsort(-np.asarray(priorities), kind="stable")[::-1]:
        columns[foreground(masks[k])] = k + 1
    return columns.reshape(height, width, order="F")


def truth_map(image: ImageMasks) -> np.ndarray:
    """Label map (H, W) of true instances; where they overlap, the one of fewer pixels is on top.

    So a nucleus stays whole on its cell, and a small cell on a large one.
    """
    return label_map(image.truth, -rle_areas(image.truth), image.height, image.width)


def predicted_map(image: ImageMasks) -> np.ndarray:
    """Label map (H, W) of predicted instances; where they overlap, the best-scored is on top."""
    return label_map(image.predicted, image.scores, image.height, image.width)


def overlap_matrix(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Pixels by label in one map and in the other, background 0 included.

    Args:
        truth: (H, W), whole numbers from 0.
        predicted: (H, W), whole numbers from 0.

    Returns:
        (N + 1, M + 1) int64 for the highest labels N and M.

    Raises:
        ValueError: the shapes differ.
    """
    if truth.shape != predicted.shape:
        raise ValueError(
            f"label maps of shapes {truth.shape} and {predicted.shape}; they must be the same frame"
        )
    rows, columns = (int(labels.max(initial=0)) + 1 for labels in (truth, predicted))
    both = truth.astype(np.int64) * columns + predicted
    return np.bincount(both.ravel(), minlength=rows * columns).reshape(rows, columns)


def contingency_of_maps(truth: np.ndarray, predicted: np.ndarray) -> Contingency:
    """Pixels of the instances in two label maps (H, W); labels without pixels are left out."""
    overlap = overlap_matrix(truth, predicted)
    areas, found = overlap.sum(1)[1:], overlap.sum(0)[1:]
    shared = overlap[1:, 1:][areas > 0][:, found > 0]
    return Contingency(shared, areas[areas > 0], found[found > 0])


def aggregated_jaccard(contingency: Contingency) -> float:
    """Aggregated Jaccard Index (Kumar et al. 2017, algorithm 1), 0 to 1.

    Every true instance is held against the prediction of highest IoU, which may serve several;
    intersections and unions are summed. True instances that meet no prediction, and predictions
    that were held against none, add their pixels to the unions.
    """
    shared, areas, found = contingency.shared, contingency.truth, contingency.predicted
    if not (areas.size and found.size):
        return float(ratio(0, areas.sum() + found.sum()))
    best = contingency.iou().argmax(1)
    intersections = shared[np.arange(areas.size), best]
    met = intersections > 0
    unused = np.ones(found.size, dtype=bool)
    unused[best[met]] = False
    unions = areas.sum() + found[best[met]].sum() - intersections.sum() + found[unused].sum()
    return float(intersections.sum() / unions)


def aji(truth: np.ndarray, predicted: np.ndarray) -> float:
    """:func:`aggregated_jaccard` of two label maps (H, W)."""
    return aggregated_jaccard(contingency_of_maps(truth, predicted))


def matched_jaccard(contingency: Contingency) -> float:
    """The index as Cellpose computes it (``cellpose.metrics.aggregated_jaccard_index``), 0 to 1.

    Instances are paired one to one: as many pairs with an IoU of 0.5 or more as can be, then the
    highest sum of IoUs. The pixels that pairs share are divided by those of either foreground, of
    which none counts twice, as it does in :func:`aggregated_jaccard`.
    """
    shared, areas, found = contingency.shared, contingency.truth, contingency.predicted
    foreground_pixels = areas.sum() + found.sum() - shared.sum()
    if not (areas.size and found.size):
        return float(ratio(0, foreground_pixels))
    iou = contingency.iou()
    gain = (iou >= 0.5) + iou / (2 * min(iou.shape))
    return float(shared[linear_sum_assignment(gain, maximize=True)].sum() / foreground_pixels)


def panoptic_sums(contingency: Contingency) -> np.ndarray:
    """What :func:`panoptic_quality` is made of; those of several images may be summed.

    Returns:
        (4,) float64: sum of the IoUs of pairs with an IoU over 0.5, true positives, false
        positives, false negatives. Without overlaps, such pairs are one to one.
    """
    iou = contingency.iou()
    pairs = iou[iou > 0.5]
    found, wanted = len(contingency.predicted), len(contingency.truth)
    return np.array([pairs.sum(), pairs.size, found - pairs.size, wanted - pairs.size])


def panoptic_quality(sums: np.ndarray) -> tuple[float, float, float]:
    """Panoptic, segmentation and recognition quality (Kirillov et al. 2019, equations 1 and 2).

    Args:
        sums: of :func:`panoptic_sums`.

    Returns:
        PQ, SQ and RQ, 0 to 1, PQ = SQ * RQ. Without a pair, SQ is 0.
    """
    iou, true_positives, wrong, missed = (float(v) for v in sums)
    recognition = float(ratio(true_positives, true_positives + wrong / 2 + missed / 2))
    if not true_positives:
        return recognition, recognition, recognition  # 0, or NaN of nothing at all
    segmentation = iou / true_positives
    return segmentation * recognition, segmentation, recognition


def average_precision_at(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FP + FN), which StarDist and Cellpose report as average precision.

    Args:
        counts: (..., 3), of :func:`detection_counts`.
    """
    return ratio(counts[..., 0], counts.sum(-1))


def f1_score(counts: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of counts (..., 3)."""
    return ratio(2 * counts[..., 0], counts[..., 0] + counts.sum(-1))


class LabelMapEvaluator(MaskEvaluator):
    """AJI, PQ and average precision of label maps made of the instances; classes are ignored.

    Where predictions overlap, the best-scored is on top; where true instances do, the smaller one.

    - ``AJI``: mean over images; ``AJI-matched``: the same as Cellpose computes it;
    - ``PQ``, ``SQ``, ``RQ``, ``F1@0.5``: of the counts summed over images. PQ's pairs have an IoU
      over 0.5, as it was defined; StarDist also takes those of exactly 0.5;
    - ``AP@t``: TP / (TP + FP + FN) at IoU >= t, mean over images, as in Cellpose, and ``AP``, its
      mean over the thresholds;
    - ``AP-pooled@t``, ``AP-pooled``: the same of the counts summed over images, as in StarDist's
      ``matching_dataset``.

    Args:
        dataset_name: a registered name with ``json_file`` in its metadata.
        store: where predictions are kept; evaluators that run side by side share one.
        score_threshold: predictions from this score on count.
        classes: contiguous class numbers to look at; all if there are none.
        thresholds: of the IoU.
    """

    task = "label_map"

    def __init__(
        self,
        dataset_name: str,
        store: PredictionStore | None = None,
        score_threshold: float = 0.5,
        classes: tuple[int, ...] = (),
        thresholds: tuple[float, ...] = THRESHOLDS,
    ) -> None:
        super().__init__(dataset_name, store, score_threshold)
        self.classes = classes
        self.thresholds = thresholds

    def metrics(self, truth: GroundTruth, predictions: Predictions) -> dict[str, float]:
        steps = (*self.thresholds, 0.5)
        jaccard: list[tuple[float, float]] = []
        counts = [np.zeros((0, len(steps), 3), dtype=np.int64)]
        quality = np.zeros(4)
        for image in image_masks(truth, predictions, self.score_threshold, self.classes):
            contingency = contingency_of_maps(truth_map(image), predicted_map(image))
            jaccard.append((aggregated_jaccard(contingency), matched_jaccard(contingency)))
            quality += panoptic_sums(contingency)
            counts.append(detection_counts(contingency, steps)[None])
        images = np.concatenate(counts)
        pooled = images.sum(0)
        whole, matched = np.reshape(jaccard, (-1, 2)).T
        values = {"AJI": mean(whole), "AJI-matched": mean(matched)}
        values.update(zip(("PQ", "SQ", "RQ"), panoptic_quality(quality), strict=True))
        values["F1@0.5"] = float(f1_score(pooled[-1]))
        own = [mean(column) for column in average_precision_at(images)[:, :-1].T]
        values.update(self._series("AP", own))
        values.update(self._series("AP-pooled", average_precision_at(pooled)[:-1].tolist()))
        return percent(values)

    def _series(self, name: str, values: list[float]) -> dict[str, float]:
        at = {f"{name}@{t:g}": v for t, v in zip(self.thresholds, values, strict=True)}
        return {name: float(np.mean(values)), **at}
