"""COCO's metrics in Detectron2's API: hand-worked numbers, and pycocotools' for crowded images."""

import contextlib
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import (
    COCOEvaluator,
)
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# pycocotools' own with numpy 2, and Detectron2's own.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning"),
]

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
SIDE = 128


@pytest.fixture(autouse=True)
def catalogs() -> Iterator[None]:
    """Names that a test adds to the catalogs are removed after it."""
    before = set(DatasetCatalog.list()), set(MetadataCatalog.list())
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        for name in set(catalog.list()) - names:
            catalog.remove(name)


def rectangle(x: int, y: int, width: int, height: int, side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def encode(mask: np.ndarray) -> dict[str, Any]:
    rle = mask_util.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


Objects = list[tuple[int, int, tuple[int, int, int, int], int]]  # image, class, x y w h, iscrowd


def register(folder: Path, name: str, images: int, objects: Objects, classes: int = 1) -> Path:
    """A data set of rectangles, category ids 5, 6, ..., under ``name``."""
    annotations = []
    for number, (image, label, (x, y, w, h), crowd) in enumerate(objects, start=1):
        mask = rectangle(x, y, w, h)
        annotations.append(
            {
                "id": number,
                "image_id": image,
                "category_id": 5 + label,
                "bbox": [x, y, w, h],
                "area": int(mask.sum()),
                "iscrowd": crowd,
                "segmentation": encode(mask),
            }
        )
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": 5 + label, "name": f"kind{label}"} for label in range(classes)],
        "annotations": annotations,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    register_coco_instances(name, {}, str(path), str(folder))
    MetadataCatalog.get(name).set(
        thing_classes=[f"kind{label}" for label in range(classes)],
        thing_dataset_id_to_contiguous_id={5 + label: label for label in range(classes)},
    )
    return path


Found = list[tuple[tuple[int, int, int, int], int, float]]  # x y w h, class, score


def predict(found: Found) -> dict[str, Instances]:
    instances = Instances((SIDE, SIDE))
    boxes = [[x, y, x + w, y + h] for (x, y, w, h), _, _ in found]
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor([label for _, label, _ in found], dtype=torch.int64)
    instances.scores = torch.tensor([score for _, _, score in found], dtype=torch.float32)
    masks = [rectangle(*box) for box, _, _ in found]
    stacked = np.stack(masks) if masks else np.zeros((0, SIDE, SIDE))
    instances.pred_masks = torch.from_numpy(stacked).bool()
    return {"instances": instances}


def evaluate(evaluator: COCOEvaluator, predictions: dict[int, Found], **options: Any) -> Any:
    evaluator.reset()
    for image, found in predictions.items():
        evaluator.process([{"image_id": image}], [predict(found)])
    return evaluator.evaluate(**options)


def reference(path: Path, results: Path, task: str, max_dets: int) -> tuple[list[float], Any]:
    """pycocotools' own precision, averaged at the largest limit: six metrics, and AP per class."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        found = json.loads(results.read_text())
        if task == "segm":
            found = [{k: v for k, v in item.items() if k != "bbox"} for item in found]
        evaluation = COCOeval(truth, truth.loadRes(found), task)
        evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
        if max_dets == 100:
            evaluation.summarize()
    # threshold, recall, class, area, limit
    precision = np.where(evaluation.eval["precision"] < 0, np.nan, evaluation.eval["precision"])
    last = precision[..., -1]
    parts = [last[..., 0], last[0, ..., 0], last[5, ..., 0], *(last[..., i] for i in (1, 2, 3))]
    values = [100 * np.nanmean(p) if np.isfinite(p).any() else math.nan for p in parts]
    if max_dets == 100:
        official = np.where(evaluation.stats[:6] < 0, np.nan, evaluation.stats[:6] * 100)
        assert np.allclose(values, official, equal_nan=True)
    return values, 100 * np.nanmean(last[..., 0], axis=(0, 1))


# COCO metrics, by hand


def test_half_of_two_found(tmp_path: Path) -> None:
    register(tmp_path, "half", 1, [(1, 0, (0, 0, 4, 4), 0), (1, 0, (20, 20, 4, 4), 0)])
    evaluator = COCOEvaluator("half", output_dir=str(tmp_path / "out"), distributed=False)
    results = evaluate(evaluator, {1: [((0, 0, 4, 4), 0, 0.9), ((60, 60, 4, 4), 0, 0.8)]})
    # Precision is 1 up to recall 0.5, that is at 51 of COCO's 101 recalls, then 0.
    for task in ("bbox", "segm"):
        for metric in ("AP", "AP50", "AP75", "APs"):
            assert results[task][metric] == pytest.approx(100 * 51 / 101)
        assert math.isnan(results[task]["APm"]) and math.isnan(results[task]["APl"])
        assert set(results[task]) == set(METRICS)


def test_mask_metrics_judge_masks_by_mask_area(tmp_path: Path) -> None:
    # A 40 x 40 ring one pixel wide: box area 1600 (medium), mask area 156 (small).
    ring = rectangle(10, 10, 40, 40) - rectangle(11, 11, 38, 38)
    path = register(tmp_path, "ring", 1, [(1, 0, (10, 10, 40, 40), 0)])
    content = json.loads(path.read_text())
    content["annotations"][0].update(segmentation=encode(ring), area=156)
    path.write_text(json.dumps(content))
    output = predict([((10, 10, 40, 40), 0, 1.0)] * 2)
    output["instances"].pred_masks[1] = torch.from_numpy(ring).bool()
    output["instances"].scores[1] = 0.5
    evaluator = COCOEvaluator("ring", distributed=False)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [output])
    results = evaluator.evaluate()
    # The full square comes first and is wrong: precision 1/2. It is not small: no harm to APs.
    assert results["segm"]["AP"] == pytest.approx(50)
    assert results["segm"]["APs"] == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize(("limit", "counted"), [(None, 67), (100, 67), (1000, 101), (120, 81)])
def test_limit_of_detections(tmp_path: Path, limit: int | None, counted: int) -> None:
    """150 objects, all found: the limit cuts recall to limit/150, so COCO's 101 recalls."""
    boxes = [(9 * (i % 14), 9 * (i // 14), 8, 8) for i in range(150)]
    register(tmp_path, "many", 1, [(1, 0, box, 0) for box in boxes])
    evaluator = COCOEvaluator("many", ("segm",), False, max_dets_per_image=limit)
    results = evaluate(evaluator, {1: [(box, 0, 1 - i / 200) for i, box in enumerate(boxes)]})
    assert set(results) == {"segm"}
    assert results["segm"]["AP"] == pytest.approx(100 * counted / 101)


# COCO metrics, by pycocotools


def crowded() -> tuple[Objects, dict[int, Found]]:
    """Images with 160 objects; with few of all sizes and a crowd; with none; and none predicted."""
    rng = np.random.default_rng(0)
    cells = [(9 * (i % 14), 9 * (i // 14), 8, 8) for i in range(160)]
    large = [(0, 0, 100, 100), (40, 40, 50, 60), (100, 100, 20, 20)]
    objects: Objects = [(1, int(rng.random() < 0.2), box, 0) for box in cells]
    objects += [(2, 0, box, 0) for box in large] + [(2, 1, (0, 90, 90, 38), 1)]
    objects += [(4, 1, (5, 5, 40, 9), 0)]

    def jitter(box: tuple[int, int, int, int], by: int) -> tuple[int, int, int, int]:
        x, y, w, h = box
        dx, dy = rng.integers(0, by + 1, 2)
        return x + int(dx), y + int(dy), w, h

    def score() -> float:
        return float(np.float32(rng.random()))

    first = [
        (jitter(b, 2), label, score()) for _, label, b, _ in objects[:160] if rng.random() < 0.9
    ]
    first += [(jitter(b, 1), int(rng.integers(2)), score()) for b in cells[::4]]
    second = [(jitter(box, 9), 0, score()) for box in large for _ in range(2)]
    second += [((10 * i, 95, 9, 20), 1, score()) for i in range(6)]
    return objects, {1: first, 2: second, 3: [((1, 1, 9, 9), 0, 0.7)], 4: []}


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("limit", [100, 1000])
def test_crowded_images_as_pycocotools(tmp_path: Path, limit: int, fast: bool) -> None:
    objects, predictions = crowded()
    path = register(tmp_path, "crowded", 4, objects, classes=2)
    evaluator = COCOEvaluator(
        "crowded",
        distributed=False,
        output_dir=str(tmp_path),
        max_dets_per_image=limit,
        use_fast_impl=fast,
    )
    results = evaluate(evaluator, predictions)
    for task in ("bbox", "segm"):
        values, per_class = reference(path, tmp_path / "coco_instances_results.json", task, limit)
        assert np.allclose([results[task][m] for m in METRICS], values, atol=1e-6, equal_nan=True)
        found = [results[task][f"AP-kind{label}"] for label in range(2)]
        assert np.allclose(found, per_class, atol=1e-6)
        assert 5 < results[task]["AP"] < 95
    assert sum(label == 0 for _, label, _ in predictions[1]) > 100  # the limit of 100 bites


def test_some_images_only(tmp_path: Path) -> None:
    register(tmp_path, "some", 2, [(1, 0, (0, 0, 9, 9), 0), (2, 0, (0, 0, 9, 9), 0)])
    evaluator = COCOEvaluator("some", ("segm",), False)
    predictions: dict[int, Found] = {1: [((0, 0, 9, 9), 0, 0.9)], 2: []}
    assert evaluate(evaluator, predictions, img_ids=[1])["segm"]["AP"] == pytest.approx(100)
    assert evaluate(evaluator, predictions)["segm"]["AP"] == pytest.approx(100 * 51 / 101)


# What is not there


def test_nothing_predicted(tmp_path: Path) -> None:
    register(tmp_path, "nothing", 1, [(1, 0, (0, 0, 4, 4), 0)])
    evaluator = COCOEvaluator("nothing", ("segm",), output_dir=str(tmp_path), distributed=False)
    results = evaluate(evaluator, {1: []})
    assert set(results["segm"]) == set(METRICS)
    assert all(math.isnan(value) for value in results["segm"].values())
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_no_ground_truth_in_the_file(tmp_path: Path) -> None:
    path = register(tmp_path, "hidden", 1, [])
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    evaluator = COCOEvaluator("hidden", output_dir=str(tmp_path), distributed=False)
    assert evaluate(evaluator, {1: [((0, 0, 4, 4), 0, 0.9)]}) == {}
    (found,) = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert (found["image_id"], found["category_id"], found["bbox"]) == (1, 5, [0, 0, 4, 4])
    assert mask_util.decode(found["segmentation"]).sum() == 16


def test_a_class_that_the_data_set_lacks(tmp_path: Path) -> None:
    register(tmp_path, "lacks", 1, [(1, 0, (0, 0, 4, 4), 0)])
    with pytest.raises(AssertionError, match="class"):
        evaluate(COCOEvaluator("lacks", distributed=False), {1: [((0, 0, 4, 4), 3, 0.9)]})


def test_a_data_set_that_is_no_coco_file(tmp_path: Path) -> None:
    record = {
        "file_name": "x.png",
        "image_id": 8,
        "height": SIDE,
        "width": SIDE,
        "annotations": [
            {
                "bbox": [2, 2, 9, 8],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 0,
                "segmentation": [[2.0, 2.0, 9.0, 2.0, 9.0, 8.0, 2.0, 8.0]],
            }
        ],
    }
    DatasetCatalog.register("own", lambda: [record])
    MetadataCatalog.get("own").thing_classes = ["cell"]
    with pytest.raises(ValueError, match="output_dir"):
        COCOEvaluator("own", distributed=False)
    evaluator = COCOEvaluator("own", distributed=False, output_dir=str(tmp_path))
    results = evaluate(evaluator, {8: [((2, 2, 7, 6), 0, 0.9)]})
    assert results["segm"]["AP"] == pytest.approx(100)
    content = json.loads((tmp_path / "own_coco_format.json").read_text())
    assert content["annotations"][0]["bbox"] == [2, 2, 7, 6]
    assert content["annotations"][0]["area"] == 42


def test_predictions_of_all_processes_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tmp_path, "spread", 2, [(1, 0, (0, 0, 9, 9), 0), (2, 0, (0, 0, 9, 9), 0)])
    evaluator = COCOEvaluator("spread", ("segm",))
    other = instances_to_coco_json(predict([((0, 0, 9, 9), 0, 0.9)])["instances"], 2)
    elsewhere = [{"image_id": 2, "instances": other}]
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: [data, elsewhere])
    results = evaluate(evaluator, {1: [((0, 0, 9, 9), 0, 0.8)]})
    assert results["segm"]["AP"] == pytest.approx(100)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert evaluator.evaluate() == {}


def test_instances_to_coco_json() -> None:
    (found,) = instances_to_coco_json(predict([((3, 4, 5, 6), 2, 0.5)])["instances"], 11)
    assert found["bbox"] == [3, 4, 5, 6] and found["score"] == 0.5
    assert (found["image_id"], found["category_id"]) == (11, 2)
    assert np.array_equal(mask_util.decode(found["segmentation"]), rectangle(3, 4, 5, 6))
    assert instances_to_coco_json(predict([])["instances"], 11) == []
