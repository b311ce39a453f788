"""The evaluator follows from the data set."""

import json
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator

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


def test_coco(coco_name: str, tmp_path: Path) -> None:
    found = build_evaluator(get_iaunet_cfg(), coco_name, str(tmp_path))
    assert isinstance(found, COCOEvaluator)


def test_unknown_type_lists_the_known() -> None:
    MetadataCatalog.get("evaluator_test_other").set(evaluator_type="lvis")
    with pytest.raises(ValueError, match=r"evaluator_test_other.*'lvis'.*known are: .*coco"):
        build_evaluator(get_iaunet_cfg(), "evaluator_test_other", "")
    with pytest.raises(ValueError, match="evaluator_type None"):
        build_evaluator(get_iaunet_cfg(), "evaluator_test_without", "")


def test_registry_has_coco() -> None:
    assert "coco" in EVALUATOR_REGISTRY


def test_folder_of_a_name_that_is_a_path() -> None:
    cfg = get_iaunet_cfg()
    cfg.OUTPUT_DIR = "/out"
    folder = Path(inference_folder(cfg, "coco:/a b/val.json:/a b/images"))
    assert folder.parent == Path("/out/inference")
    assert folder.name == "coco_a_b_val.json_a_b_images"
