"""What people look at after an evaluation: a row per image, the curves, the best and worst images.

Written into the evaluation's folder:

- ``per_image.csv``: image, instances, predictions, and the average precision of the image alone;
- ``pr_curves.png``: precision over recall at several IoU thresholds;
- ``best/`` and ``worst/``: truth beside prediction for the images of highest and lowest AP.
"""

import csv
import io
import logging
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..data.errors import BadFileError
from ..data.mapper import IAUNetDatasetMapper
from ..drawing import displayable, side_by_side
from ..files import atomic_write
from .base import Measured, StoredPredictionsEvaluator
from .coco_curves import ANY_AREA, IOU_50, CocoScores, average
from .ground_truth import GroundTruth
from .predictions import Predictions, PredictionStore, lack_masks
from .results_json import CocoResults

logger = logging.getLogger(__name__)

IOU_SHOWN = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
CLASSES_SHOWN = 4


class ReportWriter(StoredPredictionsEvaluator):
    """Writes the report; it has no metrics of its own.

    Args:
        cfg: images are read as ``INPUT`` says; ``TEST`` has the score threshold and the number of
            pictures.
        dataset_name: a registered name.
        output_folder: where the files go.
        store: the predictions, shared with the evaluators.
    """

    def __init__(
        self,
        cfg: CfgNode,
        dataset_name: str,
        output_folder: str,
        store: PredictionStore | None = None,
    ) -> None:
        super().__init__(dataset_name, store)
        self.cfg = cfg
        self.folder = Path(output_folder)

    def measure(self, truth: GroundTruth, predictions: Predictions) -> Measured:
        """Write the files.

        Returns:
            Nothing: ``{}``.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        masks = not lack_masks(predictions)
        task = "segm" if masks else "bbox"
        limit = self.cfg.TEST.DETECTIONS_PER_IMAGE
        results = CocoResults(truth, predictions, task)
        matches = truth.coco.matches(results, task, limit, ANY_AREA)
        write_pr_curves(self.folder / "pr_curves.png", matches.scores([limit]), truth.names, task)
        found = {}
        for image_id in truth.images:
            precision = matches.scores([limit], [image_id]).precision
            found[image_id] = (average(precision), average(precision[IOU_50]))
        rows = image_rows(truth, predictions, found, self.cfg.TEST.SCORE_THRESH)
        write_rows(self.folder / "per_image.csv", rows)
        if masks:
            self._draw(truth, predictions, rows)
        logger.info("%s: report in %s", self.dataset_name, self.folder)
        return {}

    def _draw(
        self, truth: GroundTruth, predictions: Predictions, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        files = {r["image_id"]: r["file_name"] for r in DatasetCatalog.get(self.dataset_name)}
        ranked = sorted(
            (r for r in rows if math.isfinite(r["AP"]) and r["image_id"] in files),
            key=lambda row: (-row["AP"], -row["instances"], str(row["file_name"])),
        )
        count = min(self.cfg.TEST.NUM_OVERLAYS, (len(ranked) + 1) // 2)
        mapper = IAUNetDatasetMapper(self.cfg, is_train=False)
        for name, chosen in (("best", ranked[:count]), ("worst", ranked[::-1][:count])):
            folder = self.folder / name
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier evaluation
            folder.mkdir()
            for place, row in enumerate(chosen, 1):
                try:
                    image = mapper.read({"file_name": files[row["image_id"]]})
                except BadFileError as error:
                    logger.warning("no picture: %s", error)
                    continue
                picture = self._picture(image, truth, predictions, row["image_id"])
                stem = re.sub(r"[^\w.-]+", "_", Path(row["file_name"]).stem)
                write_png(folder / f"{place:02d}_AP{row['AP']:.1f}_{stem}.png", picture)

    def _picture(
        self, image: np.ndarray, truth: GroundTruth, predictions: Predictions, image_id: int
    ) -> np.ndarray:
        threshold = self.cfg.TEST.OVERLAY_SCORE_THRESH
        shown = displayable(image[..., ::-1] if self.cfg.INPUT.FORMAT == "BGR" else image)
        found = predictions.get(image_id)
        masks = [] if found is None else list(found.above(threshold).masks())
        return side_by_side(shown, list(truth.masks(image_id)), masks, threshold)


def image_rows(
    truth: GroundTruth,
    predictions: Predictions,
    found: Mapping[int, tuple[float, float]],
    threshold: float,
) -> list[dict[str, Any]]:
    """One row per image of the ground truth, in its order.

    Args:
        truth: the annotations.
        predictions: image id -> predictions.
        found: image id -> AP and AP50 of the image alone; NaN where it has no instance.
        threshold: score from which predictions are counted in ``predictions_above_threshold``.
    """
    rows = []
    for image_id, image in truth.images.items():
        predicted = predictions.get(image_id)
        ap, ap50 = found.get(image_id, (math.nan, math.nan))
        above = 0 if predicted is None else int((predicted.scores >= threshold).sum())
        rows.append(
            {
                "image_id": image_id,
                "file_name": image["file_name"],
                "height": image["height"],
                "width": image["width"],
                "instances": len(truth.instances(image_id)),
                "predictions": 0 if predicted is None else len(predicted),
                "predictions_above_threshold": above,
                "AP": ap,
                "AP50": ap50,
            }
        )
    return rows


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV; what is not finite is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["image_id"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode("utf-8"))


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) else ""
    return value


def write_pr_curves(path: Path, scores: CocoScores, names: Sequence[str], task: str) -> None:
    """Draw precision over recall, one panel per class; of many classes, their mean.

    Args:
        path: of the PNG.
        scores: the first area range and the last limit of detections are drawn.
        names: of the classes, in the order of ``scores.precision``'s third axis.
        task: for the title.
    """
    precision = scores.precision[:, :, :, 0, -1]  # (T, R, K)
    classes = precision.shape[2]
    if classes > CLASSES_SHOWN:
        known = np.ma.masked_less(precision, 0).mean(axis=2)
        panels = {f"mean of {classes} classes": known.filled(-1)}
    else:
        labels = list(names) if len(names) == classes else ["all classes"] * classes
        panels = {labels[k]: precision[:, :, k] for k in range(classes)}
    figure = Figure(figsize=(5 * max(1, len(panels)), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    for axis, (label, curves) in zip(axes, panels.items(), strict=False):
        _draw_curves(axis, f"{task}: {label}", scores, curves)
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=110)


def _draw_curves(axis: Axes, title: str, scores: CocoScores, curves: np.ndarray) -> None:
    axis.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    for iou in IOU_SHOWN:
        place = int(np.argmin(np.abs(scores.iou_thresholds - iou)))
        curve = curves[place]
        if (curve < 0).all():
            continue
        area = 100 * float(curve.mean())
        axis.plot(scores.recall_thresholds, curve, label=f"IoU {iou:g}: AP {area:.1f}")
    if axis.lines:
        axis.legend(loc="best", fontsize="small")


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture (H, W, 3) uint8, whole or not at all."""
    _, encoded = cv2.imencode(".png", picture[:, :, ::-1])
    with atomic_write(path) as stream:
        stream.write(encoded.tobytes())
