"""How well instances that share pixels are found, and how well those that do not."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from .base import Measured, StoredPredictionsEvaluator
from .coco_ap import AreaRanges, average
from .coco_curves import IOU_50
from .ground_truth import GroundTruth
from .predictions import ImagePredictions, Predictions, PredictionStore, lack_masks
from .results_json import CocoResults
from .rle import rle_areas, shared_pixels

logger = logging.getLogger(__name__)

# COCO's rules for objects of another size are what is wanted of objects of another group: so the
# group takes the place of the area. BOTH lies in either range.
OVERLAPPING, BOTH, SEPARATE = 1, 2, 3
GROUPS = AreaRanges(("overlapping", "separate"), ((0.0, 2.0), (2.0, 4.0)))

RECOVERED_IOU = 0.5


class OverlapEvaluator(StoredPredictionsEvaluator):
    """Average precision of overlapping and of separate instances, and overlaps recovered.

    An instance is *overlapping* if it shares at least ``min_pixels`` pixels with another instance
    of its image, of whatever class; otherwise it is *separate*. Crowd regions are neither.

    - ``AP-overlapping``, ``AP50-overlapping``, ``AP-separate``, ``AP50-separate``: COCO's average
      precision of the group, at ``limit`` detections an image. Instances of the other group are
      ignored as COCO ignores objects of another size: a prediction prefers an instance of the
      group; one that matches only an instance of the other group is neither right nor wrong. One
      that matches none is wrong in the group of the instance, of whatever class, that it has the
      highest IoU with (the first of the file, where several have it), and in both groups if it
      touches none.
    - ``recovered``: the share of overlap that the model found twice, as it should be. Predictions
      with at least ``score_threshold`` are matched with instances of their class, one to one: the
      best-scored first, each takes the free instance of highest IoU, 0.5 or more. Of every pair of
      instances that share at least ``min_pixels``, those shared pixels count as recovered that lie
      in the predictions of both. Summed over all pairs, divided by all shared pixels. Label maps,
      and models that give each pixel to one cell, get 0.
    - ``instances-overlapping``: overlapping instances, in percent of all.

    All are 0 to 100; NaN where there is nothing to measure.

    Args:
        dataset_name: a registered name with ``json_file`` in its metadata.
        store: where predictions are kept; evaluators that run side by side share one.
        limit: detections an image and class that count, the best-scored.
        score_threshold: predictions from this score on count for ``recovered``.
        min_pixels: from so many shared pixels on, two instances overlap.
        use_categories: only what is of the same class matches.

    Raises:
        ValueError: ``min_pixels`` is under 1.
    """

    def __init__(
        self,
        dataset_name: str,
        store: PredictionStore | None = None,
        *,
        limit: int = 100,
        score_threshold: float = 0.5,
        min_pixels: int = 1,
        use_categories: bool = True,
    ) -> None:
        super().__init__(dataset_name, store)
        if min_pixels < 1:
            raise ValueError(f"instances overlap by at least 1 pixel, got min_pixels={min_pixels}")
        self.limit = limit
        self.score_threshold = score_threshold
        self.min_pixels = min_pixels
        self.use_categories = use_categories

    def measure(self, truth: GroundTruth, predictions: Predictions) -> Measured:
        """The metrics under "overlap"; none, with a warning, for a model without masks."""
        if lack_masks(predictions):
            logger.warning("%s: overlaps need masks, and there are none", self.dataset_name)
            return {}
        seen = {image_id: self._look(truth, predictions, image_id) for image_id in truth.images}
        results = CocoResults(
            truth,
            predictions,
            "segm",
            {image_id: image.prediction_groups.tolist() for image_id, image in seen.items()},
        )
        coco = truth.coco.with_areas(
            {image_id: image.truth_groups.tolist() for image_id, image in seen.items()}
        )
        scores = coco.scores(results, "segm", [self.limit], GROUPS, self.use_categories)
        metrics = {}
        for place, group in enumerate(GROUPS.names):
            precision = scores.precision[:, :, :, place]
            metrics[f"AP-{group}"] = average(precision)
            metrics[f"AP50-{group}"] = average(precision[IOU_50])
        groups = np.concatenate([np.zeros(0), *(image.truth_groups for image in seen.values())])
        found, shared = (
            sum(getattr(image, name) for image in seen.values()) for name in ("recovered", "shared")
        )
        metrics["recovered"] = _percent(found, shared)
        overlapping = int((groups == OVERLAPPING).sum())
        metrics["instances-overlapping"] = _percent(overlapping, int((groups != BOTH).sum()))
        return {"overlap": metrics}

    def _look(self, truth: GroundTruth, predictions: Predictions, image_id: Any) -> "_Image":
        annotations = truth.annotations[image_id]
        chosen = np.array([k for k, a in enumerate(annotations) if not a.get("iscrowd")], int)
        rles = truth.coco.rles(image_id)
        objects = [rles[k] for k in chosen]
        pairs, shared = overlapping_pairs(objects, self.min_pixels)
        groups = np.full(len(objects), SEPARATE)
        groups[pairs.ravel()] = OVERLAPPING
        truth_groups = np.full(len(annotations), BOTH)
        truth_groups[chosen] = groups
        found = predictions.get(image_id)
        if found is None:
            return _Image(truth_groups, np.zeros(0, int), 0, int(shared.sum()))
        _, iou = shared_pixels(found.rles(), objects)
        recovered = 0
        if len(pairs):
            numbers = {category: number for number, category in truth.categories.items()}
            classes = np.array([numbers[annotations[k]["category_id"]] for k in chosen])
            matched = self._matched(found, iou, classes)
            recovered = recovered_pixels(objects, found.rles(), pairs, matched)
        return _Image(truth_groups, _groups_of(iou, groups), recovered, int(shared.sum()))

    def _matched(self, found: ImagePredictions, iou: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """For each instance (N,) the number of its prediction, or -1."""
        allowed = iou * (found.scores >= self.score_threshold)[:, None]
        if self.use_categories:
            allowed = allowed * (found.classes[:, None] == classes)
        return match_in_order(allowed, RECOVERED_IOU)


@dataclass(frozen=True)
class _Image:
    """What one image contributes: groups of its annotations and predictions, and pixels."""

    truth_groups: np.ndarray
    prediction_groups: np.ndarray
    recovered: int
    shared: int


def overlapping_pairs(
    rles: Sequence[dict[str, Any]], min_pixels: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of masks that share pixels.

    Args:
        rles: N compressed run lengths of one frame.
        min_pixels: pairs that share fewer are left out.

    Returns:
        Pairs (P, 2), the lower index first, and the pixels (P,) that each shares.
    """
    shared, _ = shared_pixels(rles, rles)
    shared = np.triu(shared, 1)
    pairs = np.argwhere(shared >= min_pixels)
    return pairs, shared[pairs[:, 0], pairs[:, 1]]


def match_in_order(iou: np.ndarray, threshold: float) -> np.ndarray:
    """Match predictions with instances one to one.

    Args:
        iou: (M, N) of M predictions, the one that chooses first on top, with N instances.
        threshold: a pair has at least this IoU, which is over 0.

    Returns:
        For each instance (N,) its prediction, or -1.
    """
    matched = np.full(iou.shape[1], -1)
    for prediction in np.flatnonzero((iou >= threshold).any(1)):
        free = np.where(matched < 0, iou[prediction], 0)
        best = int(free.argmax())
        if free[best] >= threshold:
            matched[best] = prediction
    return matched


def recovered_pixels(
    objects: Sequence[dict[str, Any]],
    predicted: Sequence[dict[str, Any]],
    pairs: np.ndarray,
    matched: np.ndarray,
) -> int:
    """Pixels that both instances of a pair share, and both their predictions too.

    Args:
        objects: N compressed run lengths.
        predicted: M compressed run lengths.
        pairs: (P, 2) indices of instances.
        matched: for each instance (N,) its prediction, or -1.
    """
    common = []
    for first, second in pairs:
        if matched[first] >= 0 and matched[second] >= 0:
            four = [objects[first], objects[second]]
            four += [predicted[matched[first]], predicted[matched[second]]]
            common.append(mask_util.merge(four, intersect=True))
    return int(rle_areas(common).sum())


def _groups_of(iou: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Groups (M,) of predictions: that of the instance of highest IoU; BOTH if there is none."""
    if not iou.size:
        return np.full(iou.shape[0], BOTH)
    return np.where(iou.max(1) > 0, groups[iou.argmax(1)], BOTH)


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else float("nan")
