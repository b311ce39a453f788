"""The real packs end to end: the annotations themselves as predictions, and spoilt ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import ensure_registered
from iaunet_d2.data.prepare import load_recipe, prepare
from iaunet_d2.data.segmentation import annotation_masks
from iaunet_d2.evaluation import build_evaluator

EVERY = ("coco", "label_map", "neurips22", "sartorius")


def as_predictions(record: dict[str, Any], drop: int = 0) -> Instances:
    """An image's annotations as predictions; of every ``drop``-th none is made."""
    masks = list(annotation_masks(record))
    classes = [a["category_id"] for a in record["annotations"]]
    kept = [k for k in range(len(masks)) if not drop or k % drop]
    stacked = np.stack([masks[k] for k in kept])
    instances = Instances(stacked.shape[1:])
    instances.pred_masks = torch.from_numpy(stacked)
    corners = [np.argwhere(mask) for mask in stacked]
    boxes = [[*c.min(0)[::-1], *(c.max(0)[::-1] + 1)] for c in corners]
    instances.pred_boxes = Boxes(torch.tensor(np.array(boxes), dtype=torch.float32))
    instances.scores = torch.linspace(1, 0.6, len(kept))
    instances.pred_classes = torch.tensor([classes[k] for k in kept])
    return instances


def measured(name: str, folder: Path, drop: int = 0) -> dict[str, dict[str, float]]:
    cfg = get_iaunet_cfg()
    cfg.TEST.EVALUATORS = EVERY
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    cfg.TEST.NUM_OVERLAYS = 1
    evaluator = build_evaluator(cfg, name, str(folder), report=True)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        output = {"instances": as_predictions(record, drop)}
        evaluator.process([{"image_id": record["image_id"]}], [output])
    return evaluator.evaluate()


@pytest.mark.parametrize("pack", ["bbbc010_worms", "usiigaci_phase", "dsb2018_nuclei"])
def test_the_truth_scores_in_full(pack: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / pack
    name = f"coco:{folder}/val.json:{folder}/images"
    ensure_registered([name])
    found = measured(name, tmp_path)
    assert found["segm"]["AP"] == pytest.approx(100, abs=1e-6)
    # Polygons hold a few objects that lose their last pixel where two overlap.
    assert found["label_map"]["PQ"] > 97 and found["label_map"]["AP@0.5"] > 99
    assert found["sartorius"]["mP"] > 97
    assert found["neurips22"]["F1-median"] > 99
    overlap = found["overlap"]
    if pack == "dsb2018_nuclei":
        assert overlap["AP-separate"] == pytest.approx(100, abs=1e-6)
    else:
        assert overlap["AP-overlapping"] == pytest.approx(100, abs=1e-6)
        assert overlap["recovered"] == pytest.approx(100, abs=1e-6)
    assert (tmp_path / "per_image.csv").is_file() and list((tmp_path / "worst").iterdir())


@pytest.mark.parametrize(
    ("name", "pack", "published"),
    [("bbbc010", "bbbc010_worms", 211), ("dsb2018", "dsb2018_nuclei", 1113)],
)
def test_through_the_registration(
    name: str,
    pack: str,
    published: int,
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    prepare(load_recipe(name), sources=[shared_data / pack])
    ensure_registered([f"{name}_val"])
    found = measured(f"{name}_val", tmp_path / "out", drop=3)
    # Of each image of n instances ceil(n / 3) are not found, and nothing wrong is: so AP is the
    # share of COCO's 101 recall points up to the recall by count.
    records = DatasetCatalog.get(f"{name}_val")
    total = sum(len(r["annotations"]) for r in records)
    missed = sum(-(-len(r["annotations"]) // 3) for r in records)
    assert total == published
    recall = (total - missed) / total
    expected = 100 * (np.linspace(0, 1, 101) <= recall).mean()
    assert found["segm"]["AP"] == pytest.approx(expected, abs=1e-6)
    assert found["segm"]["AR"] == pytest.approx(100 * recall, abs=1e-6)
