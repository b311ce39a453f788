"""What the evaluators that look at whole masks have in common."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .base import Measured, StoredPredictionsEvaluator
from .ground_truth import GroundTruth
from .predictions import Predictions, PredictionStore, lack_masks
from .rle import rle_areas

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageMasks:
    """True and predicted instances of one image; crowd regions and empty masks are left out.

    Attributes:
        height: of the image.
        width: of the image.
        truth: N compressed run lengths.
        truth_classes: (N,) int64, contiguous class numbers.
        predicted: M compressed run lengths, the best-scored first.
        predicted_classes: (M,) int64, contiguous class numbers.
        scores: (M,) float64, descending.
    """

    height: int
    width: int
    truth: list[dict[str, Any]]
    truth_classes: np.ndarray
    predicted: list[dict[str, Any]]
    predicted_classes: np.ndarray
    scores: np.ndarray


def image_masks(
    truth: GroundTruth,
    predictions: Predictions,
    score_threshold: float,
    classes: tuple[int, ...] = (),
) -> Iterator[ImageMasks]:
    """Every image of the ground truth, one after the other.

    Args:
        truth: images without predictions come too.
        predictions: with masks.
        score_threshold: predictions from this score on are taken.
        classes: contiguous class numbers to keep; all if there are none.

    Raises:
        ValueError: predictions are of another frame than the image of the ground truth.
    """
    numbers = {category: number for number, category in truth.categories.items()}
    for image_id, image in truth.images.items():
        size = (image["height"], image["width"])
        annotations = truth.instances(image_id, classes)
        rles = truth.rles(annotations, image_id)
        own = np.array([numbers[a["category_id"]] for a in annotations], dtype=np.int64)
        kept = _with_pixels(rles)
        found: list[dict[str, Any]] = []
        labels, scores = np.zeros(0, np.int64), np.zeros(0)
        if image_id in predictions:
            chosen = predictions[image_id].above(score_threshold)
            _require_size(image_id, (chosen.height, chosen.width), size)
            found, labels, scores = chosen.rles(), chosen.classes, chosen.scores
        taken = _with_pixels(found)
        if classes:
            taken = taken[np.isin(labels[taken], classes)]
        yield ImageMasks(
            *size,
            [rles[k] for k in kept],
            own[kept],
            [found[k] for k in taken],
            labels[taken],
            scores[taken],
        )


def _with_pixels(rles: list[dict[str, Any]]) -> np.ndarray:
    return np.flatnonzero(rle_areas(rles))


def _require_size(image_id: int, found: tuple[int, int], needed: tuple[int, int]) -> None:
    if found != needed:
        raise ValueError(
            f"predictions of image {image_id} have height x width {found[0]}x{found[1]}, its entry "
            f"in the annotation file {needed[0]}x{needed[1]}; the two must be the same frame. "
            "Correct the annotation file."
        )


class MaskEvaluator(StoredPredictionsEvaluator):
    """Measures masks with at least a score; a subclass has ``task`` and :meth:`metrics`.

    Args:
        dataset_name: a registered name with ``json_file`` in its metadata.
        store: where predictions are kept; evaluators that run side by side share one.
        score_threshold: predictions from this score on count (``TEST.SCORE_THRESH``).
    """

    task: ClassVar[str]

    def __init__(
        self,
        dataset_name: str,
        store: PredictionStore | None = None,
        score_threshold: float = 0.5,
    ) -> None:
        super().__init__(dataset_name, store)
        self.score_threshold = score_threshold

    def measure(self, truth: GroundTruth, predictions: Predictions) -> Measured:
        """The metrics under the task's name; none, with a warning, for a model without masks."""
        if lack_masks(predictions):
            logger.warning(
                "%s: %s needs masks, and the model predicts boxes only",
                self.dataset_name,
                self.task,
            )
            return {}
        return {self.task: self.metrics(truth, predictions)}

    def metrics(self, truth: GroundTruth, predictions: Predictions) -> dict[str, float]:
        """Metric -> value, 0 to 100, or NaN for what cannot be computed."""
        raise NotImplementedError(f"{type(self).__name__}.metrics")
