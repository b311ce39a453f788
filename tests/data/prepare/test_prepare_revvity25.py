"""Revvity-25 from COCO files whose details are not documented."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reading_back import assert_same, read_back, zip_folder

from iaunet_d2.data import BadFileError
from iaunet_d2.data.prepare import revvity25, run
from iaunet_d2.data.prepare.recipe import Remote
from iaunet_d2.data.prepare.revvity25 import more_remotes
from iaunet_d2.data.prepare.run import prepare

HEIGHT, WIDTH = 30, 44
BOXES = {1: [(2, 3, 20, 15), (10, 8, 30, 25)], 2: [(5, 5, 9, 9)], 3: [(0, 0, 44, 30)], 4: []}
"""Left, top, right and bottom of the rectangles of each image; the first two overlap."""


def outline(left: int, top: int, right: int, bottom: int) -> list[int]:
    return [left, top, right, top, right, bottom, left, bottom]


def coco(images: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    """Plain COCO: no info, and nothing that can be computed."""
    annotations = [
        {"id": 10 * k + n, "image_id": k, "category_id": 1, "segmentation": [outline(*box)]}
        for k in images
        for n, box in enumerate(BOXES[k])
    ]
    return {
        "images": [
            {"id": k, "file_name": f"img {k}#.png", "height": HEIGHT, "width": WIDTH}
            for k in images
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "Cell"}],
        **changes,
    }


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / f"{name}.json").write_text(json.dumps(content))


def write_published(root: Path) -> Path:
    write(root, "train", coco((1, 2)))
    write(root, "valid", coco((3, 4)))
    (root / "images").mkdir()
    for k in BOXES:
        pixels = np.random.default_rng(k).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"img {k}#.png")
    return root


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write_published(tmp_path / "published")


def masks(image: int) -> list[tuple[int, np.ndarray]]:
    found = []
    for left, top, right, bottom in BOXES[image]:
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[top:bottom, left:right] = True
        found.append((1, mask))
    return found


def assert_published(folder: Path, source: Path) -> None:
    for split, images in {"train": (1, 2), "test": (3, 4)}.items():
        found = read_back(folder, split)
        assert list(found) == [f"img {k}#.png" for k in images]
        for k, name in zip(images, found, strict=True):
            assert_same(found[name], masks(k))
            copy = (folder / "images" / name).read_bytes()
            assert copy == (source / "images" / name).read_bytes()


@pytest.mark.parametrize("as_archive", [False, True])
def test_both_splits(
    tmp_path: Path, published: Path, as_archive: bool, caplog: pytest.LogCaptureFixture
) -> None:
    archive = zip_folder(published, tmp_path / "revvity-25.zip")
    with caplog.at_level("WARNING"):
        made = prepare(revvity25.RECIPE, tmp_path / "out", [archive if as_archive else published])
    assert "hold 4 annotations together, published are 2937" in caplog.text
    assert_published(made.folder, published)
    assert made.counts == {"train": (2, 3), "test": (2, 1)}
    assert made.notes == {"annotations in both files together; the paper states 2937": 4}
    assert not (made.folder / "annotations" / "valid.json").exists()


def test_the_published_number_of_cells_is_not_remarked(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revvity25, "INSTANCES", 4)
    assert prepare(revvity25.RECIPE, tmp_path / "out", [published]).notes == {}


def test_what_else_an_annotation_holds_is_kept(tmp_path: Path, published: Path) -> None:
    content = coco((1, 2))
    further = {
        "visible_segmentation": [outline(2, 3, 10, 15)],
        "occluded": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
        "occlusion_rate": 0.25,
        "visible": {"segmentation": [outline(2, 3, 10, 15)]},
    }
    content["annotations"][0].update(further)
    write(published, "train", content)
    made = prepare(revvity25.RECIPE, tmp_path / "out", [published])
    written = json.loads((made.folder / "annotations" / "train.json").read_text())
    assert {k: written["annotations"][0][k] for k in further} == further
    assert_published(made.folder, published)


@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 0, "name": "U2OS"}],
        [{"id": 7, "name": "cell"}, {"id": 8, "name": "border"}],
        [],
    ],
    ids=["id 0", "several", "none"],
)
def test_every_category_becomes_one(
    tmp_path: Path, published: Path, categories: list[dict[str, Any]]
) -> None:
    content = coco((1, 2), categories=categories)
    identities = [c["id"] for c in categories * 3] or [4, 5, 6]
    for annotation, identity in zip(content["annotations"], identities, strict=False):
        annotation["category_id"] = identity
    write(published, "train", content)
    made = prepare(revvity25.RECIPE, tmp_path / "out", [published])
    assert_published(made.folder, published)
    remark = "categories in train.json: all taken as one, cell"
    assert made.notes.get(remark) == (2 if len(categories) > 1 else None)


def test_annotations_as_a_dict_and_of_unknown_images(tmp_path: Path, published: Path) -> None:
    content = coco((1, 2))
    content["annotations"].append({**content["annotations"][0], "id": 99, "image_id": 77})
    content["annotations"] = {str(a.pop("id")): a for a in content["annotations"]}
    write(published, "train", content)
    made = prepare(revvity25.RECIPE, tmp_path / "out", [published])
    assert_published(made.folder, published)
    assert made.notes["annotations in train.json of images that it does not list: left out"] == 1


def test_doubled_outlines_are_kept_and_told(tmp_path: Path, published: Path) -> None:
    content = coco((1, 2))
    content["annotations"].append({**content["annotations"][1], "id": 99})
    write(published, "train", content)
    made = prepare(revvity25.RECIPE, tmp_path / "out", [published])
    assert made.counts["train"] == (2, 4)
    assert made.notes["annotations in train.json have the outline of another: kept"] == 1


def test_an_interrupted_conversion_goes_on(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[Any] = []
    original = revvity25._sample

    def stopping(path: Path, source: Any, image_id: Any) -> Any:
        if len(converted) == 3:
            raise KeyboardInterrupt
        converted.append(image_id)
        return original(path, source, image_id)

    monkeypatch.setattr(revvity25, "_sample", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(revvity25.RECIPE, tmp_path / "out", [published])
    assert not (tmp_path / "out" / "revvity25").exists()
    del converted[0]  # room for one more: the fourth image alone
    made = prepare(revvity25.RECIPE, tmp_path / "out", [published])
    assert converted == [2, 3, 4]
    assert_published(made.folder, published)


def test_files_that_are_missing_or_do_not_fit(tmp_path: Path, published: Path) -> None:
    content = coco((1, 2))
    content["images"][1]["height"] = HEIGHT + 1
    write(published, "train", content)
    with pytest.raises(BadFileError, match=r"img 2#\.png: .*\(30, 44\).*train\.json"):
        prepare(revvity25.RECIPE, tmp_path / "out", [published])
    (published / "images" / "img 4#.png").unlink()
    write(published, "train", coco((1, 2)))
    with pytest.raises(BadFileError, match=r"valid\.json: .*first: img 4#\.png"):
        prepare(revvity25.RECIPE, tmp_path / "out", [published])
    (published / "annotations" / "valid.json").unlink()
    with pytest.raises(BadFileError, match=r"valid\.json.*huggingface\.co"):
        prepare(revvity25.RECIPE, tmp_path / "out", [published])


def test_images_are_fetched_as_the_annotation_files_name_them(published: Path) -> None:
    revision = "ef6234dfe19905cb7c71fa12e61712a9090836d4"
    base = f"https://huggingface.co/datasets/YaroslavPrytula/Revvity-25/resolve/{revision}"
    assert [r.url for r in revvity25.RECIPE.remotes] == [
        f"{base}/annotations/train.json",
        f"{base}/annotations/valid.json",
    ]
    fetched = more_remotes(published)
    assert [r.file_name for r in fetched] == [f"images/img {k}#.png" for k in (1, 2, 3, 4)]
    assert fetched[0].url == f"{base}/images/img%201%23.png"
    content = coco((1, 2))
    content["images"][0]["file_name"] = "images/img 1#.png"  # the folder may stand in the name
    write(published, "train", content)
    assert more_remotes(published) == fetched


@pytest.mark.parametrize(
    "name",
    ["../x.png", "a/../../x.png", "/etc/x.png", "C:\\x.png", "..\\x.png", "train.json", ".."],
)
def test_names_that_leave_the_folder_are_not_fetched(published: Path, name: str) -> None:
    content = coco((1, 2))
    content["images"][1]["file_name"] = name
    write(published, "train", content)
    with pytest.raises(BadFileError, match=r"train\.json: lists the image"):
        more_remotes(published)


def test_fetching_everything(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(remote: Remote, folder: Path) -> Path:
        target = folder / remote.file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((published / remote.file_name).read_bytes())
        return target

    monkeypatch.setattr(run, "download", copied)
    made = prepare(revvity25.RECIPE, tmp_path / "out", fetch=True)
    assert_published(made.folder, published)
    again = tmp_path / "out" / "downloads" / "revvity25"  # what was fetched is a source by itself
    assert_published(prepare(revvity25.RECIPE, tmp_path / "2", [again]).folder, published)
