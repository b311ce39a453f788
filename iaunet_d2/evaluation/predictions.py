"""The predictions of a run over a data set, masks as run lengths, kept once for all evaluators."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from pycocotools import mask as mask_util


@dataclass(frozen=True)
class ImagePredictions:
    """Predicted instances of one image, the best-scored first.

    Attributes:
        scores: (N,) float64, descending.
        classes: (N,) int64, contiguous class numbers from 0.
        boxes: (N, 4) float64, left, top, right, bottom in pixels.
        counts: N compressed run lengths (pycocotools' ``counts``); None for a model without masks.
        height: of the image.
        width: of the image.
    """

    scores: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    counts: tuple[bytes, ...] | None
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.scores)

    def rles(self) -> list[dict[str, Any]]:
        """Masks as pycocotools takes them; empty for a model without masks."""
        size = [self.height, self.width]
        return [{"size": size, "counts": counts} for counts in self.counts or ()]

    def masks(self) -> np.ndarray:
        """Masks (N, H, W), bool. Only for a few images at a time."""
        if not self.counts:
            return np.zeros((0, self.height, self.width), dtype=bool)
        return mask_util.decode(self.rles()).transpose(2, 0, 1).astype(bool)

    def take(self, chosen: np.ndarray) -> "ImagePredictions":
        """Those at the indices (K,), or where a mask (N,) is true, in the order they have."""
        indices = np.arange(len(self))[chosen]
        return ImagePredictions(
            self.scores[indices],
            self.classes[indices],
            self.boxes[indices],
            None if self.counts is None else tuple(self.counts[i] for i in indices),
            self.height,
            self.width,
        )

    def above(self, score: float) -> "ImagePredictions":
        """Those with at least this score."""
        return self.take(self.scores >= score)


Predictions = Mapping[int, ImagePredictions]
"""Image id -> its predictions."""


def lack_masks(predictions: Predictions) -> bool:
    """Whether the model gives none; an image in which nothing was found does not tell."""
    return any(len(found) and found.counts is None for found in predictions.values())


def image_predictions(instances: Any) -> ImagePredictions:
    """Encode Detectron2 ``Instances``: pred_boxes, scores, pred_classes and perhaps pred_masks."""
    order = np.argsort(-instances.scores.detach().cpu().numpy().astype(np.float64), kind="stable")
    counts = None
    if instances.has("pred_masks"):
        masks = instances.pred_masks
        counts = tuple(_encode(masks[int(i)]) for i in order)
    height, width = instances.image_size
    return ImagePredictions(
        instances.scores.detach().cpu().numpy().astype(np.float64)[order],
        instances.pred_classes.cpu().numpy().astype(np.int64)[order],
        instances.pred_boxes.tensor.detach().cpu().numpy().astype(np.float64).reshape(-1, 4)[order],
        counts,
        int(height),
        int(width),
    )


def _encode(mask: Any) -> bytes:
    pixels = mask.cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    return mask_util.encode(np.asfortranarray(pixels, dtype=np.uint8))["counts"]


class PredictionStore:
    """Collects predictions; several evaluators of a data set share one.

    Every evaluator hands every output to the store; what it has already, it does not encode again.
    """

    def __init__(self) -> None:
        self._own: dict[int, ImagePredictions] = {}
        self._gathered: dict[int, ImagePredictions] | None = None

    def reset(self) -> None:
        """Forget everything."""
        self._own = {}
        self._gathered = None

    def add(self, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
        """Keep the "instances" of ``outputs`` under the "image_id" of ``inputs``."""
        for sample, output in zip(inputs, outputs, strict=True):
            if "instances" in output and sample["image_id"] not in self._own:
                self._own[sample["image_id"]] = image_predictions(output["instances"])

    def gathered(self) -> Predictions | None:
        """The predictions of all processes, in the main one; None in the others.

        Every process must call it equally often.
        """
        if comm.get_world_size() == 1:
            return self._own
        if self._gathered is None:
            comm.synchronize()
            parts = comm.gather(self._own, dst=0)
            self._gathered = dict(itertools.chain(*(part.items() for part in parts)))
        return self._gathered if comm.is_main_process() else None
