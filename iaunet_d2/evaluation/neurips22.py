"""The metric of the NeurIPS 2022 Cell Segmentation challenge.

Ma et al. 2024, https://doi.org/10.1038/s41592-024-02233-6; as the organisers' script has it:
https://github.com/JunMa11/NeurIPS-CellSeg/blob/main/baseline/compute_metric.py
"""

from collections.abc import Iterable, Iterator

import numpy as np

from .ground_truth import GroundTruth
from .label_maps import contingency_of_maps, predicted_map, truth_map
from .mask_evaluator import MaskEvaluator, image_masks
from .matching import detection_counts, mean, percent
from .predictions import Predictions, PredictionStore

FRAME = 2
"""Cells with a pixel in so many outer rows or columns do not count."""
LARGE_IMAGE = 25_000_000
"""Images from so many pixels on are counted tile by tile."""
TILE = 2000
"""Side of a tile in pixels."""


def without_frame_cells(labels: np.ndarray, frame: int = FRAME) -> np.ndarray:
    """Drop the instances that touch the outer rows and columns, and number the others from 1.

    Args:
        labels: (H, W), whole numbers from 0; not changed.
        frame: how many rows and columns, on each side.
    """
    present = np.bincount(labels.ravel(order="K"), minlength=1) > 0
    for strip in (labels[:frame], labels[-frame:], labels[:, :frame], labels[:, -frame:]):
        present[np.unique(strip)] = False
    present[0] = False
    return np.where(present, np.cumsum(present), 0)[labels]


def tiles(labels: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Cut a label map (H, W) into squares, the last ones filled up with background."""
    height, width = labels.shape
    for top in range(0, height, side):
        for left in range(0, width, side):
            part = labels[top : top + side, left : left + side]
            missing = [(0, side - length) for length in part.shape]
            yield np.pad(part, missing)


def cell_counts(
    truth: np.ndarray,
    predicted: np.ndarray,
    threshold: float = 0.5,
    large_image: int = LARGE_IMAGE,
    tile: int = TILE,
) -> np.ndarray:
    """Correct, wrong and missed cells of an image, without those at its frame.

    Large images are cut into tiles, each an image of its own: cells at a tile's frame, true or
    predicted, do not count, and the padding moves the frame away from the image's right and
    lower edge.

    Args:
        truth: label map (H, W).
        predicted: label map (H, W).
        threshold: IoU that a correct cell has at least.
        large_image: pixels from which an image is cut.
        tile: side of a tile.

    Returns:
        (3,) int64: true positives, false positives, false negatives.
    """
    counts = np.zeros(3, dtype=np.int64)
    pairs: Iterable[tuple[np.ndarray, np.ndarray]] = [(truth, predicted)]
    if truth.size >= large_image:
        pairs = zip(tiles(truth, tile), tiles(predicted, tile), strict=True)
    for ours, theirs in pairs:
        contingency = contingency_of_maps(without_frame_cells(ours), without_frame_cells(theirs))
        counts += detection_counts(contingency, [threshold])[0]
    return counts


def precision_recall_f1(counts: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 of counts (3,), 0 to 1.

    They are 0 without a correct cell, also where there is no cell and none was predicted.
    """
    correct, wrong, missed = (int(v) for v in counts)
    if not correct:
        return 0.0, 0.0, 0.0
    precision, recall = correct / (correct + wrong), correct / (correct + missed)
    return precision, recall, 2 * precision * recall / (precision + recall)


def foreground_dice(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Dice coefficient of what is not background in two label maps (H, W); 1 if all of it is."""
    first, second = truth > 0, predicted > 0
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else 1.0


class NeurIPS22Evaluator(MaskEvaluator):
    """F1 at an IoU of at least 0.5, of cells that do not touch the frame; classes are ignored.

    ``F1`` and ``F1-median`` over images rank the challenge; beside them are the means of
    ``precision``, ``recall`` and ``Dice``, the last of the whole foreground, frame included. The
    values of an image are rounded to 4 decimals, as in the challenge. Where predictions overlap,
    the best-scored is on top; where true instances do, the smaller one.

    Args:
        dataset_name: a registered name with ``json_file`` in its metadata.
        store: where predictions are kept; evaluators that run side by side share one.
        score_threshold: predictions from this score on count.
        large_image: pixels from which an image is counted tile by tile.
        tile: side of a tile in pixels.
    """

    task = "neurips22"

    def __init__(
        self,
        dataset_name: str,
        store: PredictionStore | None = None,
        score_threshold: float = 0.5,
        large_image: int = LARGE_IMAGE,
        tile: int = TILE,
    ) -> None:
        super().__init__(dataset_name, store, score_threshold)
        self.large_image = large_image
        self.tile = tile

    def metrics(self, truth: GroundTruth, predictions: Predictions) -> dict[str, float]:
        rows = []
        for image in image_masks(truth, predictions, self.score_threshold):
            ours, theirs = truth_map(image), predicted_map(image)
            counts = cell_counts(ours, theirs, 0.5, self.large_image, self.tile)
            measured = precision_recall_f1(counts)
            rows.append(np.round([*measured, foreground_dice(ours, theirs)], 4))
        precision, recall, f1, dice = np.array(rows).reshape(-1, 4).T
        values = {
            "F1": mean(f1),
            "F1-median": float(np.median(f1)) if f1.size else float("nan"),
            "precision": mean(precision),
            "recall": mean(recall),
            "Dice": mean(dice),
        }
        return percent(values)
