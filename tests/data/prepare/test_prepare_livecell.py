"""LIVECell: copies of every kind become one data set; crops against whole-image rasterisation."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools.coco import COCO

from iaunet_d2.data import load_coco
from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.prepare import livecell
from iaunet_d2.data.prepare.livecell import RECIPE, cell_type
from iaunet_d2.data.prepare.livecell_crops import Crop, choose_crop, cut, instance_counts
from iaunet_d2.data.prepare.run import prepare

HEIGHT, WIDTH = 520, 704
A172 = "A172_Phase_C7_1_02d16h00m_2.tif"
A172_OTHER = "A172_Phase_A7_1_00d00h00m_3.tif"
SHSY5Y = "SHSY5Y_Phase_B10_2_03d12h00m_1.tif"
CATEGORY = {"id": 1, "name": "cell", "supercategory": "cell"}


def a_cell(rng: np.random.Generator, radius: float = 8, points: int = 9) -> list[list[float]]:
    """An outline with fractions of pixels inside the image."""
    x, y = rng.uniform(radius + 1, (WIDTH - radius - 1, HEIGHT - radius - 1))
    angles = np.sort(rng.uniform(0, 2 * np.pi, points))
    radii = radius * rng.uniform(0.6, 1, points)
    outline = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    return [outline.round(2).ravel().tolist()]


def some_cells(count: int, seed: int = 0) -> list[list[list[float]]]:
    rng = np.random.default_rng(seed)
    return [a_cell(rng) for _ in range(count)]


def split_json(*listed: tuple[int, str, list[Any]], first_id: int = 500) -> dict[str, Any]:
    """A file as published: of (image id, file name, outlines); ``area`` is not the pixel count."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, name, outlines in listed:
        images.append(
            {
                "id": image_id,
                "width": WIDTH,
                "height": HEIGHT,
                "file_name": name,
                "original_filename": name.replace("_2.tif", ".png"),
                "url": f"https://example.org/{name}",
            }
        )
        for outline in outlines:
            points = np.array(outline[0]).reshape(-1, 2)
            low, high = points.min(0), points.max(0)
            annotations.append(
                {
                    "id": first_id + len(annotations),
                    "image_id": image_id,
                    "category_id": 1,
                    "segmentation": outline,
                    "area": 123.25,
                    "bbox": [*low.tolist(), *(high - low).tolist()],
                    "iscrowd": 0,
                }
            )
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    return {**content, "categories": [CATEGORY]}


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.arange(HEIGHT, dtype=np.uint8)[:, None]
    columns = np.arange(WIDTH, dtype=np.uint8)[None]
    tifffile.imwrite(path, rows + 3 * columns + np.uint8(seed))


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


TRAIN = split_json(
    (11, A172, some_cells(3, 1)), (12, SHSY5Y, some_cells(1, 2)), (13, A172_OTHER, [])
)
VAL = split_json((11, "BV2_Phase_A4_1_00d04h00m_1.tif", some_cells(2, 3)))
TEST = split_json((900, "Huh7_Phase_A10_1_00d00h00m_1.tif", some_cells(2, 4)))
CONTENT = {"train": TRAIN, "val": VAL, "test": TEST}


def write_copy(folder: Path, nested: bool = False) -> Path:
    """The three splits with their images, flat as in the archive of today, or nested."""
    for split, content in CONTENT.items():
        write_json(folder / f"livecell_coco_{split}.json", content)
        parent = f"livecell_{'test' if split == 'test' else 'train_val'}_images"
        for k, image in enumerate(content["images"]):
            name = image["file_name"]
            kind = name.split("_")[0] if nested else ""
            write_image(folder / "images" / parent / kind / name, k)
    return folder


def coco_of(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / "annotations" / f"{split}.json").read_text())


def check_loads(folder: Path, split: str) -> None:
    """Our loader finds nothing to remark, and pycocotools takes it."""
    path = str(folder / "annotations" / f"{split}.json")
    content = load_coco(path, str(folder / "images"))
    assert content.findings == {}
    assert content.evaluation is None
    assert content.class_names == ["cell"]
    assert all(Path(record["file_name"]).is_file() for record in content.dicts)
    coco = COCO(path)
    assert coco.getCatIds(catNms=["cell"]) == [1]
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))


@pytest.fixture
def folder_copy(tmp_path: Path) -> Path:
    return write_copy(tmp_path / "copy")


def test_from_archive_and_from_folder_alike(tmp_path: Path, folder_copy: Path) -> None:
    nested = write_copy(tmp_path / "nested", nested=True)
    archive = tmp_path / "files" / "images.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as stream:
        for path in sorted((folder_copy / "images").rglob("*.tif")):
            stream.write(path, path.relative_to(folder_copy))
    jsons = [folder_copy / f"livecell_coco_{split}.json" for split in CONTENT]

    one = prepare(RECIPE, tmp_path / "one", [archive, *jsons])
    other = prepare(RECIPE, tmp_path / "other", [nested])

    made = sorted(p.relative_to(one.folder) for p in one.folder.rglob("*") if p.is_file())
    assert made == sorted(p.relative_to(other.folder) for p in other.folder.rglob("*.*"))
    for path in made:
        assert (one.folder / path).read_bytes() == (other.folder / path).read_bytes(), path
    assert one.counts == {
        "train": (3, 4),
        "a172_train": (2, 3),
        "shsy5y_train": (1, 1),
        "crop_train": (2, len(coco_of(one.folder, "crop_train")["annotations"])),
        "val": (1, 2),
        "bv2_val": (1, 2),
        "crop_val": (1, len(coco_of(one.folder, "crop_val")["annotations"])),
        "test": (1, 2),
        "huh7_test": (1, 2),
        "crop_test": (1, len(coco_of(one.folder, "crop_test")["annotations"])),
    }
    for split in one.counts:
        check_loads(one.folder, split)


def test_what_is_published_is_kept(tmp_path: Path, folder_copy: Path) -> None:
    made = prepare(RECIPE, tmp_path / "root", [folder_copy]).folder

    train = coco_of(made, "train")
    assert [image["file_name"] for image in train["images"]] == [A172, SHSY5Y, A172_OTHER]
    assert [image["source_id"] for image in train["images"]] == [11, 12, 13]
    source = TRAIN["annotations"]
    assert [a["segmentation"] for a in train["annotations"]] == [a["segmentation"] for a in source]
    assert {a["area"] for a in train["annotations"]} == {123.25}
    np.testing.assert_allclose(
        [a["bbox"] for a in train["annotations"]], [a["bbox"] for a in source], atol=1e-3
    )
    found = folder_copy / "images" / "livecell_train_val_images" / A172
    assert (made / "images" / A172).read_bytes() == found.read_bytes()


def test_a_dict_without_categories(tmp_path: Path, folder_copy: Path) -> None:
    plain = prepare(RECIPE, tmp_path / "plain", [folder_copy]).folder
    content = {k: v for k, v in TRAIN.items() if k != "categories"}
    content["annotations"] = {str(a["id"]): a for a in TRAIN["annotations"]}
    write_json(folder_copy / "livecell_coco_train.json", content)

    made = prepare(RECIPE, tmp_path / "dict", [folder_copy]).folder

    assert coco_of(made, "train") == coco_of(plain, "train")
    check_loads(made, "train")


@pytest.mark.parametrize(
    "name", ["shsy5y/train.json", "shsy5y/livecell_shsy5y_train.json", "train.json"]
)
def test_a_single_cell_type(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    content = split_json((5, SHSY5Y, some_cells(2)))
    content["annotations"] = {str(a["id"]): a for a in content["annotations"]}
    for annotation in content["annotations"].values():
        annotation["category_id"] = 3
    content["categories"] = [{"id": 3, "name": "shsy5y"}]
    write_json(source / "LIVECell_single_cells" / name, content)
    write_image(source / "images" / "livecell_train_val_images" / "SHSY5Y" / SHSY5Y)

    made = prepare(RECIPE, tmp_path / "root", [source])

    assert made.counts["train"] == made.counts["shsy5y_train"] == (1, 2)
    assert set(made.counts) == {"train", "shsy5y_train", "crop_train"}
    assert made.notes["train: annotation files in place of livecell_coco_train.json"] == 1
    check_loads(made.folder, "train")
    assert {a["category_id"] for a in coco_of(made.folder, "crop_train")["annotations"]} == {1}


def test_single_cell_types_together(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for kind, name in (("a172", A172), ("shsy5y", SHSY5Y)):
        write_json(source / kind / "train.json", split_json((5, name, some_cells(2))))
        write_image(source / "images" / name)

    made = prepare(RECIPE, tmp_path / "root", [source])

    assert made.counts["train"] == (2, 4)
    assert made.counts["a172_train"] == made.counts["shsy5y_train"] == (1, 2)


def test_a_pack_of_another_data_set_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_json(source / "annotations" / "train.json", split_json((1, "im_1.png", some_cells(2))))
    Image.new("L", (WIDTH, HEIGHT)).save(source / "im_1.png")
    with pytest.raises(BadFileError, match=r"train\.json: lists no image of LIVECell .*im_1\.png"):
        prepare(RECIPE, tmp_path / "root", [source])


def test_an_image_that_is_listed_twice(tmp_path: Path) -> None:
    source = tmp_path / "source"
    first, second = some_cells(2, 1), some_cells(5, 2)
    content = split_json((1, A172, first), (2, SHSY5Y, []), (3, A172, second))
    write_json(source / "livecell_coco_test.json", content)
    for name in (A172, SHSY5Y):
        write_image(source / name)

    made = prepare(RECIPE, tmp_path / "root", [source])

    assert made.counts["test"] == (3, 7)
    assert made.counts["a172_test"] == (2, 7)
    assert made.notes["test: images that are listed a second time: both listings are kept"] == 1
    assert [i["file_name"] for i in coco_of(made.folder, "test")["images"]] == [A172, SHSY5Y, A172]
    assert [i["source_id"] for i in coco_of(made.folder, "test")["images"]] == [1, 2, 3]
    assert len(list((made.folder / "images").glob("*.tif"))) == 2
    cropped = coco_of(made.folder, "crop_test")
    assert [image["source"] for image in cropped["images"]] == [A172]
    assert len(cropped["annotations"]) <= 2
    check_loads(made.folder, "test")


def test_images_in_two_splits_and_strays_are_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    train = split_json((1, A172, some_cells(1)))
    train["annotations"].append({**train["annotations"][0], "id": 77, "image_id": 99})
    write_json(source / "livecell_coco_train.json", train)
    write_json(source / "livecell_coco_val.json", split_json((4, A172, some_cells(1))))
    write_image(source / A172)

    made = prepare(RECIPE, tmp_path / "root", [source])

    assert made.notes["images that train and val both list: kept in both"] == 1
    assert made.notes["train: annotations of images that are not listed"] == 1
    assert made.counts["train"] == made.counts["val"] == (1, 1)


def test_interrupted_and_resumed(
    tmp_path: Path, folder_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(RECIPE, tmp_path / "whole", [folder_copy]).folder
    converted: list[str] = []
    genuine = livecell._sample

    def interrupted(after: int) -> Callable[..., Any]:
        def sample(source: Any, image: Any, path: Path) -> Any:
            if len(converted) >= after:
                raise KeyboardInterrupt
            converted.append(path.name)
            return genuine(source, image, path)

        return sample

    root = tmp_path / "root"
    monkeypatch.setattr(livecell, "_sample", interrupted(2))
    with pytest.raises(KeyboardInterrupt):
        prepare(RECIPE, root, [folder_copy])
    assert not (root / "livecell").exists()
    assert converted == [A172, SHSY5Y]

    converted.clear()
    monkeypatch.setattr(livecell, "_sample", interrupted(99))
    made = prepare(RECIPE, root, [folder_copy]).folder

    assert converted[0] == A172_OTHER
    for path in sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file()):
        assert (made / path).read_bytes() == (whole / path).read_bytes(), path


def test_errors_name_what_is_missing(tmp_path: Path, folder_copy: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadFileError, match=r"livecell_coco_train\.json"):
        prepare(RECIPE, tmp_path / "root", [empty])

    (folder_copy / "images" / "livecell_train_val_images" / SHSY5Y).unlink()
    with pytest.raises(BadFileError, match=rf"livecell_coco_train\.json.*1 of them.*{SHSY5Y}"):
        prepare(RECIPE, tmp_path / "root", [folder_copy])

    (folder_copy / "livecell_coco_train.json").write_text('{"images": [')
    with pytest.raises(BadFileError, match=r"livecell_coco_train\.json: is not JSON"):
        prepare(RECIPE, tmp_path / "root", [folder_copy])


def test_an_image_of_another_size(tmp_path: Path, folder_copy: Path) -> None:
    path = folder_copy / "images" / "livecell_train_val_images" / SHSY5Y
    tifffile.imwrite(path, np.zeros((260, 352), np.uint8))

    with pytest.raises(BadFileError, match=r"height and width \(260, 352\).*states \(520, 704\)"):
        prepare(RECIPE, tmp_path / "root", [folder_copy])


def test_cell_types() -> None:
    assert cell_type("SkBr3_Phase_E3_1_00d00h00m_2.tif") == "skbr3"
    assert cell_type("folder/Huh7_Phase_A10_1_00d00h00m_1.tif") == "huh7"
    names = [remote.file_name for remote in RECIPE.remotes]
    assert names == ["images.zip", *(f"livecell_coco_{s}.json" for s in ("train", "val", "test"))]
    assert [(n, c.images) for n, c in RECIPE.expected.items()] == [
        ("train", 3253),
        ("val", 570),
        ("test", 1564),
    ]


# --- crops ---


def whole_masks(outlines: list[Any], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """By pycocotools in the whole image: (N, H, W), bool."""
    coco = COCO()
    coco.imgs = {1: {"height": height, "width": width}}
    masks = [coco.annToMask({"image_id": 1, "segmentation": s}) for s in outlines]
    return np.array(masks, dtype=bool).reshape(-1, height, width)


def expected_in(crop: Crop, masks: np.ndarray) -> list[np.ndarray]:
    """The rule, applied to whole masks: 16 pixels are visible, or all that there are."""
    rows = slice(crop.top, crop.top + crop.height)
    inside = masks[:, rows, crop.left : crop.left + crop.width]
    return [
        part
        for part, mask in zip(inside, masks, strict=True)
        if part.sum() >= min(16, mask.sum()) and part.any()
    ]


def test_crops_hold_exactly_what_is_visible(tmp_path: Path) -> None:
    source = tmp_path / "source"
    outlines = some_cells(70)
    outlines.append([[100, 100, 103, 100, 103, 103, 100, 103]])  # 9 pixels in all
    outlines.append([*some_cells(1, 5)[0], *some_cells(1, 6)[0]])  # of two parts
    write_json(source / "livecell_coco_train.json", split_json((1, A172, outlines)))
    write_image(source / A172)

    made = prepare(RECIPE, tmp_path / "root", [source])

    coco = COCO(str(made.folder / "annotations" / "crop_train.json"))
    (image,) = coco.imgs.values()
    crop = Crop(*image["crop"])
    assert (crop.width, crop.height, image["width"], image["height"]) == (512,) * 4
    assert image["file_name"] == f"crop/train/{Path(A172).stem}.png"
    expected = expected_in(crop, whole_masks(outlines))
    assert 40 < len(expected) < 70
    assert len(coco.anns) == len(expected)
    for annotation, mask in zip(coco.anns.values(), expected, strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
    pixels = np.array(Image.open(made.folder / "images" / image["file_name"]))
    whole = tifffile.imread(source / A172)
    rows, columns = slice(crop.top, crop.top + 512), slice(crop.left, crop.left + 512)
    np.testing.assert_array_equal(pixels, whole[rows, columns])


def test_counts_of_every_crop_against_counting() -> None:
    rng = np.random.default_rng(7)
    outlines: list[Any] = []
    for _ in range(25):
        corner = rng.uniform(-3, (30, 24))
        outlines.append([(corner + rng.uniform(0, 9, (5, 2))).round(2).ravel().tolist()])
    outlines.append([[40, 5, 44, 5, 44, 9]])  # wholly outside
    outlines.append([[5, 5, 6, 6]])  # encloses nothing
    outlines.append([])
    run_lengths = {"size": [26, 34], "counts": [26 * 3 + 2, 20, 6, 21, 26 * 31 - 49]}
    outlines += [{"size": [34, 26], "counts": [34 * 26]}, {"size": [26, 34], "counts": [1]}]

    counts = instance_counts([*outlines, run_lengths], (26, 34), (15, 20))

    masks = whole_masks([*outlines[:25], run_lengths], 26, 34)
    assert counts is not None
    assert counts.shape == (12, 15)
    for top in range(12):
        for left in range(15):
            assert counts[top, left] == len(expected_in(Crop(left, top, 20, 15), masks))
    assert counts.min() < counts.max()


def test_an_outline_that_reaches_out_of_the_image() -> None:
    outline = [[-40.0, -30.0, 60.0, -30.0, 60.0, 50.0, -40.0, 50.0]]
    image = np.zeros((HEIGHT, WIDTH, 1), np.uint8)

    sample = cut(image, [{"category_id": 1, "segmentation": outline}], Crop(10, 5, 512, 512))

    (annotation,) = sample.annotations
    expected = np.zeros((512, 512), bool)
    expected[:45, :50] = True
    np.testing.assert_array_equal(annotation["mask"], expected)


def square(x: float, y: float, side: float = 6) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def test_only_crops_with_one_to_a_hundred() -> None:
    """Six columns of 20 cells at the left edge, one cell further right, nothing between.

    At most 100 are seen where less than 16 pixels are left of the first column (left >= 4), and any
    where 16 are left of the last (left <= 33), or where the cell on the right is met (left >= 141).
    """
    cells = [square(6 * column, 26 * row) for column in range(6) for row in range(20)]
    cells.append(square(650, 200))

    crops = [choose_crop(cells, (HEIGHT, WIDTH), f"{k}.tif") for k in range(25)]

    lefts = [crop.left for crop in crops if crop is not None]
    assert len(lefts) == 25
    assert all(4 <= left <= 33 or left >= 141 for left in lefts)
    assert min(lefts) <= 33 < max(lefts)


def test_a_cell_that_every_crop_cuts_counts() -> None:
    frame = [[1, 1, 703, 1, 703, 519, 1, 519]]
    middle = [square(200 + 7 * (k % 20), 200 + 7 * (k // 20)) for k in range(100)]

    assert choose_crop([frame, *middle], (HEIGHT, WIDTH), "a.tif") is None
    assert choose_crop([frame, *middle[1:]], (HEIGHT, WIDTH), "a.tif") is not None


def test_an_image_without_such_a_crop_gives_none(tmp_path: Path) -> None:
    source = tmp_path / "source"
    middle = [square(200 + 7 * (k % 20), 200 + 7 * (k // 20)) for k in range(101)]
    content = split_json((1, A172, middle), (2, SHSY5Y, middle[:100]), (3, A172_OTHER, []))
    write_json(source / "livecell_coco_val.json", content)
    for name in (A172, SHSY5Y, A172_OTHER):
        write_image(source / name)

    made = prepare(RECIPE, tmp_path / "root", [source])

    assert made.counts["crop_val"] == (1, 100)
    assert coco_of(made.folder, "crop_val")["images"][0]["source"] == SHSY5Y
    note = "crop_val: images without a 512x512 crop of 1 to 100 cells: left out"
    assert made.notes[note] == 2


def test_a_split_of_which_no_image_gives_a_crop(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_json(source / "livecell_coco_val.json", split_json((3, A172, [])))
    write_image(source / A172)

    made = prepare(RECIPE, tmp_path / "root", [source])

    assert made.counts == {"val": (1, 0), "a172_val": (1, 0)}


def test_the_same_seed_gives_the_same_crops(tmp_path: Path, folder_copy: Path) -> None:
    """The order of the images does not matter, nor what else is listed."""
    first = prepare(RECIPE, tmp_path / "first", [folder_copy]).folder
    reordered = {**TRAIN, "images": TRAIN["images"][1::-1]}
    write_json(folder_copy / "livecell_coco_train.json", reordered)
    second = prepare(RECIPE, tmp_path / "second", [folder_copy]).folder

    crops = sorted(p.relative_to(first) for p in (first / "images" / "crop").rglob("*.png"))
    assert len(crops) == 4
    for path in crops:
        assert (first / path).read_bytes() == (second / path).read_bytes()
    places = [
        {image["source"]: image["crop"] for image in coco_of(folder, "crop_train")["images"]}
        for folder in (first, second)
    ]
    assert places[0] == places[1]


def test_draws_are_uniform_and_depend_on_seed_and_name() -> None:
    """2 tops and 3 lefts are 6 places, each about 100 times in 600 (standard deviation 9)."""
    cells = [square(200, 200)]

    def places(seed: int) -> list[tuple[int, int]]:
        drawn = [choose_crop(cells, (513, 514), f"{k}.tif", seed) for k in range(600)]
        return [(crop.top, crop.left) for crop in drawn if crop is not None]

    drawn = places(0)
    seen, times = np.unique(drawn, axis=0, return_counts=True)
    assert seen.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert 60 < times.min() <= times.max() < 140
    assert drawn == places(0)
    assert np.mean([a == b for a, b in zip(drawn, places(1), strict=True)]) < 0.3


@pytest.mark.parametrize(("size", "shape"), [((60, 80), (60, 80)), ((600, 70), (512, 70))])
def test_images_smaller_than_a_crop(size: tuple[int, int], shape: tuple[int, int]) -> None:
    outlines = [square(20, 20), square(75.5, 20)]
    annotations = [{"category_id": 1, "segmentation": s} for s in outlines]

    crop = choose_crop(outlines, size, "a.tif")
    assert crop is not None
    sample = cut(np.zeros((*size, 3), np.uint8), annotations, crop)

    assert isinstance(sample.image, np.ndarray)
    assert sample.image.shape == (*shape, 3)
    assert all(a["mask"].shape == shape for a in sample.annotations)
