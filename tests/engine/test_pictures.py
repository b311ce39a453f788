"""Curves and overlays."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as rle
import pytest
from detectron2.config import CfgNode
from toy_model import ToySegmenter, write_cells

from iaunet_d2.data import BadFileError
from iaunet_d2.data.segmentation import annotation_masks
from iaunet_d2.drawing import displayable, draw_instances, side_by_side
from iaunet_d2.engine.curves import read_metrics, write_curves
from iaunet_d2.engine.overlays import write_overlays


def test_metrics_of_a_resumed_run(tmp_path: Path) -> None:
    lines = (
        '{"iteration": 0, "total_loss": 3.0}',
        '{"iteration": 1, "total_loss": 2.0, "segm/AP": NaN}',
        '{"iteration": 1, "total_loss": 1.5, "lr": 0.1}',
        '{"iteration": 2, "total_lo',
    )
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    assert read_metrics(tmp_path / "metrics.json") == {
        "total_loss": [(0, 3.0), (1, 1.5)],
        "lr": [(1, 0.1)],
    }
    write_curves(str(tmp_path))
    height, width, _ = cv2.imread(str(tmp_path / "curves.png")).shape
    assert (height, width) == (400, 1500)


@pytest.mark.parametrize("content", [None, ""])
def test_no_metrics_yet(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    write_curves(str(tmp_path))
    assert (tmp_path / "curves.png").exists() is (content is not None)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_can_be_shown(channels: int) -> None:
    image = np.full((4, 6, channels), 9, np.uint8)
    shown = displayable(image)
    assert shown.shape == (4, 6, 3) and shown.flags["C_CONTIGUOUS"]
    assert shown[0, 0].tolist() == ([9, 9, 0] if channels == 2 else [9, 9, 9])


def test_masks_of_annotations() -> None:
    square = np.zeros((8, 10), np.uint8)
    square[2:6, 3:7] = 1
    packed = rle.encode(np.asfortranarray(square))
    counts = [3 * 8 + 2, 4, 4, 4, 4, 4, 4, 4, 8 * 3 + 2]  # columns 3..6, rows 2..5
    annotations = [
        {"segmentation": [[3, 2, 7, 2, 7, 6, 3, 6]]},
        {"segmentation": {"size": packed["size"], "counts": packed["counts"].decode()}},
        {"segmentation": {"size": [8, 10], "counts": counts}, "iscrowd": 1},
        {"bbox": [0, 0, 1, 1]},
    ]
    record = {"height": 8, "width": 10, "annotations": annotations}
    masks = list(annotation_masks(record))
    assert len(masks) == 3
    for mask in masks:
        assert mask.dtype == bool and np.array_equal(mask, square.astype(bool))
    assert len(list(annotation_masks(record, ignored=(1,)))) == 2
    assert not list(annotation_masks({"height": 8, "width": 10}))


def test_drawing_changes_the_inside_and_the_outline_only() -> None:
    image = np.full((400, 600, 3), 100, np.uint8)
    masks = [np.zeros((400, 600), bool) for _ in range(2)]
    masks[0][5:20, 5:20] = True
    masks[1][12:30, 12:30] = True
    drawn = draw_instances(image, masks)
    assert np.array_equal(image, np.full((400, 600, 3), 100, np.uint8))
    touched = (drawn != image).any(2)
    assert touched[7, 7] and touched[28, 28] and touched[15, 15]
    assert not touched[35:, 35:].any()
    # The first colour is pure-ish red: tint (1 - 0.25) * 100 + 0.25 * 255.
    assert drawn[8, 8, 0] == pytest.approx(138, abs=1) and drawn[8, 8, 1] < 100


def test_small_images_are_enlarged() -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    image[0, 0] = 255
    mask = np.zeros((32, 48), bool)
    mask[8:16, 8:16] = True
    drawn = draw_instances(image, [mask])
    assert drawn.shape == (32 * 8, 48 * 8, 3)
    assert (drawn[:8, :8] == 255).all() and not drawn[:8, 8:].any()
    assert drawn[64:128, 64:128].any(2).all()


def test_large_images_are_scaled_down() -> None:
    picture = side_by_side(np.zeros((1500, 3000, 3), np.uint8), [], [], 0.5)
    assert picture.shape == (24 + 512, 1024 + 6 + 1024, 3)


def test_bad_image_gets_no_overlay_or_stops(
    toy_cfg: Callable[..., CfgNode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = write_cells(tmp_path / "bad")
    path = tmp_path / "bad" / "images" / "cell1.png"
    path.write_bytes(path.read_bytes()[:300])  # the header is whole: no check of it finds this
    opts = ("TEST.NUM_OVERLAYS", 3, "TEST.OVERLAY_SCORE_THRESH", 0.0)
    cfg = toy_cfg("DATASETS.TEST", (name,), "INPUT.ON_BAD_FILE", "skip", *opts)
    written = write_overlays(cfg, ToySegmenter(cfg), tmp_path / "pictures")
    assert [p.name for p in written] == ["00_cell0.png", "02_cell2.png"]
    assert all(p.is_file() for p in written)
    assert "No overlay: " in caplog.text and "cell1.png" in caplog.text
    cfg.INPUT.ON_BAD_FILE = "stop"
    with pytest.raises(BadFileError, match=r"cell1\.png"):
        write_overlays(cfg, ToySegmenter(cfg), tmp_path / "pictures")
