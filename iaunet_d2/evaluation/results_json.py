"""Predictions in COCO's result format (https://cocodataset.org/#format-results)."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_write
from .ground_truth import GroundTruth
from .predictions import ImagePredictions, Predictions


class CocoResults(Mapping[Any, list[dict[str, Any]]]):
    """Image id -> its predictions in COCO's format, made when they are asked for.

    Each has image_id, category_id (the file's), score and, for "segm", segmentation, for "bbox",
    bbox (x, y, width, height). Never both: of a result with a box, COCO's tools take the box's
    area for the mask's.

    Args:
        truth: has the category ids.
        predictions: image id -> predictions.
        task: "segm" or "bbox".
        areas: image id -> the area of each prediction, if not that of its mask or box.

    Raises:
        ValueError: a class is predicted that the data set does not have, masks are wanted of a
            model without them, or predictions are of another frame than their image.
    """

    def __init__(
        self,
        truth: GroundTruth,
        predictions: Predictions,
        task: str,
        areas: Mapping[Any, Sequence[float]] | None = None,
    ) -> None:
        require_known_classes(truth, predictions)
        if task == "segm":
            _require_masks(truth, predictions)
        self.truth = truth
        self.predictions = predictions
        self.task = task
        self.areas = areas

    def __getitem__(self, image_id: Any) -> list[dict[str, Any]]:
        found = self.predictions[image_id]
        name = "segmentation" if self.task == "segm" else "bbox"
        shapes = found.rles() if self.task == "segm" else boxes_xywh(found).tolist()
        categories = self.truth.categories
        columns = (found.classes.tolist(), found.scores.tolist(), shapes)
        items = [
            {
                "image_id": image_id,
                "category_id": categories[number],
                "score": score,
                name: shape,
            }
            for number, score, shape in zip(*columns, strict=True)
        ]
        if self.areas is not None:
            for item, area in zip(items, self.areas[image_id], strict=True):
                item["area"] = area
        return items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.predictions)

    def __len__(self) -> int:
        return len(self.predictions)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self.predictions


def coco_results(
    truth: GroundTruth, predictions: Predictions, task: str
) -> Iterator[dict[str, Any]]:
    """The predictions of all images, one after the other; see :class:`CocoResults`."""
    return itertools.chain.from_iterable(CocoResults(truth, predictions, task).values())


def write_results(path: str | Path, truth: GroundTruth, predictions: Predictions) -> int:
    """Write all predictions as a JSON list, boxes and masks, image by image.

    Args:
        path: of the file; it appears when it is complete.
        truth: has the category ids.
        predictions: image id -> predictions.

    Returns:
        How many there are.

    Raises:
        ValueError: a class is predicted that the data set does not have.
    """
    require_known_classes(truth, predictions)
    written = 0
    with atomic_write(path) as stream:
        stream.write(b"[")
        for image_id, found in predictions.items():
            items = _complete(image_id, found, truth)
            if not items:
                continue
            text = json.dumps(items)[1:-1]
            stream.write(((",\n" if written else "") + text).encode("utf-8"))
            written += len(items)
        stream.write(b"]")
    return written


def _complete(image_id: Any, found: ImagePredictions, truth: GroundTruth) -> list[dict[str, Any]]:
    """An image's predictions with boxes and, where there are any, masks as text."""
    columns = (found.classes.tolist(), boxes_xywh(found).tolist(), found.scores.tolist())
    items: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "category_id": truth.categories[number],
            "bbox": box,
            "score": score,
        }
        for number, box, score in zip(*columns, strict=True)
    ]
    for item, counts in zip(items, found.counts or (), strict=False):
        size = [found.height, found.width]
        item["segmentation"] = {"size": size, "counts": counts.decode("ascii")}
    return items


def boxes_xywh(found: ImagePredictions) -> np.ndarray:
    """Boxes (N, 4) as left, top, width, height in pixels."""
    return np.concatenate([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], axis=1)


def require_known_classes(truth: GroundTruth, predictions: Predictions) -> None:
    """Refuse class numbers that the data set does not have.

    Raises:
        ValueError: there are some.
    """
    predicted = {int(k) for found in predictions.values() for k in np.unique(found.classes)}
    if unknown := predicted - set(truth.categories):
        raise ValueError(
            f"predicted classes {sorted(unknown)}, but the data set has "
            f"{len(truth.categories)} classes: make the model's NUM_CLASSES agree with it"
        )


def _require_masks(truth: GroundTruth, predictions: Predictions) -> None:
    for image_id, found in predictions.items():
        if found.counts is None and len(found):
            raise ValueError("the model predicts no masks: evaluate the task bbox only")
        image = truth.images.get(image_id)
        if image is not None and (found.height, found.width) != (image["height"], image["width"]):
            raise ValueError(
                f"predictions of image {image_id} have height x width "
                f"{found.height}x{found.width}, its entry in the annotation file "
                f"{image['height']}x{image['width']}; the two must be the same frame. Correct the "
                "annotation file."
            )
