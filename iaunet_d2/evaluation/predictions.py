"""The predictions of a run over a data set, masks as run lengths, kept once for all evaluators."""

import itertools
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from pycocotools import mask as mask_util

from ..data.rasterise import Patch, encode_patch

MOST_WAITING = 4
"""Images whose masks, as full frames, may wait to be encoded."""


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
    """Run lengths of a mask; only the rectangle around its pixels is looked at closely."""
    pixels = mask.cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not len(rows):
        return mask_util.encode(np.asfortranarray(pixels, dtype=np.uint8))["counts"]
    top, left = int(rows[0]), int(columns[0])
    patch = Patch(top, left, pixels[top : rows[-1] + 1, left : columns[-1] + 1])
    return encode_patch(patch, pixels.shape)["counts"].encode("ascii")


class PredictionStore:
    """Collects predictions; several evaluators of a data set share one.

    Every evaluator hands every output to the store; what it has already, it does not encode again.
    Masks are encoded in a thread of their own, while the model looks at the next images.
    """

    def __init__(self) -> None:
        self._encoder = ThreadPoolExecutor(1, "encoder")
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._own: dict[int, Future[ImagePredictions]] = {}
        self._waiting: deque[Future[ImagePredictions]] = deque()
        self._gathered: dict[int, ImagePredictions] | None = None

    def add(self, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
        """Keep the "instances" of ``outputs`` under the "image_id" of ``inputs``."""
        for sample, output in zip(inputs, outputs, strict=True):
            if "instances" in output and sample["image_id"] not in self._own:
                found = self._encoder.submit(image_predictions, output["instances"])
                self._own[sample["image_id"]] = found
                self._waiting.append(found)
                if len(self._waiting) > MOST_WAITING:
                    self._waiting.popleft().result()

    def wait(self) -> None:
        """Return when everything that was added is encoded."""
        while self._waiting:
            self._waiting.popleft().result()

    def gathered(self) -> Predictions | None:
        """The predictions of all processes, in the main one; None in the others.

        Every process must call it equally often.
        """
        if self._gathered is None:
            own = {image_id: found.result() for image_id, found in self._own.items()}
            if comm.get_world_size() == 1:
                return own
            comm.synchronize()
            parts = comm.gather(own, dst=0)
            self._gathered = dict(itertools.chain(*(part.items() for part in parts)))
        return self._gathered if comm.is_main_process() else None
