"""COCO-like source files, as they are and as they should not be."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.prepare.coco_source import bare_name, read_coco_source, require_images

SQUARE = [[1, 1, 5, 1, 5, 5.25]]


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def an_image(identity: Any = 7, **more: Any) -> dict[str, Any]:
    return {"id": identity, "file_name": "a.tif", **more}


def test_a_list_and_a_dict_by_id_read_alike(tmp_path: Path) -> None:
    annotation = {"image_id": 7, "category_id": 1, "segmentation": SQUARE}
    listed = {"images": [an_image()], "annotations": [{"id": "12", **annotation}]}
    keyed = {"images": [an_image()], "annotations": {"12": annotation}}

    one = read_coco_source(written(tmp_path / "list.json", listed))
    other = read_coco_source(written(tmp_path / "dict.json", keyed))

    expected = [{"id": "12", **annotation}]
    assert one.annotations_by_image[7] == other.annotations_by_image[7] == expected
    assert dict(one.annotations_by_image) == {7: expected}
    assert one.categories == {}
    assert one.images == [an_image()]


def test_an_id_inside_the_entry_goes_before_the_key(tmp_path: Path) -> None:
    content = {"images": [an_image()], "annotations": {"12": {"id": 3, "image_id": 7}}}

    source = read_coco_source(written(tmp_path / "a.json", content))

    assert source.annotations_by_image[7] == [{"id": 3, "image_id": 7}]


def test_segmentations_come_back_as_they_were(tmp_path: Path) -> None:
    kinds: list[Any] = [
        SQUARE,
        [[0.1, 2, 3.3, 4, 5, 6], [1, 2, 3, 4, 5, 6]],
        {"size": [4, 4], "counts": [3, 2, 11]},
        [],
        None,
        [["x", 1], [[1, 2], [3, 4]]],
    ]
    annotations = [{"image_id": 7, "segmentation": kind} for kind in kinds]
    content = {"images": [an_image()], "annotations": annotations}

    source = read_coco_source(written(tmp_path / "a.json", content))

    back = [a["segmentation"] for a in source.annotations_by_image[7]]
    assert back == kinds
    assert json.loads(json.dumps(back)) == kinds


def test_images_without_annotations_and_strays(tmp_path: Path) -> None:
    content = {
        "images": [an_image(1), an_image(2)],
        "annotations": [{"image_id": 2}, {"image_id": 3}, {"image_id": 4}],
        "categories": [{"id": 1, "name": "Cell"}, {"id": 2, "name": "Nucleus"}],
    }

    source = read_coco_source(written(tmp_path / "a.json", content))

    assert source.annotations_by_image[1] == []
    assert len(source.annotations_by_image) == 2
    assert source.strays == 2
    assert source.categories == {1: "Cell", 2: "Nucleus"}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[1]", "holds a list"),
        ({"images": []}, "'annotations' is missing"),
        ({"annotations": []}, "'images' is missing"),
        ({"images": [], "annotations": [3]}, "'annotations' is missing or no list of objects"),
        ({"images": [], "annotations": {"1": 3}}, "'annotations' is missing or no list of obj"),
        ({"images": [{"id": 1}], "annotations": []}, "the file_name None"),
        ({"images": [{"file_name": "a"}], "annotations": []}, "the id None"),
        ({"images": [an_image(), an_image()], "annotations": []}, "image id 7 twice"),
        ({"images": [an_image()], "annotations": [{"id": 5}]}, "annotation 5 lacks image_id"),
    ],
)
def test_what_cannot_be_read_names_the_file(tmp_path: Path, content: Any, found: str) -> None:
    path = written(tmp_path / "broken.json", content)

    with pytest.raises(BadFileError, match=found) as raised:
        read_coco_source(path)

    assert str(path) in str(raised.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="does not exist"):
        read_coco_source(tmp_path / "absent.json")


def test_bare_names_of_either_slash() -> None:
    names = ("a.tif", "A172/a.tif", "x\\y\\a.tif")

    assert {bare_name({"file_name": name}) for name in names} == {"a.tif"}


def test_images_must_be_there_and_fit(tmp_path: Path) -> None:
    Image.new("L", (6, 4)).save(tmp_path / "a.tif")
    found = {"a.tif": tmp_path / "a.tif"}

    def source(**stated: int) -> Any:
        content = {"images": [an_image(**stated)], "annotations": []}
        return read_coco_source(written(tmp_path / "a.json", content))

    require_images(source(), found, "images.zip")
    require_images(source(width=6, height=4), found, "images.zip")
    with pytest.raises(BadFileError, match=r"\(4, 6\), and .*a\.json states \(6, 4\)"):
        require_images(source(width=4, height=6), found, "images.zip")
    with pytest.raises(BadFileError, match=r"1 of them .*a\.tif.*They are in images\.zip"):
        require_images(source(), {}, "images.zip")
