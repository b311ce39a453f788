"""The files that an evaluation leaves for people to look at."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import ensure_registered
from iaunet_d2.evaluation import build_evaluator
from iaunet_d2.evaluation.report import write_pr_curves

SIDE = 40


def square(left: int, top: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def found_in(masks: list[np.ndarray], scores: list[float]) -> Instances:
    instances = Instances((SIDE, SIDE))
    stacked = np.stack(masks) if masks else np.zeros((0, SIDE, SIDE), dtype=bool)
    instances.pred_masks = torch.from_numpy(stacked)
    corners = [np.argwhere(mask) for mask in masks]
    boxes = [[*found.min(0)[::-1], *(found.max(0)[::-1] + 1)] for found in corners]
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.zeros(len(masks), dtype=torch.int64)
    return instances


@pytest.fixture
def squares(tmp_path: Path) -> str:
    """Three images: two with a square of 20 x 20, one without any."""
    images, annotations = [], []
    (tmp_path / "images").mkdir()
    for number in (1, 2, 3):
        name = f"im {number}.png"
        Image.fromarray(np.full((SIDE, SIDE), 60 * number, np.uint8)).save(
            tmp_path / "images" / name
        )
        images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
        if number < 3:
            annotations.append(
                {
                    **{"id": number, "image_id": number, "category_id": 1, "iscrowd": 0},
                    "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]],
                    **{"bbox": [5, 5, 20, 20], "area": 400},
                }
            )
    content = {
        **{"info": {}, "images": images, "annotations": annotations},
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    name = f"coco:{tmp_path}/a.json:{tmp_path}/images"
    ensure_registered([name])
    return name


def evaluated(name: str, folder: Path, outputs: dict[int, Instances]) -> dict[str, Any]:
    cfg = get_iaunet_cfg()
    cfg.TEST.NUM_OVERLAYS = 4
    evaluator = build_evaluator(cfg, name, str(folder), report=True)
    evaluator.reset()
    for image_id, instances in outputs.items():
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


def test_files_of_a_report(squares: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shifted = square(8, 5)  # IoU 17 / 23 = 0.739: right at the thresholds 0.50 to 0.70, 5 of 10
    outputs = {
        1: found_in([square(5, 5)], [0.9]),
        2: found_in([shifted, square(0, 30, 5)], [0.8, 0.3]),
        3: found_in([square(0, 0, 9)], [0.7]),
    }
    results = evaluated(squares, out, outputs)
    with open(out / "per_image.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file_name"] for row in rows] == ["im 1.png", "im 2.png", "im 3.png"]
    assert [float(row["AP"]) for row in rows[:2]] == pytest.approx([100, 50])
    assert [float(row["AP50"]) for row in rows[:2]] == pytest.approx([100, 100])
    assert rows[2]["AP"] == "" and rows[2]["instances"] == "0"
    counts = [(r["instances"], r["predictions"], r["predictions_above_threshold"]) for r in rows]
    assert counts == [("1", "1", "1"), ("1", "2", "1"), ("0", "1", "1")]
    # Of the two images with instances, one is the best and one the worst.
    assert [p.name for p in (out / "best").iterdir()] == ["01_AP100.0_im_1.png"]
    assert [p.name for p in (out / "worst").iterdir()] == ["01_AP50.0_im_2.png"]
    picture = cv2.imread(str(out / "worst" / "01_AP50.0_im_2.png"))
    assert picture.shape[1] > 2 * picture.shape[0] * 0.8  # two panels side by side
    assert cv2.imread(str(out / "pr_curves.png")).shape[2] == 3
    written = json.loads((out / "coco_instances_results.json").read_text())
    assert len(written) == 4 and {w["image_id"] for w in written} == {1, 2, 3}
    assert {"segm", "bbox", "overlap"} <= set(results)


def test_a_second_report_replaces_the_first(squares: str, tmp_path: Path) -> None:
    for masks in ([square(5, 5)], []):
        outputs = {i: found_in(masks, [0.9] * len(masks)) for i in (1, 2, 3)}
        evaluated(squares, tmp_path / "out", outputs)
    assert [p.name for p in (tmp_path / "out" / "best").iterdir()] == ["01_AP0.0_im_1.png"]


def test_curves_of_many_classes_are_averaged(tmp_path: Path) -> None:
    class Scores:
        precision = np.zeros((10, 101, 6, 1, 1))
        iou_thresholds = np.linspace(0.5, 0.95, 10)
        recall_thresholds = np.linspace(0, 1, 101)

    Scores.precision[:, :, 0] = -1  # a class without instances does not count
    write_pr_curves(tmp_path / "pr.png", Scores(), [], "segm")  # type: ignore[arg-type]
    assert cv2.imread(str(tmp_path / "pr.png")).shape[0] > 100
