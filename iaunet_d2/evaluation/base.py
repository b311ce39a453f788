"""What the evaluators of this package have in common."""

import logging
from typing import Any

from detectron2.evaluation import DatasetEvaluator

from .ground_truth import GroundTruth, ground_truth
from .predictions import Predictions, PredictionStore

logger = logging.getLogger(__name__)

Measured = dict[str, dict[str, float]]
"""Task -> metric -> value; shares and precisions are 0 to 100, NaN is what cannot be computed."""


class StoredPredictionsEvaluator(DatasetEvaluator):
    """Collects predictions in a store, and measures them at the end, on the main process.

    A subclass has :meth:`measure`.

    Args:
        dataset_name: a registered name with ``json_file`` in its metadata.
        store: where predictions are kept; evaluators that run side by side share one.
    """

    def __init__(self, dataset_name: str, store: PredictionStore | None = None) -> None:
        self.dataset_name = dataset_name
        self.store = store or PredictionStore()

    def reset(self) -> None:
        self.store.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        self.store.add(inputs, outputs)

    def evaluate(self) -> Measured:
        """The metrics; empty on other processes than the main one."""
        predictions = self.store.gathered()
        if predictions is None:
            return {}
        if not predictions:
            logger.warning("%s: no predictions were received", self.dataset_name)
            return {}
        truth = ground_truth(self.dataset_name)
        self.keep(truth, predictions)
        if not truth.annotated:
            logger.info("%s has no annotations to evaluate with", self.dataset_name)
            return {}
        return self.measure(truth, predictions)

    def keep(self, truth: GroundTruth, predictions: Predictions) -> None:
        """Write predictions; nothing by default. Comes before :meth:`measure`, if that comes."""

    def measure(self, truth: GroundTruth, predictions: Predictions) -> Measured:
        """Compute the metrics of predictions against the ground truth.

        Images of the ground truth that are not among the predictions count as images for which
        nothing was found.
        """
        raise NotImplementedError(f"{type(self).__name__}.measure")
