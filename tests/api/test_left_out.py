"""What the stand-in leaves out on purpose: one list for its errors and for the conformance run."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from iaunet_d2._seam import uses_standin
from iaunet_d2.standin import LEFT_OUT, LeftOutError

pytestmark = pytest.mark.skipif(
    not uses_standin(), reason="Detectron2 itself leaves nothing of this out"
)
ROOT = Path(__file__).resolve().parents[2]
# There on purpose, to say what is wrong: see test_refusals_name_their_entry.
REFUSING = {"detectron2.model_zoo", "detectron2.structures.BoxMode.XYWHA_ABS"}


def find(name: str) -> Any:
    """The module or attribute of this name, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        parent, _, attribute = name.rpartition(".")
        return getattr(find(parent), attribute, None) if parent else None


@pytest.mark.parametrize("name", sorted(set(LEFT_OUT) - REFUSING))
def test_the_stand_in_does_not_have_it(name: str) -> None:
    if name.endswith(".*"):
        assert find(name.removesuffix(".*")) is not None
    else:
        assert find(name) is None
    assert LEFT_OUT[name].strip()


def refuse_keypoints(folder: Path) -> None:
    from detectron2.data import detection_utils

    annotation = {"bbox": [0, 0, 1, 1], "bbox_mode": 0, "keypoints": [1, 1, 2]}
    detection_utils.transform_instance_annotations(annotation, [], (4, 4))


def refuse_rotated_boxes(folder: Path) -> None:
    from detectron2.structures import BoxMode

    BoxMode.convert([5.0, 5.0, 2.0, 2.0, 45.0], BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS)


def refuse_old_configs(folder: Path) -> None:
    from detectron2.config import get_cfg

    (folder / "old.yaml").write_text("MODEL: {WEIGHT: there}\n")
    get_cfg().merge_from_file(str(folder / "old.yaml"))


def refuse_to_guess_layers(folder: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    model = torch.nn.Linear(1, 1)
    torch.save({"model": model.state_dict()}, folder / "w.pth")
    DetectionCheckpointer(model).load(f"{folder}/w.pth?matching_heuristics=True")


def refuse_stock_configs(folder: Path) -> None:
    from detectron2 import model_zoo

    model_zoo.get_config("No/such.yaml")


@pytest.mark.parametrize(
    ("ask", "entry"),
    [
        (refuse_keypoints, "detectron2.structures.Keypoints"),
        (refuse_rotated_boxes, "detectron2.structures.BoxMode.XYWHA_ABS"),
        (refuse_old_configs, "detectron2.config.upgrade_config"),
        (refuse_to_guess_layers, "detectron2.checkpoint.c2_model_loading"),
        (refuse_stock_configs, "detectron2.model_zoo"),
    ],
)
def test_refusals_name_their_entry(tmp_path: Path, ask: Any, entry: str) -> None:
    with pytest.raises(LeftOutError, match="install Detectron2") as caught:
        ask(tmp_path)
    assert caught.value.name == entry
    assert entry in str(caught.value) and LEFT_OUT[entry] in str(caught.value)


OFFERED = """
from detectron2.structures import Boxes, RotatedBoxes
from detectron2.export.torchscript import patch_instances
def test_offered(): assert len(Boxes([[0, 0, 1, 1]])) == 1
def test_left_out(): RotatedBoxes([[0, 0, 1, 1, 0]])
def test_refused():
    from detectron2 import model_zoo
    model_zoo.get_config("No/such.yaml")
"""
UNKNOWN = "def test_unknown():\n    from detectron2.structures import NoSuchThing\n"


@pytest.mark.parametrize(
    ("more", "status", "summary"),
    [
        ("", 0, "1 passed, 0 files and 2 tests left out, 0 not run, 0 failed"),
        (UNKNOWN, 1, "1 passed, 0 files and 2 tests left out, 0 not run, 1 failed"),
    ],
)
def test_conformance_script(tmp_path: Path, more: str, status: int, summary: str) -> None:
    (tmp_path / "test_engine.py").write_text(OFFERED + more)
    done = subprocess.run(
        [str(ROOT / "tools" / "conformance.sh"), str(tmp_path)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert summary in done.stdout
    assert "1  detectron2.structures.RotatedBoxes: boxes are axis-parallel" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["test_engine.py"]


def test_names_that_detectron2_s_own_scripts_import_are_refused_when_built() -> None:
    from detectron2.evaluation import SemSegEvaluator
    from detectron2.modeling import GeneralizedRCNNWithTTA

    for kind in (SemSegEvaluator, GeneralizedRCNNWithTTA):
        with pytest.raises(LeftOutError, match=kind.__name__):
            kind("data", distributed=False)
