"""The evaluators follow from the data set and the config."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators
from detectron2.structures import Boxes, Instances

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.evaluation import EVALUATOR_REGISTRY, build_evaluator, inference_folder


@pytest.fixture
def coco_name(tmp_path: Path) -> str:
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "empty.json").write_text(json.dumps(content))
    name = f"evaluator_test_{tmp_path.name}"
    MetadataCatalog.get(name).set(
        json_file=str(tmp_path / "empty.json"), evaluator_type="coco", thing_classes=["cell"]
    )
    return name


def kinds(evaluator: DatasetEvaluator) -> list[str]:
    assert isinstance(evaluator, DatasetEvaluators)
    return [type(part).__name__ for part in evaluator._evaluators]


def test_coco(coco_name: str, tmp_path: Path) -> None:
    found = build_evaluator(get_iaunet_cfg(), coco_name, str(tmp_path))
    assert kinds(found) == ["CellCOCOEvaluator", "OverlapEvaluator"]
    # They share the predictions.
    assert len({id(part.store) for part in found._evaluators}) == 1


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("isbi2014", ["CellCOCOEvaluator", "OverlapEvaluator", "ISBI2014Evaluator"]),
        ("neurips22", ["CellCOCOEvaluator", "OverlapEvaluator", "NeurIPS22Evaluator"]),
        ("sartorius", ["CellCOCOEvaluator", "OverlapEvaluator", "SartoriusEvaluator"]),
        ("livecell", ["CellCOCOEvaluator", "OverlapEvaluator"]),
        ("overlap", ["OverlapEvaluator"]),
        ("label_map", ["LabelMapEvaluator"]),
        ("label_map, overlap", ["LabelMapEvaluator", "OverlapEvaluator"]),
    ],
)
def test_what_a_data_set_asks_for(tmp_path: Path, kind: str, own: list[str]) -> None:
    name = f"evaluator_kind_{kind}_{tmp_path.name}"
    MetadataCatalog.get(name).set(evaluator_type=kind, thing_classes=["nucleus", "cytoplasm"])
    cfg = get_iaunet_cfg()
    assert kinds(build_evaluator(cfg, name, str(tmp_path))) == own
    # What the config asks for comes beside, each kind once.
    cfg.TEST.EVALUATORS = ("overlap", "label_map")
    more = kinds(build_evaluator(cfg, name, str(tmp_path)))
    assert more[: len(own)] == own
    assert set(more) == {*own, "OverlapEvaluator", "LabelMapEvaluator"}
    assert len(more) == len(set(more))


@pytest.mark.parametrize("own", ["label_map, overlap", ("label_map", "overlap")])
def test_our_own_field_goes_before_detectron2_s(tmp_path: Path, own: object) -> None:
    """Detectron2's tools know the type "coco", and ours know more."""
    name = f"evaluator_own_{type(own).__name__}_{tmp_path.name}"
    MetadataCatalog.get(name).set(evaluator_type="coco", evaluators=own, thing_classes=["cell"])
    found = build_evaluator(get_iaunet_cfg(), name, str(tmp_path))
    assert kinds(found) == ["LabelMapEvaluator", "OverlapEvaluator"]


@pytest.mark.parametrize("kind", ["coco", "sartorius", "livecell"])
def test_livecells_rules_can_be_asked_for(tmp_path: Path, kind: str) -> None:
    name = f"evaluator_rules_{kind}_{tmp_path.name}"
    MetadataCatalog.get(name).set(evaluator_type=kind, thing_classes=["cell"])
    cfg = get_iaunet_cfg()
    for asked, limit in (((), 2000 if kind == "livecell" else 100), (("coco", "livecell"), 2000)):
        cfg.TEST.EVALUATORS = asked
        built = build_evaluator(cfg, name, str(tmp_path))
        assert isinstance(built, DatasetEvaluators)
        assert {part.limit for part in built._evaluators if hasattr(part, "limit")} == {limit}


def test_evaluators_of_the_config_must_be_known(coco_name: str) -> None:
    cfg = get_iaunet_cfg()
    cfg.TEST.EVALUATORS = ("overlap", "panoptic")
    with pytest.raises(ValueError, match=r"TEST\.EVALUATORS names panoptic; known are: coco"):
        build_evaluator(cfg, coco_name, "")


def test_unknown_type_lists_the_known() -> None:
    MetadataCatalog.get("evaluator_test_other").set(evaluator_type="lvis")
    with pytest.raises(ValueError, match=r"evaluator_test_other.*'lvis'.*known are: .*coco"):
        build_evaluator(get_iaunet_cfg(), "evaluator_test_other", "")
    with pytest.raises(ValueError, match="evaluator_type None"):
        build_evaluator(get_iaunet_cfg(), "evaluator_test_without", "")
    MetadataCatalog.get("evaluator_test_own").set(evaluator_type="coco", evaluators=("pq",))
    with pytest.raises(ValueError, match=r"evaluators 'pq', which has no evaluator"):
        build_evaluator(get_iaunet_cfg(), "evaluator_test_own", "")


def test_registry_has_the_kinds_that_the_config_names() -> None:
    named = "coco livecell overlap isbi2014 neurips22 sartorius label_map".split()
    assert [name for name in named if name not in EVALUATOR_REGISTRY] == []


def test_folder_of_a_name_that_is_a_path() -> None:
    cfg = get_iaunet_cfg()
    cfg.OUTPUT_DIR = "/out"
    folder = Path(inference_folder(cfg, "coco:/a b/val.json:/a b/images"))
    assert folder.parent == Path("/out/inference")
    assert folder.name == "coco_a_b_val.json_a_b_images"


def test_the_numbers_of_detectron2s_evaluator(tmp_path: Path) -> None:
    name = write_squares(tmp_path)
    built = build_evaluator(get_iaunet_cfg(), name, str(tmp_path))
    slow = COCOEvaluator(name, tasks=("bbox", "segm"), use_fast_impl=False, output_dir=None)
    found = []
    for evaluator in (built, slow):
        evaluator.reset()
        for image_id, shift in ((1, 0), (2, 3)):
            instances = Instances((40, 40))
            masks = torch.zeros(2, 40, 40, dtype=torch.bool)
            masks[0, 5:25, 5 + shift : 25 + shift] = True
            masks[1, 30:36, 30:36] = True
            instances.pred_masks = masks
            instances.pred_boxes = Boxes(
                torch.tensor([[5.0 + shift, 5, 25 + shift, 25], [30, 30, 36, 36]])
            )
            instances.scores = torch.tensor([0.9, 0.8 - 0.1 * image_id])
            instances.pred_classes = torch.zeros(2, dtype=torch.int64)
            evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        found.append(evaluator.evaluate())
    assert list(found[0]) == ["bbox", "segm", "overlap"]
    for task, metrics in found[1].items():
        same = {name: found[0][task][name] for name in metrics}
        assert same == pytest.approx(dict(metrics), abs=1e-6, nan_ok=True), task
    # Found: one square whole, the other shifted by 3 of 20: IoU 17 / 23 = 0.739, so up to 0.70.
    # AP of the 5 thresholds 0.50 to 0.70 is 1, of the 5 above 0.5050 (recall 51 of 101 points).
    assert found[0]["segm"]["AP50"] == pytest.approx(100, abs=0.01)
    assert found[0]["segm"]["AP"] == pytest.approx(100 * (5 + 5 * 51 / 101) / 10, abs=0.01)


def write_squares(folder: Path) -> str:
    """Two images of 40 x 40, each with a square of 20 x 20."""
    square = [5, 5, 25, 5, 25, 25, 5, 25]
    content = {
        "info": {},
        "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 40} for i in (1, 2)],
        "annotations": [
            {
                **{"id": i, "image_id": i, "category_id": 1, "segmentation": [square]},
                **{"bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0},
            }
            for i in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / "squares.json").write_text(json.dumps(content))
    name = f"evaluator_squares_{folder.name}"
    MetadataCatalog.get(name).set(
        json_file=str(folder / "squares.json"),
        evaluator_type="coco",
        thing_classes=["cell"],
        thing_dataset_id_to_contiguous_id={1: 0},
    )
    return name
