"""COCO files and predictions for the tests of COCO's metrics, and pycocotools' own numbers."""

import contextlib
import copy
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from mask_scenes import box, rle
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Content = dict[str, Any]
Results = list[dict[str, Any]]

_numbers = itertools.count()


def text(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths as they stand in a file."""
    shape = rle(mask)
    return {"size": shape["size"], "counts": shape["counts"].decode()}


def annotation(image_id: Any, category: int, mask: np.ndarray, **more: Any) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": category,
        "segmentation": text(mask),
        "area": int(mask.sum()),
        "bbox": mask_util.toBbox(rle(mask)).tolist(),
        "iscrowd": 0,
        **more,
    }


def result(image_id: Any, category: int, mask: np.ndarray, score: float) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": category,
        "segmentation": text(mask),
        "bbox": mask_util.toBbox(rle(mask)).tolist(),
        "score": score,
    }


def file_of(
    annotations: Sequence[dict[str, Any]],
    images: dict[Any, tuple[int, int]],
    categories: Sequence[int] = (1,),
) -> Content:
    """A COCO file; annotation ids are from 1."""
    return {
        "info": {},
        "images": [
            {"id": k, "file_name": f"{k}.png", "height": h, "width": w}
            for k, (h, w) in images.items()
        ],
        "categories": [{"id": c, "name": f"kind {c}"} for c in categories],
        "annotations": [{"id": k + 1, **a} for k, a in enumerate(annotations)],
    }


def scene(seed: int, counts: Sequence[int], categories: Sequence[int] = (9, 2)) -> tuple[Any, Any]:
    """Objects of all sizes with a corner cut off, some of them crowds, and imperfect predictions.

    Args:
        seed: of the random numbers.
        counts: objects of each image; the images are of odd and of different sizes.
        categories: ids in the file, in any order.

    Returns:
        A file's content and results; many scores are equal, some predictions have another class,
        some are twice, and the image after the last has predictions only.
    """
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: Results = []
    images = {}
    for place, count in enumerate([*counts, 0]):
        image_id = 40 - 3 * place
        height, width = (int(n) for n in rng.integers(130, 180, 2))
        images[image_id] = (height, width)
        for k in range(max(count, 1)):
            top, left = int(rng.integers(0, height - 8)), int(rng.integers(0, width - 8))
            h, w = (int(n) for n in rng.integers(5, 26, 2))
            if k % 6 == 0:
                top, left, h, w = top % 40, left % 40, 60 + 3 * h, 60 + 3 * w
            mask = box(height, width, top, left, top + h, left + w)
            mask[top, left] = False
            category = int(rng.choice(categories))
            if count:
                crowd = int(rng.random() < 0.05)
                annotations.append(annotation(image_id, category, mask, iscrowd=crowd))
            for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
                shift = tuple(int(n) for n in rng.integers(-2, 3, 2))
                moved = np.roll(mask, shift, (0, 1))
                said = category if rng.random() < 0.9 else int(rng.choice(categories))
                results.append(result(image_id, said, moved, int(rng.integers(0, 40)) / 40))
    return file_of(annotations, images, categories), results


def pycocotools_curves(
    content: Content,
    results: Results,
    task: str,
    max_dets: Sequence[int],
    bounds: Sequence[Sequence[float]] | None = None,
    use_categories: bool = True,
    image_ids: Sequence[int] | None = None,
) -> COCOeval:
    """pycocotools' evaluation, up to its curves; its summary is right at 100 detections only."""
    other = "bbox" if task == "segm" else "segmentation"
    found = [{k: v for k, v in r.items() if k != other} for r in copy.deepcopy(results)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), task)
        evaluation.params.maxDets = list(max_dets)
        evaluation.params.useCats = int(use_categories)
        if bounds is not None:
            evaluation.params.areaRng = [list(b) for b in bounds]
        if image_ids is not None:
            evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def mean_precision(values: np.ndarray) -> float:
    known = values[values > -1]
    return 100 * known.mean() if known.size else float("nan")


def register(folder: Path, content: Content, **more: Any) -> str:
    """Write the content into a file and register it under a new name."""
    number = next(_numbers)
    path = folder / f"truth{number}.json"
    path.write_text(json.dumps(content))
    name = f"coco_scene_{number}_{folder.name}"
    identities = sorted(category["id"] for category in content["categories"])
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=[f"kind {identity}" for identity in identities],
        thing_dataset_id_to_contiguous_id={c: k for k, c in enumerate(identities)},
        **{"evaluator_type": "coco", **more},
    )
    return name


def feed(evaluator: Any, content: Content, results: Results, masks: bool = True) -> Any:
    """Give an evaluator the results as a model would, and let it evaluate."""
    identities = sorted(category["id"] for category in content["categories"])
    evaluator.reset()
    for image in content["images"]:
        found = [r for r in results if r["image_id"] == image["id"]]
        instances = Instances((image["height"], image["width"]))
        corners = np.array([r["bbox"] for r in found], dtype=np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        instances.pred_boxes = Boxes(torch.from_numpy(corners).float())
        instances.scores = torch.tensor([r["score"] for r in found], dtype=torch.float64)
        numbers = [identities.index(r["category_id"]) for r in found]
        instances.pred_classes = torch.tensor(numbers, dtype=torch.int64)
        if masks:
            pixels = [mask_util.decode(r["segmentation"]).astype(bool) for r in found]
            frame = (len(found), image["height"], image["width"])
            instances.pred_masks = torch.from_numpy(np.array(pixels, dtype=bool).reshape(frame))
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
    return evaluator.evaluate()
