"""The evaluator of COCO's metrics: Detectron2's numbers, and what it writes."""

import contextlib
import copy
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_scenes import (
    annotation,
    feed,
    file_of,
    mean_precision,
    pycocotools_curves,
    register,
    result,
    scene,
)
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from mask_scenes import box
from pycocotools.coco import COCO

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.evaluation import EVALUATOR_REGISTRY, PredictionStore
from iaunet_d2.evaluation.coco import RESULTS_FILE, CellCOCOEvaluator

# pycocotools' own with NumPy 2, and Detectron2's own.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning"),
]

SQUARE = box(30, 30, 4, 4, 24, 24)


@pytest.mark.parametrize("limit", [20, 100, 130])
def test_the_numbers_of_detectron2(tmp_path: Path, limit: int) -> None:
    content, results = scene(11, [150, 30, 0])
    name = register(tmp_path, content)
    found = feed(CellCOCOEvaluator(name, limit=limit), content, results)
    detectron2 = COCOEvaluator(
        name, ("bbox", "segm"), False, max_dets_per_image=limit, use_fast_impl=False
    )
    expected = feed(detectron2, content, results)
    for task in ("bbox", "segm"):
        assert {"AP", "APl", "AP-kind 2", "AP-kind 9"} <= set(expected[task])
        same = {name: found[task][name] for name in expected[task]}
        assert same == pytest.approx(dict(expected[task]), abs=1e-6, nan_ok=True)
        assert set(found[task]) - set(same) == {"AP@100", "AR"}
        curves = pycocotools_curves(content, results, task, [1, 2, limit]).eval
        assert found[task]["AR"] == pytest.approx(mean_precision(curves["recall"][:, :, 0, -1]))
        curves = pycocotools_curves(content, results, task, [1, 2, 100]).eval
        at_100 = mean_precision(curves["precision"][..., 0, -1])
        assert found[task]["AP@100"] == pytest.approx(at_100)
    assert found["segm"]["AP"] != found["bbox"]["AP"]


def test_the_file_is_in_cocos_format(tmp_path: Path) -> None:
    content, results = scene(12, [7, 0, 3])
    folder = tmp_path / "not yet" / "there"
    name = register(tmp_path, content)
    feed(CellCOCOEvaluator(name, output_folder=str(folder)), content, results)
    assert [path.name for path in folder.iterdir()] == [RESULTS_FILE]
    written = json.loads((folder / RESULTS_FILE).read_text())
    ranked = sorted(results, key=lambda r: (-r["image_id"], -r["score"]))
    assert len(written) == len(results) > 5
    for own, given in zip(written, ranked, strict=True):
        assert own == {**given, "bbox": pytest.approx(given["bbox"])}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(next(tmp_path.glob("truth*.json"))))
        assert len(truth.loadRes(str(folder / RESULTS_FILE)).anns) == len(results)


def test_nothing_found_is_0_and_an_empty_list(tmp_path: Path) -> None:
    content = file_of([annotation(1, 1, SQUARE)], {1: (30, 30)})
    name = register(tmp_path, content)
    found = feed(CellCOCOEvaluator(name, output_folder=str(tmp_path)), content, [])
    for task in ("bbox", "segm"):
        assert (found[task]["AP"], found[task]["AP@100"], found[task]["AR"]) == (0, 0, 0)
        assert math.isnan(found[task]["APl"])
    assert json.loads((tmp_path / RESULTS_FILE).read_text()) == []


def test_images_without_predictions_count(tmp_path: Path) -> None:
    content = file_of([annotation(k, 1, SQUARE) for k in (1, 2)], {1: (30, 30), 2: (30, 30)})
    name = register(tmp_path, content)
    seen = {**content, "images": content["images"][:1]}
    found = feed(CellCOCOEvaluator(name), seen, [result(1, 1, SQUARE, 0.5)])
    assert found["segm"]["AP"] == pytest.approx(100 * 51 / 101)
    assert found["segm"]["AR"] == 50


def test_a_class_that_the_data_set_lacks(tmp_path: Path) -> None:
    content = file_of([annotation(1, 1, SQUARE)], {1: (30, 30)})
    name = register(tmp_path, content)
    model = {**content, "categories": [{"id": 1}, {"id": 2}]}
    evaluator = CellCOCOEvaluator(name, output_folder=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"predicted classes \[1\].*has 1 classes.*NUM_CLASSES"):
        feed(evaluator, model, [result(1, 2, SQUARE, 0.5)])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_without_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = file_of([annotation(1, 1, SQUARE)], {1: (30, 30)})
    name = register(tmp_path, content)
    evaluator = CellCOCOEvaluator(name, tasks=("segm",), output_folder=str(tmp_path))
    found = feed(evaluator, content, [result(1, 1, SQUARE, 0.5)], masks=False)
    assert list(found) == ["bbox"] and found["bbox"]["AP"] == 100
    assert "no masks" in caplog.text
    (written,) = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert set(written) == {"image_id", "category_id", "bbox", "score"}


def test_an_empty_image_does_not_tell_of_masks(tmp_path: Path) -> None:
    content = file_of([annotation(1, 1, SQUARE)], {1: (30, 30), 2: (30, 30)})
    evaluator = CellCOCOEvaluator(register(tmp_path, content))
    feed(evaluator, {**content, "images": content["images"][:1]}, [result(1, 1, SQUARE, 0.5)])
    nothing = Instances((30, 30), scores=torch.zeros(0), pred_classes=torch.zeros(0))
    nothing.pred_boxes = Boxes(torch.zeros(0, 4))
    evaluator.process([{"image_id": 2}], [{"instances": nothing}])
    assert evaluator.evaluate()["segm"]["AP"] == 100


def test_annotations_that_are_kept_back(tmp_path: Path) -> None:
    content = file_of([], {1: (30, 30)})
    hidden = {key: value for key, value in content.items() if key != "annotations"}
    name = register(tmp_path, hidden)
    evaluator = CellCOCOEvaluator(name, output_folder=str(tmp_path))
    assert feed(evaluator, content, [result(1, 1, SQUARE, 0.5)]) == {}
    assert len(json.loads((tmp_path / RESULTS_FILE).read_text())) == 1


def test_predictions_of_another_frame(tmp_path: Path) -> None:
    content = file_of([annotation(1, 1, SQUARE)], {1: (30, 30)})
    name = register(tmp_path, content)
    other = copy.deepcopy(content)
    other["images"][0]["width"] = 31
    shape = np.pad(SQUARE, ((0, 0), (0, 1)))
    with pytest.raises(ValueError, match=r"image 1 have height x width 30x31.*30x30"):
        feed(CellCOCOEvaluator(name, tasks=("segm",)), other, [result(1, 1, shape, 0.5)])


def test_tasks_that_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"TEST\.TASKS names keypoints; known are bbox, segm"):
        CellCOCOEvaluator("any", tasks=("segm", "keypoints"))


def test_no_outputs_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = CellCOCOEvaluator("never read")
    evaluator.reset()
    assert evaluator.evaluate() == {}
    assert "no predictions were received" in caplog.text


def test_built_from_the_config(tmp_path: Path) -> None:
    """A square of 20 x 20 = 400 pixels: medium in LIVECell, small in COCO."""
    content = file_of([annotation(1, 1, SQUARE)], {1: (30, 30)})
    cfg = get_iaunet_cfg()
    cfg.TEST.TASKS, cfg.TEST.DETECTIONS_PER_IMAGE, cfg.TEST.SCORE_THRESH = ("segm",), 7, 0.3
    found: dict[str, Any] = {}
    for kind, limit in (("coco", 7), ("livecell", 2000)):
        name = register(tmp_path, content, evaluator_type=kind)
        store = PredictionStore()
        own, overlaps = EVALUATOR_REGISTRY.get(kind)(cfg, name, str(tmp_path), store)
        assert (own.limit, overlaps.limit, overlaps.score_threshold) == (limit, limit, 0.3)
        assert own.use_categories == overlaps.use_categories == (kind == "coco")
        assert own.store is overlaps.store is store
        found[kind] = feed(own, content, [result(1, 1, SQUARE, 0.5)])
    assert list(found["coco"]) == ["segm"]
    assert found["coco"]["segm"]["APs"] == 100 and math.isnan(found["coco"]["segm"]["APm"])
    assert found["livecell"]["segm"]["APm"] == 100 and math.isnan(found["livecell"]["segm"]["APs"])
