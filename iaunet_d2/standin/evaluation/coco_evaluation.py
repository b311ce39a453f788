"""COCO's average precision of boxes and masks, for as many objects per image as wanted."""

import contextlib
import io
import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from tabulate import tabulate

from .. import ArgumentError
from ..data import MetadataCatalog
from ..data.datasets.coco import convert_to_coco_json
from ..structures import BoxMode, Instances
from ..utils import comm
from ..utils.file_io import PathManager
from .evaluator import DatasetEvaluator

if TYPE_CHECKING:
    from iaunet_d2.evaluation.coco_ap import CocoScores

__all__ = ["COCOEvaluator", "instances_to_coco_json"]

_GEOMETRY = {"bbox": "bbox", "segm": "segmentation"}
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_DEFAULT_MAX_DETS = 100


class COCOEvaluator(DatasetEvaluator):
    """Average precision, 0 to 100, by COCO's rules (https://cocodataset.org/#detection-eval).

    Results are task -> AP, AP50, AP75, APs, APm, APl and, with several classes, AP-<class>. NaN
    stands for what
    cannot be computed: no such ground truth, or no prediction at all.

    Args:
        dataset_name: a registered name. Without "json_file" in its metadata it is converted to
            COCO's format.
        tasks: of "bbox" and "segm"; None takes those for which there are predictions.
        distributed: collect the predictions of all processes and evaluate in the main one.
        output_dir: folder for coco_instances_results.json and instances_predictions.pth; None
            writes nothing.
        max_dets_per_image: so many predictions per image, the best-scored, count; None stands for
            COCO's 100.
        use_fast_impl: faster-coco-eval; False takes pycocotools, slowly, for the same numbers.
        allow_cached_coco: a conversion of an earlier run may be used again.

    Raises:
        ValueError: a conversion is needed but no ``output_dir`` given, or a task is unknown.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        allow_cached_coco: bool = True,
    ) -> None:
        self._logger = logging.getLogger(__name__)
        if unknown := set(tasks or ()) - set(_GEOMETRY):
            raise ValueError(f"COCO tasks are bbox and segm, got {', '.join(sorted(unknown))}")
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets = [1, 10, max_dets_per_image or _DEFAULT_MAX_DETS]
        self._metadata = MetadataCatalog.get(dataset_name)
        if "json_file" not in self._metadata.as_dict():
            if output_dir is None:
                raise ValueError(
                    f"data set {dataset_name!r} is not in COCO's format; "
                    "give output_dir, where it can be converted to"
                )
            converted = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            convert_to_coco_json(dataset_name, converted, allow_cached=allow_cached_coco)
            self._metadata.json_file = converted
        path = PathManager.get_local_path(os.fspath(self._metadata.json_file))
        with open(path, encoding="utf-8") as stream:
            ground_truth = json.load(stream)
        # A test set's file keeps its annotations to itself.
        self._do_evaluation = "annotations" in ground_truth
        self._fast = use_fast_impl
        self._coco_api: Any = _index(ground_truth, use_fast_impl) if self._do_evaluation else None
        self._predictions: list[dict[str, Any]] = []

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the "instances" of ``outputs``, masks as RLE, under the "image_id" of ``inputs``."""
        for sample, output in zip(inputs, outputs, strict=True):
            if "instances" in output:
                instances = output["instances"].to(torch.device("cpu"))
                found = instances_to_coco_json(instances, sample["image_id"])
                self._predictions.append({"image_id": sample["image_id"], "instances": found})

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict[str, dict[str, float]]:
        """The metrics of everything processed, or of the images ``img_ids`` only.

        Returns:
            task -> metric -> value; empty on other processes than the main one, for a data set
            without annotations, and if no output had instances.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            self._logger.warning("no predictions were received: nothing to evaluate")
            return {}
        found = list(itertools.chain(*(prediction["instances"] for prediction in predictions)))
        tasks = self._tasks or [
            t for t in _GEOMETRY if t == "bbox" or any("segmentation" in f for f in found)
        ]
        results = self._unmap_categories(found)
        self._write(predictions, results)
        if not self._do_evaluation:
            self._logger.info("the data set has no annotations to evaluate with")
            return {}
        return OrderedDict((task, self._measure(results, task, img_ids)) for task in sorted(tasks))

    def _unmap_categories(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Class numbers 0, 1, … back to the file's category ids."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            return found
        category_ids = {index: category_id for category_id, index in mapping.items()}
        if unknown := {item["category_id"] for item in found} - set(category_ids):
            raise ArgumentError(
                f"predicted classes {sorted(unknown)}, but {self._metadata.name!r} has "
                f"{len(category_ids)} classes: make the model's NUM_CLASSES agree with it"
            )
        return [{**item, "category_id": category_ids[item["category_id"]]} for item in found]

    def _write(self, predictions: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
        if not self._output_dir:
            return
        folder = Path(self._output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(predictions, folder / "instances_predictions.pth")
        path = folder / "coco_instances_results.json"
        path.write_text(json.dumps(results), encoding="utf-8")
        self._logger.info("%d predictions written to %s", len(results), path)

    def _measure(
        self, results: list[dict[str, Any]], task: str, img_ids: Sequence[int] | None
    ) -> dict[str, float]:
        names = self._metadata.get("thing_classes") or []
        per_class: dict[str, float] = {}
        if not results:
            self._logger.warning("the model predicted nothing")
            metrics = dict.fromkeys(_METRICS, float("nan"))
        else:
            # Imported here because that package in turn imports what takes Detectron2's name.
            from iaunet_d2.evaluation.coco_ap import average, summary

            scores = self._scores(results, task, img_ids)
            metrics = summary(scores)
            per_class = {
                f"AP-{name}": average(scores.precision[:, :, index, 0, -1])
                for index, name in enumerate(names if len(names) > 1 else ())
            }
        for rows in filter(None, (metrics, per_class)):
            table = tabulate(
                rows.items(), tablefmt="pipe", floatfmt=".3f", headers=("metric", task)
            )
            self._logger.info("Evaluation results for %s:\n%s", task, table)
        return {**metrics, **per_class}

    def _scores(
        self, results: list[dict[str, Any]], task: str, img_ids: Sequence[int] | None
    ) -> "CocoScores":
        """Precision and recall at the limits of detections."""
        geometry = _GEOMETRY[task]
        if missing := sum(geometry not in item for item in results):
            raise ValueError(
                f"{missing} predictions have no {geometry}: {task} cannot be evaluated"
            )
        # Nothing else: with a box in it, a mask's size would be taken to be its box's.
        keys = ("image_id", "category_id", "score", geometry)
        found = [{key: item[key] for key in keys} for item in results]
        if self._fast:
            return self._coco_api.scores(found, task, self._max_dets, image_ids=img_ids)
        return _slow_scores(self._coco_api, found, task, self._max_dets, img_ids)


def _index(ground_truth: dict[str, Any], fast: bool) -> Any:
    """The content of a COCO file as faster-coco-eval, or pycocotools, wants it."""
    if fast:
        from iaunet_d2.evaluation.coco_ap import CocoTruth

        return CocoTruth(ground_truth)
    from pycocotools.coco import COCO

    indexed = COCO()
    indexed.dataset = ground_truth
    with contextlib.redirect_stdout(io.StringIO()):
        indexed.createIndex()
    return indexed


def _slow_scores(
    coco_api: Any,
    results: list[dict[str, Any]],
    task: str,
    max_dets: Sequence[int],
    img_ids: Sequence[int] | None,
) -> "CocoScores":
    """The same by pycocotools."""
    from pycocotools.cocoeval import COCOeval

    from iaunet_d2.evaluation.coco_ap import COCO_AREAS, CocoScores

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco_api, coco_api.loadRes(results), task)
        params = evaluation.params
        params.maxDets = list(max_dets)
        if img_ids is not None:
            params.imgIds = list(img_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    found = evaluation.eval
    return CocoScores(
        found["precision"],
        found["recall"],
        found["scores"],
        params.iouThrs,
        params.recThrs,
        tuple(params.catIds),
        COCO_AREAS,
        tuple(max_dets),
    )


def instances_to_coco_json(instances: Instances, img_id: Any) -> list[dict[str, Any]]:
    """Predictions of one image in COCO's result format.

    Args:
        instances: pred_boxes, scores, pred_classes and perhaps pred_masks (N, H, W), on the CPU.
        img_id: the image's id.

    Returns:
        dicts with image_id, category_id, bbox (x, y, width, height), score and, with masks,
        segmentation (RLE).
    """
    if not len(instances):
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    columns = (instances.pred_classes.tolist(), boxes.tolist(), instances.scores.tolist())
    found = [
        {"image_id": img_id, "category_id": category, "bbox": box, "score": score}
        for category, box, score in zip(*columns, strict=True)
    ]
    if instances.has("pred_masks"):
        for item, mask in zip(found, instances.pred_masks, strict=True):
            rle = mask_util.encode(np.asfortranarray(np.asarray(mask, dtype=np.uint8)))
            # Bytes have no place in JSON.
            item["segmentation"] = {**rle, "counts": rle["counts"].decode("ascii")}
    return found
