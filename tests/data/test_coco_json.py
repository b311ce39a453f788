"""COCO files of all sorts: what is mended, what is told, what stops."""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.structures import BoxMode
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from iaunet_d2.data.coco_json import CocoContent, load_coco
from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.segmentation import compressed_rle

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SQUARE = [2.0, 3.0, 10.0, 3.0, 10.0, 9.0, 2.0, 9.0]


def base() -> dict[str, Any]:
    """One image of 20x30 (height x width) with one good annotation, and one empty image."""
    return {
        "info": {},
        "images": [
            {"id": 7, "file_name": "a.png", "height": 20, "width": 30},
            {"id": 9, "file_name": "sub/b.png", "height": 20, "width": 30},
        ],
        "categories": [{"id": 5, "name": "nucleus"}, {"id": 2, "name": "cell"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 5,
                "segmentation": [list(SQUARE)],
                "bbox": [2, 3, 8, 6],
                "area": 48,
                "iscrowd": 0,
            }
        ],
    }


def load(folder: Path, content: Any, **options: str) -> CocoContent:
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    return load_coco(str(path), "images", **options)


def with_annotation(**changes: Any) -> dict[str, Any]:
    """A second annotation, like the first but for some entries; None removes an entry."""
    content = base()
    second = {**copy.deepcopy(content["annotations"][0]), "id": 2, **changes}
    content["annotations"].append({k: v for k, v in second.items() if v is not None})
    return content


def test_a_good_file_gives_standard_dicts(tmp_path: Path) -> None:
    got = load(tmp_path, base())
    assert got.class_names == ["cell", "nucleus"] and got.contiguous_ids == {2: 0, 5: 1}
    assert got.findings == {} and got.evaluation is None
    first, second = got.dicts
    assert first == {
        "file_name": "images/a.png",
        "height": 20,
        "width": 30,
        "image_id": 7,
        "annotations": [
            {
                "segmentation": [SQUARE],
                "bbox": [2, 3, 8, 6],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 1,
                "iscrowd": 0,
            }
        ],
    }
    assert second["annotations"] == [] and second["file_name"] == "images/sub/b.png"


def test_detectron2s_own_loader_reads_a_good_file_alike(tmp_path: Path) -> None:
    from detectron2.data.datasets import load_coco_json

    content = base()
    content["categories"] = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content["annotations"][0]["category_id"] = 2
    (tmp_path / "a.json").write_text(json.dumps(content))
    theirs = load_coco_json(str(tmp_path / "a.json"), "images")
    ours = load_coco(str(tmp_path / "a.json"), "images").dicts
    for a, b in zip(ours, theirs, strict=True):
        b["annotations"] = [{**n, "category_id": n["category_id"] - 1} for n in b["annotations"]]
        assert a == b


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[1, 2]", "holds a list"),
        ('{"shapes": []}', r"'images', 'annotations', 'categories' missing.*found: shapes"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no image"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' missing or not a list"),
    ],
)
def test_what_is_not_coco_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(BadFileError, match=rf"bad\.json: .*{message}"):
        load_coco(str(tmp_path / "bad.json"), "images")
    with pytest.raises(BadFileError, match=r"none\.json: does not exist"):
        load_coco(str(tmp_path / "none.json"), "images")


@pytest.mark.parametrize("key", ["id", "file_name", "height", "width"])
def test_images_lacking_an_entry(tmp_path: Path, key: str) -> None:
    content = base()
    del content["images"][1][key]
    with pytest.raises(BadFileError, match=f"image number 1 of the list lacks {key}"):
        load(tmp_path, content)


def test_contradictory_images_and_categories(tmp_path: Path) -> None:
    content = base()
    content["images"][1]["id"] = 7
    with pytest.raises(BadFileError, match=r"image id 7 stands for a\.png and for sub/b\.png"):
        load(tmp_path, content)
    content = base()
    content["images"][1]["height"] = 0
    with pytest.raises(BadFileError, match=r"sub/b\.png, has height and width \(0, 30\)"):
        load(tmp_path, content)
    content = base()
    content["categories"][1]["id"] = 5
    with pytest.raises(BadFileError, match="its id is used twice"):
        load(tmp_path, content)
    content = base()
    del content["annotations"][0]["image_id"]
    with pytest.raises(BadFileError, match="annotation number 0 of the list lacks image_id"):
        load(tmp_path, content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_name": None}, "the file_name of image id 9 is None"),
        ({"file_name": 12}, "the file_name of image id 9 is 12"),
        ({"file_name": ["b.png"]}, r"the file_name of image id 9 is \['b\.png'\]"),
        ({"file_name": ""}, "the file_name of image id 9 is ''"),
        ({"width": None}, r"image id 9, sub/b\.png, has height and width \(20, None\)"),
        ({"width": "30"}, r"image id 9, .* \(20, '30'\)"),
        ({"width": 30.5}, r"image id 9, .* \(20, 30\.5\)"),
        ({"height": True}, r"image id 9, .* \(True, 30\)"),
        ({"height": -20}, r"image id 9, .* \(-20, 30\)"),
        ({"id": [9]}, r"image number 1 of the list has the id \[9\]"),
    ],
)
def test_image_entries_of_the_wrong_kind(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    content = base()
    content["images"][1].update(changes)
    with pytest.raises(BadFileError, match=rf"^{tmp_path}/a\.json: {message}"):
        load(tmp_path, content)


RLE_ELSEWHERE = mask_util.encode(np.ones((21, 30), np.uint8, order="F"))
CONTRADICTIONS = [
    ({"image_id": 8}, "1 refer to an image id that is not in the file"),
    ({"category_id": 1}, "1 refer to a category id that is not in the file"),
    ({"segmentation": {"size": [20, 30], "counts": [1, 2]}}, "run lengths of another size"),
    ({"segmentation": {"size": [20], "counts": "abc"}}, "run lengths of another size"),
    ({"segmentation": {"size": [20, 30], "counts": ""}}, "run lengths of another size"),
    ({"segmentation": {"size": [20, 30], "counts": "zzzzzzzz"}}, "run lengths of another size"),
    ({"segmentation": {"size": [20, 30], "counts": "é"}}, "run lengths of another size"),
    (
        {"segmentation": {"size": [21, 30], "counts": RLE_ELSEWHERE["counts"].decode()}},
        "run lengths of another size",
    ),
]


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS)
def test_contradictions_stop_or_are_skipped(
    tmp_path: Path, changes: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = with_annotation(**changes)
    with pytest.raises(BadFileError, match=rf"{message}.*\(annotation id 2\).*ON_BAD_FILE skip"):
        load(tmp_path, content)
    with caplog.at_level(logging.WARNING):
        got = load(tmp_path, content, on_bad="skip")
    assert len(got.dicts[0]["annotations"]) == 1
    assert "1 of 2 annotations are used" in caplog.text and message in caplog.text


LEFT_OUT = [
    ([], "degenerate"),
    ([[]], "degenerate"),
    ([[1, 1, 5, 5]], "degenerate"),
    ([[1, 1, 5, 5, 1]], "degenerate"),
    ([[1, 1, 5, 5, 9, 9]], "degenerate"),
    ([[1, 1, 5, 5, 9, "x"]], "degenerate"),
    ([[1, 1, 5, float("nan"), 9, 9]], "degenerate"),
    ("nothing", "degenerate"),
    ({"size": [20, 30], "counts": [600]}, "degenerate"),
    ([[40, 1, 50, 1, 50, 9, 40, 9]], "outside"),
    ([[-9, -9, -2, -9, -2, -1]], "outside"),
]


@pytest.mark.parametrize(("segmentation", "kind"), LEFT_OUT)
def test_masks_without_area_are_left_out_and_told(
    tmp_path: Path, segmentation: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = with_annotation(segmentation=segmentation, bbox=None)
    with caplog.at_level(logging.WARNING):
        got = load(tmp_path, content)
    assert got.findings == {kind: 1} and len(got.dicts[0]["annotations"]) == 1
    assert len(caplog.records) == 1 and "annotation id 2" in caplog.text
    assert got.evaluation is not None and len(got.evaluation["annotations"]) == 1


def test_a_degenerate_part_leaves_the_rest(tmp_path: Path) -> None:
    got = load(tmp_path, with_annotation(segmentation=[[1, 1, 2], SQUARE]))
    assert got.findings == {"part": 1}
    assert got.dicts[0]["annotations"][1]["segmentation"] == [SQUARE]


def test_boxes_alone_cannot_train_a_segmentation(tmp_path: Path) -> None:
    got = load(tmp_path, with_annotation(segmentation=None))
    assert got.findings == {"box only": 1} and len(got.dicts[0]["annotations"]) == 1
    content = base()
    del content["annotations"][0]["segmentation"]
    with pytest.raises(BadFileError, match="all 1 annotations have a box and no mask"):
        load(tmp_path, content)


def test_what_reaches_out_is_clipped_and_counted(tmp_path: Path) -> None:
    wide = [-4.0, 3.0, 10.0, 3.0, 10.0, 25.0, -4.0, 25.0]
    got = load(tmp_path, with_annotation(segmentation=[wide], bbox=[-4, 3, 14, 22]))
    assert got.findings == {"clipped": 1}
    annotation = got.dicts[0]["annotations"][1]
    assert annotation["bbox"] == [0, 3, 10, 17]
    assert annotation["segmentation"] == [wide]  # rasterisation clips; the outline is not bent
    # Half a pixel is a convention, not a mistake.
    edge = [-0.5, 3.0, 10.0, 3.0, 10.0, 9.0, -0.5, 9.0]
    assert (
        load(tmp_path, with_annotation(segmentation=[edge], bbox=[-0.5, 3, 10.5, 6])).findings == {}
    )


def test_missing_box_and_area_come_from_the_mask(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[4:9, 6:16] = 1
    rle = mask_util.encode(mask)
    for segmentation in (
        [[6, 4, 16, 4, 16, 9, 6, 9]],
        {"size": [20, 30], "counts": rle["counts"].decode()},
        {"size": [20, 30], "counts": runs_of(mask)},
    ):
        content = with_annotation(segmentation=segmentation, bbox=None, area=None, iscrowd=None)
        got = load(tmp_path, content)
        assert got.findings == {"box": 1, "area": 1, "iscrowd": 1}
        assert got.evaluation is not None
        mended = got.evaluation["annotations"][1]
        assert mended["bbox"] == [6, 4, 10, 5] and mended["area"] == 50 and mended["iscrowd"] == 0


def runs_of(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO run lengths: column by column, zeros first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    runs = np.diff(edges).tolist()
    return [0, *runs] if flat[0] else runs


def test_crowds_are_instances_or_ignored_never_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = with_annotation(iscrowd=1)
    with caplog.at_level(logging.WARNING):
        kept = load(tmp_path, content)
    assert [a["iscrowd"] for a in kept.dicts[0]["annotations"]] == [0, 0]
    assert "1 annotations have iscrowd=1: kept as instances" in caplog.text
    assert kept.evaluation is not None
    assert [a["iscrowd"] for a in kept.evaluation["annotations"]] == [0, 0]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        ignored = load(tmp_path, content, crowd="ignore")
    assert [a["iscrowd"] for a in ignored.dicts[0]["annotations"]] == [0, 1]
    assert "iscrowd=1: not trained on" in caplog.text
    assert ignored.evaluation is None  # pycocotools treats crowds itself
    with pytest.raises(ValueError, match=r"INPUT.CROWD 'maybe'"):
        load(tmp_path, content, crowd="maybe")


@pytest.mark.parametrize("identity", [0, None, 1])
def test_annotation_ids_that_evaluation_cannot_use_are_renumbered(
    tmp_path: Path, identity: int | None
) -> None:
    got = load(tmp_path, with_annotation(id=identity))
    assert got.findings == {"id": 1} and got.evaluation is not None
    assert [a["id"] for a in got.evaluation["annotations"]] == [1, 2]


def test_annotations_as_a_dict_are_taken(tmp_path: Path) -> None:
    content = base()
    content["annotations"] = {"1": content["annotations"][0]}
    got = load(tmp_path, content)
    assert len(got.dicts[0]["annotations"]) == 1 and got.findings == {"dict": 1}


def test_the_evaluation_copy_is_read_by_pycocotools(tmp_path: Path) -> None:
    content = with_annotation(id=0, iscrowd=1, bbox=None, area=None)
    del content["info"]
    got = load(tmp_path, content)
    (tmp_path / "copy.json").write_text(json.dumps(got.evaluation))
    coco = COCO(str(tmp_path / "copy.json"))
    assert sorted(coco.anns) == [1, 2]
    result = [{"image_id": 7, "category_id": 5, "bbox": [2, 3, 8, 6], "score": 1.0}]
    assert len(coco.loadRes(result).anns) == 1
    np.testing.assert_array_equal(coco.annToMask(coco.anns[1]), coco.annToMask(coco.anns[2]))


def test_real_files_need_no_mending(shared_data: Path) -> None:
    for name, images, instances in (("bbbc010_worms", 15, 211), ("usiigaci_phase", 6, 413)):
        got = load_coco(str(shared_data / name / "val.json"), str(shared_data / name / "images"))
        assert len(got.dicts) == images and got.findings == {}
        assert sum(len(d["annotations"]) for d in got.dicts) == instances


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 1000),
)
def test_every_mask_of_pycocotools_is_accepted(
    height: int, width: int, density: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert compressed_rle({"size": [height, width], "counts": rle["counts"].decode()}) == rle
    plain = {"size": [height, width], "counts": runs_of(mask.astype(np.uint8))}
    assert compressed_rle(plain) == rle
    for wrong in ([height, width + 1], [height + 1, width]):
        with pytest.raises(ValueError, match=f"cover {height * width} pixels"):
            compressed_rle({"size": wrong, "counts": rle["counts"]})


def test_long_runs_are_counted() -> None:
    mask = np.zeros((3000, 4000), np.uint8, order="F")
    mask[:, 1500:1502] = 1
    rle = mask_util.encode(mask)
    assert compressed_rle(rle) == rle
