"""COCO JSON, opened again by pycocotools and by the package's own reader."""

import json
from pathlib import Path

import numpy as np
import pytest
from outline_scenes import assert_same_masks, awkward_cells, awkward_masks, box, cells_of
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from iaunet_d2.data import load_coco
from iaunet_d2.data.segmentation import annotation_masks
from iaunet_d2.inference.cells import Cells, no_cells


def test_pycocotools_reads_the_same_masks(tmp_path: Path) -> None:
    cells = awkward_cells(name="plate 1/a.tif")
    cells.to_coco(tmp_path / "a.coco.json")
    coco = COCO(tmp_path / "a.coco.json")
    (image,) = coco.loadImgs(coco.getImgIds())
    assert image == {"id": 1, "file_name": "plate 1/a.tif", "height": 37, "width": 53}
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [a["id"] for a in annotations] == list(range(1, len(cells) + 1))
    assert_same_masks([coco.annToMask(a).astype(bool) for a in annotations], cells)
    names = {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())}
    assert names == {1: "cell", 2: "in division"}
    assert [a["category_id"] for a in annotations] == (cells.classes + 1).tolist()
    for annotation, mask in zip(annotations, awkward_masks().values(), strict=True):
        encoded = mask_util.encode(np.asfortranarray(mask, np.uint8))
        assert annotation["segmentation"]["counts"] == encoded["counts"].decode()
        assert annotation["segmentation"]["size"] == [37, 53]
        assert annotation["bbox"] == mask_util.toBbox(encoded).tolist()
        assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
    assert [a["score"] for a in annotations] == pytest.approx(cells.scores, abs=1e-6)


def test_own_reader_finds_nothing_to_mend(tmp_path: Path) -> None:
    cells = awkward_cells()
    cells.to_coco(tmp_path / "a.coco.json")
    content = load_coco(str(tmp_path / "a.coco.json"), "images")
    assert content.findings == {} and content.evaluation is None
    assert content.class_names == list(cells.class_names)
    (record,) = content.dicts
    assert_same_masks(list(annotation_masks(record)), cells)
    assert [a["category_id"] for a in record["annotations"]] == cells.classes.tolist()


def test_one_pixel_by_hand(tmp_path: Path) -> None:
    cells_of([box(3, 10, 4, 11)]).to_coco(tmp_path / "a.json")
    (annotation,) = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert annotation["bbox"] == [10, 3, 1, 1]
    assert (annotation["area"], annotation["score"]) == (1, 0.987654)
    plain = {"size": [37, 53], "counts": [10 * 37 + 3, 1, 42 * 37 + 33]}
    counts = mask_util.frPyObjects(plain, 37, 53)["counts"].decode()
    assert annotation["segmentation"] == {"size": [37, 53], "counts": counts}


def test_no_cells_keep_image_and_categories(tmp_path: Path) -> None:
    cells_of([], class_names=("a", "b")).to_coco(tmp_path / "a.json")
    content = load_coco(str(tmp_path / "a.json"), "images")
    assert content.class_names == ["a", "b"]
    assert [r["annotations"] for r in content.dicts] == [[]]


def far_cells(size: tuple[int, int]) -> Cells:
    crop = np.array([[1, 1, 1], [0, 1, 0]], bool)
    corners = np.array([[0, 0], [size[0] - 2, size[1] - 3]])
    return Cells([crop, crop], corners, np.ones(2), np.zeros(2, int), size)


@pytest.mark.parametrize("size", [(40, 70000), (70000, 40)])
def test_very_wide_and_very_high(size: tuple[int, int], tmp_path: Path) -> None:
    cells = far_cells(size)
    cells.to_coco(tmp_path / "a.json")
    coco = COCO(tmp_path / "a.json")
    assert_same_masks([coco.annToMask(a).astype(bool) for a in coco.loadAnns([1, 2])], cells)


def test_as_many_pixels_as_can_be_counted(tmp_path: Path) -> None:
    cells = far_cells((65535, 65537))
    cells.to_coco(tmp_path / "a.json")
    for annotation in json.loads((tmp_path / "a.json").read_text())["annotations"]:
        rle = {
            **annotation["segmentation"],
            "counts": annotation["segmentation"]["counts"].encode(),
        }
        assert mask_util.area(rle) == annotation["area"] == 4
        assert mask_util.toBbox(rle).tolist() == annotation["bbox"]


def test_more_pixels_than_can_be_counted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"big: 65536x65536 .*geojson"):
        no_cells((65536, 65536), name="big").to_coco(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pack", ["dsb2018_nuclei", "usiigaci_phase"])
def test_real_masks(pack: str, shared_data, tmp_path: Path) -> None:
    folder = shared_data / pack
    content = load_coco(str(folder / "val.json"), str(folder / "images"), tell=False)
    cells = cells_of([m for m in annotation_masks(content.dicts[0]) if m.any()])
    assert len(cells)
    cells.to_coco(tmp_path / "a.json")
    coco = COCO(tmp_path / "a.json")
    assert_same_masks(
        [coco.annToMask(a).astype(bool) for a in coco.loadAnns(coco.getAnnIds())], cells
    )
