"""COCO's metrics as an evaluator, all of them at the number of detections that the model gives."""

import logging
import os
from collections.abc import Sequence

from .base import Measured, StoredPredictionsEvaluator
from .coco_ap import COCO_AREAS, AreaRanges, CocoScores, average, summary
from .ground_truth import GroundTruth
from .predictions import Predictions, PredictionStore, lack_masks
from .results_json import CocoResults, write_results

logger = logging.getLogger(__name__)

RESULTS_FILE = "coco_instances_results.json"
COMMON_LIMIT = 100
"""Detections an image that COCO counts, and with it most published tables."""


class CellCOCOEvaluator(StoredPredictionsEvaluator):
    """COCO's average precision (https://cocodataset.org/#detection-eval) of boxes and masks.

    For each task AP, AP50, AP75, APs, APm, APl and AR, all at ``limit`` detections an image;
    ``AP@100``, which is AP at 100 as tables report it; and ``AP-<class>`` for each of several
    classes. Values are 0 to 100; NaN is what has no ground truth. They are those of Detectron2's
    ``COCOEvaluator`` with ``max_dets_per_image=limit``, save that a model that finds nothing at all
    gets 0, not NaN.

    Args:
        dataset_name: a registered name with ``json_file`` in its metadata.
        store: where predictions are kept; evaluators that run side by side share one.
        tasks: of "bbox" and "segm". A model without masks is evaluated by its boxes only.
        limit: detections an image and class that count, the best-scored.
        areas: what is small, medium and large.
        use_categories: only what is of the same class matches.
        output_folder: folder for ``coco_instances_results.json``; none by default.

    Raises:
        ValueError: a task is unknown.
    """

    def __init__(
        self,
        dataset_name: str,
        store: PredictionStore | None = None,
        *,
        tasks: Sequence[str] = ("bbox", "segm"),
        limit: int = COMMON_LIMIT,
        areas: AreaRanges = COCO_AREAS,
        use_categories: bool = True,
        output_folder: str | None = None,
    ) -> None:
        super().__init__(dataset_name, store)
        if unknown := sorted(set(tasks) - {"bbox", "segm"}):
            raise ValueError(f"TEST.TASKS names {', '.join(unknown)}; known are bbox, segm")
        self.tasks = tuple(dict.fromkeys(tasks))
        self.limit = limit
        self.areas = areas
        self.use_categories = use_categories
        self.output_folder = output_folder

    def keep(self, truth: GroundTruth, predictions: Predictions) -> None:
        """Write the predictions in COCO's result format.

        Raises:
            ValueError: a class is predicted that the data set does not have.
        """
        if self.output_folder:
            os.makedirs(self.output_folder, exist_ok=True)
            path = os.path.join(self.output_folder, RESULTS_FILE)
            written = write_results(path, truth, predictions)
            logger.info("%s: %d predictions in %s", self.dataset_name, written, path)

    def measure(self, truth: GroundTruth, predictions: Predictions) -> Measured:
        """Task -> metric -> value.

        Raises:
            ValueError: predictions are of classes, images or frames that the data set lacks.
        """
        tasks = self.tasks
        if "segm" in tasks and lack_masks(predictions):
            logger.warning("%s: the model predicts no masks, only boxes count", self.dataset_name)
            tasks = ("bbox",)
        return {task: self._task(truth, predictions, task) for task in tasks}

    def _task(self, truth: GroundTruth, predictions: Predictions, task: str) -> dict[str, float]:
        matches = truth.coco.matches(
            CocoResults(truth, predictions, task),
            task,
            max(self.limit, COMMON_LIMIT),
            self.areas,
            self.use_categories,
        )
        scores = matches.scores(sorted({self.limit, COMMON_LIMIT}))
        own, common = (scores.max_dets.index(limit) for limit in (self.limit, COMMON_LIMIT))
        return {
            **summary(scores, own),
            "AP@100": average(scores.precision[:, :, :, 0, common]),
            "AR": average(scores.recall[:, :, 0, own]),
            **self._per_class(truth, scores, own),
        }

    def _per_class(self, truth: GroundTruth, scores: CocoScores, own: int) -> dict[str, float]:
        if not self.use_categories or len(truth.categories) < 2:
            return {}
        found = {}
        for number, category in sorted(truth.categories.items()):
            place = scores.category_ids.index(category)
            found[f"AP-{truth.names[number]}"] = average(scores.precision[:, :, place, 0, own])
        return found
