"""The same images side by side: the truth, and what each model made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...data import IAUNetDatasetMapper
from ...drawing import displayable, draw_instances
from ...evaluation.coco_curves import ANY_AREA, average
from ...evaluation.ground_truth import GroundTruth, ground_truth
from ...evaluation.predictions import Predictions
from ...evaluation.results_json import CocoResults
from ..contact_sheet import evenly_spread, fitted
from .contender import Contender

PANEL_SIDE = 480  # longest side of a picture on the page, in pixels
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        title: the row's name, or "truth".
        caption: instances, and for a model its AP on this image.
        jpeg: the file's bytes.
    """

    title: str
    caption: str
    jpeg: bytes


@dataclass(frozen=True)
class Strip:
    """One image: its name, and its panels, the truth first."""

    name: str
    panels: list[Panel]


def strips(
    contenders: Sequence[Contender], dataset: str, records: list[dict[str, Any]], images: int
) -> list[Strip]:
    """Draw some images, spread evenly over the data set; of several seeds, the first.

    Args:
        contenders: evaluated or not; those that were are drawn.
        dataset: its name.
        records: of the images.
        images: how many at most.
    """
    shown = [c for c in contenders if c.row.metrics]
    if not shown or images < 1:
        return []
    truth = ground_truth(dataset)
    chosen = [records[k] for k in evenly_spread(len(records), images)]
    reader = shown[0].cfg
    mapper = IAUNetDatasetMapper(reader, is_train=False)
    ids = [record["image_id"] for record in chosen]
    precisions = [_of_images(c, truth, ids) for c in shown]
    found = []
    for record in chosen:
        image = mapper.read(record)
        picture = displayable(image[..., ::-1] if reader.INPUT.FORMAT == "BGR" else image)
        masks = truth.masks(record["image_id"])
        panels = [_panel("truth", picture, masks, f"{len(masks)} instances")]
        for c, precision in zip(shown, precisions, strict=True):
            panels.append(_of_model(c, picture, record["image_id"], precision))
        found.append(Strip(Path(record["file_name"]).name, panels))
    return found


def image_precisions(
    truth: GroundTruth, predictions: Predictions, limit: int, image_ids: Sequence[Any]
) -> dict[Any, float]:
    """AP of the masks of single images, 0 to 100, as in ``per_image.csv`` of an evaluation.

    Args:
        truth: the annotations.
        predictions: image id -> predictions.
        limit: detections an image that count.
        image_ids: of the images.
    """
    wanted = {k: predictions[k] for k in image_ids if k in predictions}
    results = CocoResults(truth, wanted, "segm")
    matches = truth.coco.matches(results, "segm", limit, ANY_AREA, image_ids=list(image_ids))
    return {k: average(matches.scores([limit], [k]).precision) for k in image_ids}


def _of_images(c: Contender, truth: GroundTruth, image_ids: Sequence[Any]) -> dict[Any, float]:
    predictions = c.seeds[0].store.gathered() or {}
    return image_precisions(truth, predictions, c.cfg.TEST.DETECTIONS_PER_IMAGE, image_ids)


def _of_model(
    c: Contender, picture: np.ndarray, image_id: Any, precision: dict[Any, float]
) -> Panel:
    threshold = c.cfg.TEST.OVERLAY_SCORE_THRESH
    found = (c.seeds[0].store.gathered() or {}).get(image_id)
    masks = found.above(threshold).masks() if found is not None else np.zeros((0, 1, 1), bool)
    text = f"AP {precision[image_id]:.1f}, {len(masks)} with score ≥ {threshold:g}"
    return _panel(c.row.name, picture, masks, text)


def _panel(title: str, picture: np.ndarray, masks: np.ndarray, caption: str) -> Panel:
    drawn = draw_instances(picture, masks)
    if max(drawn.shape[:2]) > PANEL_SIDE:
        height, width = fitted(drawn.shape[:2], PANEL_SIDE)
        drawn = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, encoded = cv2.imencode(".jpg", drawn[:, :, ::-1], options)
    return Panel(title, caption, encoded.tobytes())
