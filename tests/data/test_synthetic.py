"""Synthetic cells: what is drawn, and how it is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO

from iaunet_d2.data import synthetic
from iaunet_d2.data.datasets import ensure_registered
from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.synthetic import (
    SyntheticCells,
    draw_cells,
    ensure_synthetic,
    synthetic_preset,
)
from iaunet_d2.data.synthetic_shapes import draw_shape, pixel_centres

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def overlap_share(parameters: SyntheticCells, images: int) -> float:
    """Share of cells that have at least 5 % of their area in common with another."""
    overlapping = total = 0
    for index in range(images):
        masks = draw_cells(parameters, index)[1].reshape(-1, parameters.size**2).astype(int)
        shared = (masks @ masks.T - np.diag(masks.sum(1))) / masks.sum(1, keepdims=True)
        overlapping += (shared.max(1, initial=0) > 0.05).sum()
        total += len(masks)
    return overlapping / total


def test_images_and_masks_are_as_asked() -> None:
    parameters = SyntheticCells(5, size=96, cells=(3, 6), seed=4)
    for index in range(8):
        image, masks = draw_cells(parameters, index)
        assert image.shape == (96, 96) and image.dtype == np.uint8
        assert 1 <= len(masks) <= 6 and masks.dtype == bool and masks.shape[1:] == (96, 96)
        assert (masks.sum((1, 2)) > 60).all()
        assert 20 < image.mean() < 235 and np.percentile(image, 99.5) < 255


def test_the_seed_and_number_decide() -> None:
    parameters = SyntheticCells(5, size=64, seed=4)
    one, again = draw_cells(parameters, 3), draw_cells(parameters, 3)
    np.testing.assert_array_equal(one[0], again[0])
    np.testing.assert_array_equal(one[1], again[1])
    assert (one[0] != draw_cells(parameters, 2)[0]).any()
    assert (one[0] != draw_cells(SyntheticCells(5, size=64, seed=5), 3)[0]).any()


def test_no_cells_is_possible() -> None:
    image, masks = draw_cells(SyntheticCells(1, size=64, cells=(0, 0)), 0)
    assert masks.shape == (0, 64, 64) and image.std() > 0


def test_difficulty_raises_overlap_and_lowers_contrast() -> None:
    easy, hard = (SyntheticCells(20, size=96, difficulty=d, seed=1) for d in (0.0, 1.0))
    assert 0.05 < overlap_share(easy, 12) < overlap_share(hard, 12)

    def contrast(parameters: SyntheticCells) -> float:
        """Difference of ground and cells, relative to the variation of the ground."""
        found = []
        for index in range(10):
            image, masks = draw_cells(parameters, index)
            inside = masks.any(0)
            found.append((image[~inside].mean() - image[inside].mean()) / image[~inside].std())
        return float(np.mean(found))

    assert contrast(easy) > 2 * contrast(hard) > 0


def test_overlaps_are_darker_than_either_cell() -> None:
    darker = []
    parameters = SyntheticCells(40, difficulty=0.2, seed=3)
    for index in range(20):
        image, masks = draw_cells(parameters, index)
        count = masks.sum(0)
        if (count > 1).sum() > 30:
            darker.append(image[count == 1].mean() - image[count > 1].mean())
    assert len(darker) > 8 and np.mean(darker) > 5 and np.mean(np.array(darker) > 0) > 0.85


def test_shapes_vary_and_lie_within_their_window() -> None:
    rng = np.random.default_rng(0)
    shapes = [draw_shape(rng, 128) for _ in range(60)]
    assert min(s.aspect for s in shapes) < 1.2 and max(s.aspect for s in shapes) > 2.5
    assert any(s.bend for s in shapes)
    for shape in shapes:
        everywhere = shape.relative_radius(*pixel_centres(slice(0, 128), slice(0, 128))) < 1
        np.testing.assert_array_equal(shape.mask(), everywhere)


def test_written_data_agree_with_drawn(tmp_path: Path) -> None:
    parameters = SyntheticCells(3, size=64, seed=9)
    folder = tmp_path / "new" / "cells"
    ensure_synthetic(folder, parameters)
    coco = COCO(str(folder / "annotations.json"))
    assert len(coco.imgs) == 3 and sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    for index in range(3):
        image, masks = draw_cells(parameters, index)
        stored = np.asarray(Image.open(folder / "images" / coco.imgs[index + 1]["file_name"]))
        np.testing.assert_array_equal(stored, image)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[index + 1]))
        assert len(annotations) == len(masks)
        for annotation, mask in zip(annotations, masks, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            rows, columns = np.nonzero(mask)
            assert annotation["area"] == mask.sum()
            x, y, w, h = annotation["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (w, h) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
    # A second call finds it there; nothing but the data set and its lock is left.
    stamp = (folder / "annotations.json").stat().st_mtime_ns
    ensure_synthetic(folder, parameters)
    assert (folder / "annotations.json").stat().st_mtime_ns == stamp
    assert {p.name for p in folder.parent.iterdir()} <= {"cells", "cells.lock"}


def test_an_interrupted_run_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_annotation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_synthetic(tmp_path / "cells", SyntheticCells(2, size=64))
    assert not (tmp_path / "cells").exists()
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []


def test_foreign_folders_and_unwritable_places_are_said(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(BadFileError, match=r"mine: holds something else.*Move or delete"):
        ensure_synthetic(tmp_path / "mine", SyntheticCells(2, size=64))
    ensure_synthetic(tmp_path / "cells", SyntheticCells(1, size=64))
    with pytest.raises(BadFileError, match="holds something else"):
        ensure_synthetic(tmp_path / "cells", SyntheticCells(1, size=64, seed=1))
    (tmp_path / "file").touch()
    with pytest.raises(BadFileError, match=r"cannot be written there.*DETECTRON2_DATASETS"):
        ensure_synthetic(tmp_path / "file" / "cells", SyntheticCells(1, size=64))


def test_a_name_makes_them_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    name = "synthetic:2:64:0.5:3"
    ensure_registered([name])
    assert not (tmp_path / "data").exists()
    try:
        records = DatasetCatalog.get(name)
        folder = tmp_path / "data" / "synthetic_2_64_0.5_3"
        assert len(records) == 2 and records[0]["file_name"] == str(folder / "images" / "00000.png")
        assert records[0]["height"] == 64 and len(records[0]["annotations"]) >= 4
        metadata = MetadataCatalog.get(name)
        assert metadata.json_file == str(folder / "annotations.json")
        made_with = json.loads(Path(metadata.json_file).read_text())["info"]["made_with"]
        assert made_with["difficulty"] == 0.5 and made_with["seed"] == 3
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_presets() -> None:
    train, val = (synthetic_preset(f"synthetic_cells_{s}") for s in ("train", "val"))
    assert train is not None and val is not None and train.seed != val.seed
    assert (train.num_images, train.size, train.cells) == (400, 128, (4, 12))
    assert val.num_images == 60 and synthetic_preset("coco:a.json:b") is None


@pytest.mark.parametrize(
    "changes",
    [{"num_images": 0}, {"size": 8}, {"cells": (5, 4)}, {"difficulty": 1.5}, {"seed": -1}],
)
def test_parameters_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got SyntheticCells"):
        SyntheticCells(**{"num_images": 2, **changes})
