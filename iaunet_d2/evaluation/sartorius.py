"""The metric of the Sartorius Cell Instance Segmentation competition.

https://www.kaggle.com/c/sartorius-cell-instance-segmentation/overview/evaluation
"""

import numpy as np

from .ground_truth import GroundTruth
from .label_maps import average_precision_at, foreground, predicted_map
from .mask_evaluator import ImageMasks, MaskEvaluator, image_masks
from .matching import Contingency, detection_counts, mean, percent
from .predictions import Predictions
from .rle import rle_areas

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def contingency_without_overlap(image: ImageMasks) -> Contingency:
    """Pixels of true instances as they are, and of predictions that may not overlap.

    The competition rejects predictions that share a pixel. Such a pixel goes to the best-scored;
    a prediction of which nothing is left does not count.
    """
    labels = predicted_map(image).ravel(order="F")
    size = len(image.predicted) + 1
    rows = [np.bincount(labels[foreground(rle)], minlength=size)[1:] for rle in image.truth]
    shared = np.array(rows, dtype=np.int64).reshape(len(rows), size - 1)
    found = np.bincount(labels, minlength=size)[1:]
    areas = rle_areas(image.truth)
    return Contingency(shared[:, found > 0], areas, found[found > 0])


class SartoriusEvaluator(MaskEvaluator):
    """TP / (TP + FP + FN) over IoU thresholds from 0.5 to 0.95; classes and scores are ignored.

    A prediction hits a true instance if their IoU is over the threshold, and each may hit one.

    - ``mP``: mean over thresholds, then over images, as the competition has it;
    - ``mP-pooled``: counts summed over images, then mean over thresholds, as it is often
      re-implemented;
    - ``mP-<class>``: ``mP`` of the images where that class is the most frequent in the ground
      truth, for a data set of several classes.

    An image without true and predicted instances is left out of the means.
    """

    task = "sartorius"

    def metrics(self, truth: GroundTruth, predictions: Predictions) -> dict[str, float]:
        precisions: list[float] = []
        kinds: list[int] = []
        pooled = np.zeros((len(THRESHOLDS), 3), dtype=np.int64)
        for image in image_masks(truth, predictions, self.score_threshold):
            counts = detection_counts(contingency_without_overlap(image), THRESHOLDS, strict=True)
            pooled += counts
            precisions.append(float(np.mean(average_precision_at(counts))))
            present = image.truth_classes
            kinds.append(int(np.bincount(present).argmax()) if present.size else -1)
        values = {"mP": mean(precisions), "mP-pooled": float(np.mean(average_precision_at(pooled)))}
        if len(truth.names) > 1:
            for number, name in enumerate(truth.names):
                of_kind = [p for p, kind in zip(precisions, kinds, strict=True) if kind == number]
                values[f"mP-{name}"] = mean(of_kind)
        return percent(values)
