"""Data and evaluation of the stand-in against genuine Detectron2's, on the same input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

Run = Callable[..., tuple[Any, Any]]

# pycocotools' own, with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LOAD = """
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.data.datasets.coco import convert_to_coco_dict

def plain(records):
    for record in records:
        for annotation in record["annotations"]:
            annotation["bbox_mode"] = int(annotation["bbox_mode"])
    return records

register_coco_instances("cells", {"pixel": 1}, json_file, images)
named = plain(DatasetCatalog.get("cells"))
back = convert_to_coco_dict("cells")
del back["info"]
for annotation in back["annotations"]:
    # Keypoints are not part of the stand-in.
    annotation.pop("keypoints", None), annotation.pop("num_keypoints", None)
metadata = MetadataCatalog.get("cells").as_dict()
unnamed = plain(load_coco_json(json_file, images, extra_annotation_keys=["note"]))
records = {"named": named, "unnamed": unnamed, "metadata": metadata, "back": back}
"""

TRANSFORM = """
import numpy as np
import detectron2.data.transforms as T

augmentations = [
    [T.ResizeShortestEdge((20, 40), 45), T.RandomFlip()],
    [T.ResizeShortestEdge([9, 24], 60, "choice"), T.RandomFlip(horizontal=False, vertical=True)],
    [T.ResizeScale(0.3, 2.0, 40, 50), T.FixedSizeCrop((36, 30), pad_value=7.0, seg_pad_value=3)],
    [T.RandomCrop("relative_range", (0.4, 0.6)), T.Resize((23, 31))],
    [T.RandomCrop("relative", (0.3, 0.7)), T.RandomApply(T.RandomFlip(1.0), 0.5)],
    [T.RandomCrop("absolute_range", (10, 25)), T.Resize(16, 0)],
    [T.RandomCrop("absolute", (20, 90)), T.RandomApply(T.HFlipTransform(45), 0.0)],
    [T.RandomBrightness(0.5, 1.5), T.RandomContrast(0.5, 1.5)],
]
rng = np.random.default_rng(0)
images = [
    rng.integers(0, 256, (33, 45, 3), dtype=np.uint8),
    rng.integers(0, 256, (33, 45, 1), dtype=np.uint8),
    rng.integers(0, 256, (33, 45, 4), dtype=np.uint8),
    rng.random((33, 45, 5)).astype(np.float32) * 255,
    rng.random((33, 45)).astype(np.float32),
]
labels = rng.integers(0, 9, (33, 45), dtype=np.uint8)
np.random.seed(7)
result = []
for steps in augmentations * 3:
    for image in images:
        boxes = np.array([[3.0, 4.0, 20.0, 30.0], [0.0, 0.0, 45.0, 33.0]])
        inputs = T.AugInput(image.copy(), boxes=boxes, sem_seg=labels.copy())
        transforms = T.AugmentationList(steps)(inputs)
        points = transforms.apply_coords(np.array([[1, 2], [40, 30]]))
        result.append([inputs.image, inputs.boxes, inputs.sem_seg, points])
result.append(np.random.rand(3))
"""

FEED = """
import itertools
import numpy as np
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetFromList, MapDataset, build_detection_test_loader, build_detection_train_loader,
)

cfg = get_cfg()
cfg.DATASETS.TRAIN = ("cells",)
cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MASK_FORMAT = (30, 40), 30, "bitmask"
cfg.MODEL.MASK_ON = True
cfg.SOLVER.IMS_PER_BATCH, cfg.SEED, cfg.DATALOADER.NUM_WORKERS = 2, 11, 0

def shown(sample):
    found = {"id": sample["image_id"], "image": sample["image"]}
    if "instances" in sample:
        instances = sample["instances"]
        found.update(boxes=instances.gt_boxes.tensor, classes=instances.gt_classes)
        if instances.has("gt_masks"):
            found["masks"] = instances.gt_masks.tensor
    return found

def take(loader, count):
    return [[shown(sample) for sample in batch] for batch in itertools.islice(loader, count)]

result = {"records": records}
for grouping in (False, True):
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    np.random.seed(3)
    result[f"train, grouping {grouping}"] = take(build_detection_train_loader(cfg), 8)
result["test"] = take(build_detection_test_loader(cfg, "cells"), 9)
cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.ASPECT_RATIO_GROUPING = 2, False
plain = build_detection_train_loader(cfg, mapper=lambda record: record["image_id"])
result["plain"] = list(itertools.islice(plain, 9))
seeded = build_detection_train_loader(
    list(range(7)), mapper=lambda i: (i, np.random.rand()), total_batch_size=3, num_workers=2,
    aspect_ratio_grouping=False, sampler=torch.utils.data.SequentialSampler(range(7)), seed=5,
)
result["seeded"] = list(seeded)
refusing = MapDataset(DatasetFromList(list(range(40))), lambda i: i if i % 3 else None)
result["substitutes"] = [refusing[i] for i in range(40)]
"""

EVALUATE = """
import json
import numpy as np
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.structures import Boxes, Instances

register_coco_instances("cells", {}, json_file, "")
from detectron2.data import DatasetCatalog
DatasetCatalog.get("cells")

def model(batch):
    outputs = []
    for sample in batch:
        boxes, classes, scores = predictions[sample["image_id"]]
        found = Instances((side, side))
        found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes)
        masks = np.zeros((len(boxes), side, side), dtype=bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes):
            mask[y0:y1, x0:x1] = True
            mask[y0, x0] = False
        found.pred_masks = torch.from_numpy(masks)
        outputs.append({"instances": found})
    return outputs

result = {}
for limit in (100, 300):
    out = folder / str(limit)
    evaluator = COCOEvaluator("cells", output_dir=str(out), max_dets_per_image=limit)
    loader = [[{"image_id": image}] for image in predictions]
    result[limit] = inference_on_dataset(model, loader, evaluator)
    result[f"{limit} written"] = json.loads((out / "coco_instances_results.json").read_text())
"""


def equal(first: Any, second: Any, path: str = "result") -> None:
    """Assert that two nests of dicts, lists, arrays and numbers are the same."""
    if isinstance(first, dict):
        assert list(first) == list(second), path
        for key in first:
            equal(first[key], second[key], f"{path}[{key!r}]")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            equal(one, other, f"{path}[{index}]")
    else:
        one, other = np.asarray(first), np.asarray(second)
        assert one.dtype == other.dtype and np.array_equal(one, other), path


@pytest.fixture
def cells(tmp_path: Path) -> dict[str, str]:
    """Six images of odd sizes; polygons, both kinds of RLE, a crowd, keypoints, an empty image."""
    rng = np.random.default_rng(1)
    images, annotations = [], []
    for image in range(1, 7):
        height, width = (int(n) for n in rng.integers(24, 60, 2))
        name = f"{image}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(tmp_path / name)
        images.append({"id": 20 - image, "file_name": name, "height": height, "width": width})
        for kind in range(0 if image == 3 else 5):
            number = len(annotations) + 1
            x, y, w, h = (int(n) for n in (*rng.integers(0, 12, 2), *rng.integers(4, 12, 2)))
            mask = np.zeros((height, width), dtype=np.uint8, order="F")
            mask[y : y + h, x : x + w] = 1
            packed = mask_util.encode(mask)
            runs = np.flatnonzero(np.diff(np.r_[0, mask.T.ravel(), 0])).tolist()
            counts = np.diff([0, *runs, mask.size]).tolist()
            polygon = [x + 0.5, y, x + w, y, x + w, y + h, x, y + h - 0.25]
            segmentation: Any = [
                [polygon, [1, 1, 2, 2]],
                {"size": packed["size"], "counts": packed["counts"].decode()},
                {"size": [height, width], "counts": counts},
                [[1, 1, 2, 2]],
                [[int(value) for value in polygon]],
            ][kind]
            item = {"id": number, "image_id": 20 - image, "category_id": (9, 4)[number % 2]}
            item.update(bbox=[x, y, w, h], area=w * h, iscrowd=int(number == 2), note=str(number))
            annotations.append({**item, "segmentation": segmentation})
    annotations[0]["keypoints"] = [3, 4, 2, 0, 0, 0]
    annotations.append({**annotations[1], "id": 999, "image_id": 999})
    categories = [{"id": 9, "name": "late"}, {"id": 4, "name": "early"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "cells.json").write_text(json.dumps(content))
    return {"json_file": str(tmp_path / "cells.json"), "images": str(tmp_path)}


def test_data_sets_and_loaders(run_both: Run, cells: dict[str, str]) -> None:
    """COCO files give equal records, loaders equal samples in equal order."""
    standin, genuine = run_both(LOAD + FEED, **cells)
    records, expected = standin.pop("records"), genuine.pop("records")
    assert [len(record["annotations"]) for record in expected["named"]] == [4, 4, 4, 0, 4, 4]
    assert records == expected
    equal(standin, genuine)


def test_transforms_with_the_same_seed_give_equal_images(run_both: Run) -> None:
    standin, genuine = run_both(TRANSFORM)
    assert len(genuine) == 3 * 8 * 5 + 1
    equal(standin, genuine)


def test_same_predictions_same_average_precision(run_both: Run, tmp_path: Path) -> None:
    """Four images of up to 260 objects, two classes, a crowd, an empty one; limits 100 and 300."""
    side, rng = 160, np.random.default_rng(2)
    annotations, predictions = [], {}
    for image, count in ((1, 260), (2, 40), (3, 0), (4, 3)):
        boxes, classes, scores = [], [], []
        for i in range(count):
            step, columns = (9, 17) if count > 40 else (22, 7)
            x, y = step * (i % columns), step * (i // columns)
            w, h = (int(n) for n in rng.integers(step - 3, step + (30 if image == 4 else 1), 2))
            x1, y1 = min(x + w, side), min(y + h, side)
            label = int(rng.random() < 0.2)
            box = [x, y, x1 - x, y1 - y]
            polygon = [x, y, x1, y, x1, y1, x, y1]
            item = {"image_id": image, "category_id": label + 1, "bbox": box}
            item.update(area=box[2] * box[3], iscrowd=int(image == 2 and i == 5))
            annotations.append({**item, "id": len(annotations) + 1, "segmentation": [polygon]})
            for _ in range(int(rng.integers(0, 3))):
                dx, dy = rng.integers(0, 3, 2)
                boxes.append([x + int(dx), y + int(dy), x1, y1])
                classes.append(label if rng.random() < 0.9 else 1 - label)
                scores.append(float(rng.integers(0, 50)) / 50)  # many ties
        if image == 3:
            boxes, classes, scores = [[5, 5, 30, 30]], [0], [0.9]
        predictions[image] = (boxes, classes, scores)
    content = {
        "images": [{"id": i, "file_name": "x", "height": side, "width": side} for i in predictions],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "debris"}],
        "annotations": annotations,
    }
    (tmp_path / "dense.json").write_text(json.dumps(content))
    standin, genuine = run_both(
        EVALUATE, json_file=str(tmp_path / "dense.json"), predictions=predictions, side=side
    )
    for limit in (100, 300):
        assert standin[f"{limit} written"] == genuine[f"{limit} written"]
        for task, metrics in genuine[limit].items():
            assert list(standin[limit][task]) == list(metrics)
            found = [standin[limit][task][name] for name in metrics]
            assert np.allclose(found, list(metrics.values()), rtol=0, atol=1e-6, equal_nan=True)
    assert genuine[300]["segm"]["AP50"] > genuine[100]["segm"]["AP50"] + 1
