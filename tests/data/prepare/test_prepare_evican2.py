"""EVICAN2: polygons without area and box, background images, tiers, folders of every kind."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from iaunet_d2.data import load_coco
from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.prepare import evican2
from iaunet_d2.data.prepare.evican2 import RECIPE
from iaunet_d2.data.prepare.run import prepare

HEIGHT, WIDTH = 30, 40
CATEGORIES = [{"id": 1, "name": "Cell"}, {"id": 2, "name": "Nucleus"}]
TIERS = ("easy", "medium", "difficult")
NAMES = {
    "train": "instances_train2019_EVICAN2.json",
    "val": "instances_val2019_EVICAN2.json",
    **{tier: f"instances_eval2019_{tier}_EVICAN2.json" for tier in TIERS},
}
CELL = [[2, 3, 22, 3, 22, 13, 2, 13]]  # 20 x 10
NUCLEUS = [[5, 5, 9, 5, 9, 9, 5, 9]]  # 4 x 4
REACHING_OUT = [[-6, -4, 5, -4, 5, 7, -6, 7]]  # 5 x 7 inside


def split_json(*listed: tuple[int, str, list[tuple[int, Any]]], sizes: bool = True) -> Any:
    """As published: of (image id, file name, (category id, outline)); no area, no bbox."""
    stated = {"width": WIDTH, "height": HEIGHT} if sizes else {}
    annotations = [
        {"image_id": image_id, "category_id": category, "segmentation": outline, "iscrowd": 0}
        for image_id, _, outlines in listed
        for category, outline in outlines
    ]
    return {
        "images": [{"id": k, "file_name": name, **stated} for k, name, _ in listed],
        "annotations": [{"id": k, **a} for k, a in enumerate(annotations)],
        "categories": CATEGORIES,
    }


CONTENT = {
    "train": split_json(
        (1, "1_769p.jpg", [(1, CELL), (2, NUCLEUS)]),
        (2, "2_Caki_Background.jpg", []),
        (3, "3_C2C12.jpg", [(2, NUCLEUS)]),
    ),
    "val": split_json((1, "1_769p.jpg", [(1, REACHING_OUT)]), (2, "5_HeLa.jpg", [])),
    "easy": split_json((1, "1_769p.jpg", [(1, CELL)]), sizes=False),
    "medium": split_json((1, "2_Caki.jpg", [(1, CELL), (1, REACHING_OUT)])),
    "difficult": split_json((1, "18_Caki.jpg", [(1, CELL)])),
}


def folder_of(split: str) -> str:
    return f"EVICAN_{'eval' if split in TIERS else split}2019"


def write_image(path: Path, value: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)


def value_of(split: str) -> int:
    """A grey value by folder, to tell images of the same name from each other."""
    return {"train": 10, "val": 60}.get(split, 200)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_copy(folder: Path, content: dict[str, Any] = CONTENT, images: str = "Images") -> Path:
    """In folders, as people have it; the background images are deleted."""
    for split, listed in content.items():
        write_json(folder / "Annotations" / NAMES[split], listed)
        for image in listed["images"]:
            if "Background" not in image["file_name"]:
                path = folder / images / folder_of(split) / image["file_name"]
                write_image(path, value_of(split))
    return folder


def write_archives(folder: Path) -> Path:
    """As published: flat archives beside the annotation files."""
    folder.mkdir()
    packed: dict[str, dict[str, int]] = {}
    for split, listed in CONTENT.items():
        write_json(folder / NAMES[split], listed)
        for image in listed["images"]:
            packed.setdefault(folder_of(split), {})[image["file_name"]] = value_of(split)
    for name, images in packed.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for file_name, value in images.items():
                write_image(folder / "one.jpg", value)
                archive.write(folder / "one.jpg", file_name)
    (folder / "one.jpg").unlink()
    return folder


def coco_of(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / "annotations" / f"{split}.json").read_text())


@pytest.fixture
def folder_copy(tmp_path: Path) -> Path:
    return write_copy(tmp_path / "copy")


def test_from_archives_and_from_folders_alike(tmp_path: Path, folder_copy: Path) -> None:
    archives = write_archives(tmp_path / "archives")

    one = prepare(RECIPE, tmp_path / "one", [archives])
    other = prepare(RECIPE, tmp_path / "other", [folder_copy])

    made = sorted(p.relative_to(one.folder) for p in one.folder.rglob("*") if p.is_file())
    assert made == sorted(p.relative_to(other.folder) for p in other.folder.rglob("*.*"))
    for path in made:
        assert (one.folder / path).read_bytes() == (other.folder / path).read_bytes(), path
    assert one.counts == {
        "cell_nucleus_train": (2, 3),
        "cell_nucleus_val": (2, 1),
        "cell_nucleus_easy": (1, 1),
        "cell_nucleus_medium": (1, 2),
        "cell_nucleus_difficult": (1, 1),
        "train": (2, 1),
        "val": (2, 1),
        "easy": (1, 1),
        "medium": (1, 2),
        "difficult": (1, 1),
    }
    assert one.notes["train: background images: left out"] == 1
    assert one.notes["train: images that are annotated only in part"] == 2
    assert one.notes["val: images that are annotated only in part"] == 2
    assert not any("easy" in note for note in one.notes)


def test_categories_and_ids(tmp_path: Path, folder_copy: Path) -> None:
    made = prepare(RECIPE, tmp_path / "root", [folder_copy]).folder

    both, cells = coco_of(made, "cell_nucleus_train"), coco_of(made, "train")
    assert both["categories"] == [{"id": 1, "name": "cell"}, {"id": 2, "name": "nucleus"}]
    assert cells["categories"] == [{"id": 1, "name": "cell"}]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in both["annotations"]] == [
        (1, 1, 1),
        (2, 1, 2),
        (3, 2, 2),
    ]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in cells["annotations"]] == [(1, 1, 1)]
    assert [image["source_id"] for image in both["images"]] == [1, 3]
    for split in ("cell_nucleus_train", "train", "val", "easy", "medium"):
        path = str(made / "annotations" / f"{split}.json")
        content = load_coco(path, str(made / "images"))
        # An outline that reaches out of its image stays as published, and is told when it is read.
        assert set(content.findings) <= ({"clipped"} if split in ("val", "medium") else set())
        assert all(Path(record["file_name"]).is_file() for record in content.dicts)
        assert all(a["area"] > 0 and len(a["bbox"]) == 4 for a in COCO(path).anns.values())


def test_area_and_box_are_those_of_the_mask(tmp_path: Path, folder_copy: Path) -> None:
    made = prepare(RECIPE, tmp_path / "root", [folder_copy]).folder

    cell, nucleus, _ = coco_of(made, "cell_nucleus_train")["annotations"]
    assert (cell["area"], cell["bbox"]) == (200, [2, 3, 20, 10])
    assert (nucleus["area"], nucleus["bbox"]) == (16, [5, 5, 4, 4])
    coco = COCO(str(made / "annotations" / "val.json"))
    (reaching,) = coco.anns.values()
    assert (reaching["area"], reaching["bbox"]) == (5 * 7, [0, 0, 5, 7])
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:7, :5] = 1
    np.testing.assert_array_equal(coco.annToMask(reaching), expected)


def test_an_image_is_taken_from_the_folder_of_its_split(tmp_path: Path, folder_copy: Path) -> None:
    """1_769p.jpg is in train, val and eval; and there are its mask and its blurred form."""
    write_image(folder_copy / "Masks" / "EVICAN_train_masks" / "Cells" / "1_769p.jpg", 255)
    write_image(folder_copy / "EVICAN_train2019_BGblurred" / "1_769p.jpg", 254)
    write_image(folder_copy / "Masks" / "5_HeLa.jpg", 253)

    made = prepare(RECIPE, tmp_path / "root", [folder_copy]).folder

    values = {
        split: [
            int(np.array(Image.open(made / "images" / image["file_name"]))[0, 0])
            for image in coco_of(made, split)["images"]
        ]
        for split in NAMES
    }
    assert values == {
        "train": [10, 10],
        "val": [60, 60],
        "easy": [200],
        "medium": [200],
        "difficult": [200],
    }
    assert coco_of(made, "easy")["images"][0]["file_name"] == "eval/1_769p.jpg"
    assert coco_of(made, "val")["images"][0]["file_name"] == "val/1_769p.jpg"


@pytest.mark.parametrize("folder", ["eval", "EVICAN_EVAL2019/pictures", "somewhere", "."])
def test_folders_of_other_names(tmp_path: Path, folder: str) -> None:
    source = tmp_path / "source"
    write_json(source / NAMES["easy"], CONTENT["easy"])
    write_image(source / folder / "1_769p.jpg", 200)

    made = prepare(RECIPE, tmp_path / "root", [source])

    assert made.counts == {"cell_nucleus_easy": (1, 1), "easy": (1, 1)}


def test_images_of_another_split_do_not_stand_in(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_json(source / NAMES["easy"], CONTENT["easy"])
    write_image(source / "EVICAN_train2019" / "1_769p.jpg", 10)

    pair = rf"{NAMES['easy']}.* 1 of them .*1_769p\.jpg.*EVICAN_eval2019\.zip"
    with pytest.raises(BadFileError, match=pair):
        prepare(RECIPE, tmp_path / "root", [source])


def test_splits_that_are_not_given_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_copy(tmp_path / "source", {"easy": CONTENT["easy"]})

    made = prepare(RECIPE, tmp_path / "root", [source])

    assert set(made.counts) == {"cell_nucleus_easy", "easy"}
    assert "'difficult'" in caplog.text
    assert "easy has 1 images, published are 33" in caplog.text


def test_nothing_given_and_damaged_files(tmp_path: Path, folder_copy: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadFileError, match="instances_train2019_EVICAN2"):
        prepare(RECIPE, tmp_path / "root", [empty])

    (folder_copy / "Annotations" / NAMES["val"]).write_text('{"images": [')
    with pytest.raises(BadFileError, match=rf"{NAMES['val']}: is not JSON"):
        prepare(RECIPE, tmp_path / "root", [folder_copy])


def test_categories_of_another_set(tmp_path: Path) -> None:
    content = {**CONTENT["easy"], "categories": [{"id": 1, "name": "HeLa_cell"}]}
    source = write_copy(tmp_path / "source", {"easy": content})

    with pytest.raises(BadFileError, match=rf"{NAMES['easy']}: has the categories HeLa_cell"):
        prepare(RECIPE, tmp_path / "root", [source])


def test_categories_by_name_or_as_published(tmp_path: Path) -> None:
    swapped = [{"id": 7, "name": "nucleus"}, {"id": 9, "name": "CELL"}]
    renamed = split_json((1, "a.jpg", [(9, CELL), (7, NUCLEUS)]))
    unnamed = split_json((1, "b.jpg", [(1, CELL), (2, NUCLEUS)]))
    content = {"easy": {**renamed, "categories": swapped}, "medium": {**unnamed, "categories": []}}

    made = prepare(RECIPE, tmp_path / "root", [write_copy(tmp_path / "source", content)]).folder

    for tier in content:
        annotations = coco_of(made, f"cell_nucleus_{tier}")["annotations"]
        assert [(a["category_id"], a["area"]) for a in annotations] == [(1, 200), (2, 16)]


def test_a_category_that_is_not_listed(tmp_path: Path) -> None:
    source = write_copy(tmp_path / "source", {"easy": split_json((1, "a.jpg", [(3, CELL)]))})

    with pytest.raises(BadFileError, match=rf"{NAMES['easy']}: annotation 0 .* category id 3"):
        prepare(RECIPE, tmp_path / "root", [source])


def test_a_crowd_region_stays_one(tmp_path: Path) -> None:
    content = split_json((1, "a.jpg", [(1, CELL), (1, NUCLEUS)]))
    content["annotations"][1]["iscrowd"] = 1

    made = prepare(
        RECIPE, tmp_path / "root", [write_copy(tmp_path / "source", {"easy": content})]
    ).folder

    assert [a["iscrowd"] for a in coco_of(made, "easy")["annotations"]] == [0, 1]


def test_unusable_outlines_and_strays_are_told(tmp_path: Path) -> None:
    content = split_json((1, "a.jpg", [(1, CELL), (1, [[1, 1, 2, 2]]), (1, [])]))
    content["annotations"].append({"id": 9, "image_id": 5, "category_id": 1, "segmentation": CELL})

    made = prepare(RECIPE, tmp_path / "root", [write_copy(tmp_path / "source", {"easy": content})])

    assert made.counts["easy"] == (1, 1)
    assert made.notes["easy: annotations of images that are not listed"] == 1
    assert [n for what, n in made.notes.items() if "enclose no area (empty" in what] == [2]


def test_interrupted_and_resumed(
    tmp_path: Path, folder_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(RECIPE, tmp_path / "whole", [folder_copy]).folder
    genuine = evican2._sample
    converted: list[str] = []

    def sample(source: Any, image: Any, path: Path, numbers: Any) -> Any:
        if len(converted) == 3:
            converted.append("stopped")
            raise KeyboardInterrupt
        converted.append(path.name)
        return genuine(source, image, path, numbers)

    monkeypatch.setattr(evican2, "_sample", sample)
    with pytest.raises(KeyboardInterrupt):
        prepare(RECIPE, tmp_path / "root", [folder_copy])
    assert not (tmp_path / "root" / "evican2").exists()
    made = prepare(RECIPE, tmp_path / "root", [folder_copy]).folder

    assert converted[:4] == ["1_769p.jpg", "3_C2C12.jpg", "1_769p.jpg", "stopped"]
    assert converted[4:] == ["5_HeLa.jpg", "1_769p.jpg", "2_Caki.jpg", "18_Caki.jpg"]
    for path in sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file()):
        assert (made / path).read_bytes() == (whole / path).read_bytes(), path


def test_remotes_and_expected_counts() -> None:
    assert {r.file_name: r.url.rsplit("/", 1)[1] for r in RECIPE.remotes} == {
        "EVICAN_train2019.zip": "102910",
        "EVICAN_val2019.zip": "102911",
        "EVICAN_eval2019.zip": "102912",
        NAMES["train"]: "102915",
        NAMES["val"]: "102916",
        NAMES["difficult"]: "102917",
        NAMES["easy"]: "102918",
        NAMES["medium"]: "102919",
    }
    tiers = [RECIPE.expected[tier].images for tier in TIERS]
    assert tiers == [33, 33, 32]
