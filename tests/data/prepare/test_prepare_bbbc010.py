"""The BBBC010 recipe, on tiny files of the published form, and on a COCO pack."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools.coco import COCO
from reading_back import read_back

from iaunet_d2.data.coco_json import load_coco
from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.prepare import bbbc010
from iaunet_d2.data.prepare.bbbc010 import RECIPE, unmasked_worms
from iaunet_d2.data.prepare.run import prepare
from iaunet_d2.data.readers import read_image

HEIGHT, WIDTH = 30, 40
GUID = "9E84F49F-1B25-4E7E-8040-D1BB2D7E73EA"
Truth = dict[str, list[np.ndarray]]


def _tif(well: str, channel: str) -> str:
    return f"1649_1109_0003_Amp5-1_B_20070424_{well}_{channel}_{GUID}.tif"


def _worm(row: int, column: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[row : row + height, column : column + width] = True
    return mask


def _data_set(folder: Path, wells: tuple[str, ...] = ("A01", "B13", "D20", "E04")) -> Truth:
    """Both channels flat in one folder, masks in their own; two worms that cross, and one apart."""
    images, masks = folder / "BBBC010_v2_images", folder / "BBBC010_v1_foreground_eachworm"
    images.mkdir(parents=True)
    masks.mkdir()
    rng = np.random.default_rng(0)
    truth = {}
    for k, well in enumerate(wells):
        for channel in ("w1", "w2"):
            pixels = rng.integers(80, 3000, (HEIGHT, WIDTH), dtype=np.uint16)
            tifffile.imwrite(images / _tif(well, channel), pixels)
        crossing = [_worm(10, 2 + k, 3, 30), _worm(2, 12, 25, 4)]
        truth[well] = [*crossing, _worm(20, 25, 4, 10)]
        for number, mask in enumerate(truth[well], 2):  # numbers do not always start at 01
            pixels = mask.astype(np.uint8) * 255
            Image.fromarray(pixels).save(masks / f"{well}_{number:02d}_ground_truth.png")
    return truth


def _zip(folder: Path, target: Path, flat: bool) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name if flat else f"{folder.name}/{path.name}")
    return target


def _masks(folder: Path, split: str) -> Truth:
    return {
        file_name.split("_")[6]: [mask for _, mask in instances]
        for file_name, instances in read_back(folder, split).items()
    }


def _entries(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    content = json.loads((folder / "annotations" / f"{split}.json").read_text())
    return {image["well"]: image for image in content["images"]}


def _assert_same(found: Truth, truth: Truth) -> None:
    assert found.keys() == truth.keys()
    for well, masks in truth.items():
        assert len(found[well]) == len(masks)
        for one, other in zip(found[well], masks, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("zipped", [False, True])
def test_crossing_worms_survive_exactly(tmp_path: Path, zipped: bool) -> None:
    source = tmp_path / "source"
    truth = _data_set(source)
    given = [source]
    if zipped:  # as published: images flat, masks in a folder
        given = [
            _zip(source / "BBBC010_v2_images", tmp_path / "BBBC010_v2_images.zip", True),
            _zip(source / "BBBC010_v1_foreground_eachworm", tmp_path / "eachworm.zip", False),
        ]
    made = prepare(RECIPE, tmp_path / "root", given)
    assert dict(made.counts) == {"train": (3, 9), "val": (1, 3)}
    assert dict(made.notes) == {}
    val = _masks(made.folder, "val")
    assert val.keys() == {"D20"}
    _assert_same({**_masks(made.folder, "train"), **val}, truth)
    assert (val["D20"][0] & val["D20"][1]).sum() == 3 * 4
    json_file = str(made.folder / "annotations" / "train.json")
    assert load_coco(json_file, str(made.folder / "images")).class_names == ["worm"]


def test_image_is_brightfield_copied_and_read(tmp_path: Path) -> None:
    _data_set(tmp_path / "source")
    made = prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    entry = _entries(made.folder, "train")["A01"]
    assert entry["file_name"] == _tif("A01", "w2")
    assert (entry["height"], entry["width"]) == (HEIGHT, WIDTH)
    copied = made.folder / "images" / entry["file_name"]
    original = tmp_path / "source" / "BBBC010_v2_images" / entry["file_name"]
    assert copied.read_bytes() == original.read_bytes()
    assert len(list(copied.parent.iterdir())) == 4  # nothing of w1
    pixels = read_image(copied)
    assert (pixels.shape, pixels.dtype) == ((HEIGHT, WIDTH, 1), np.float32)
    # 16 bits are stretched: the order of grey values stays.
    grey = tifffile.imread(original).astype(float)
    inner = (pixels[..., 0] > 0) & (pixels[..., 0] < 255)
    assert inner.mean() > 0.9
    assert np.corrcoef(grey[inner], pixels[..., 0][inner])[0, 1] > 0.9999


def test_treatment_is_that_of_the_column(tmp_path: Path) -> None:
    _data_set(tmp_path / "source", ("A12", "A13"))
    made = prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    found = {well: e["treatment"] for well, e in _entries(made.folder, "train").items()}
    assert found == {"A12": "ampicillin", "A13": "none"}


def test_wells_that_lack_something_are_skipped_and_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    truth = _data_set(source)
    (source / "BBBC010_v2_images" / _tif("B13", "w2")).unlink()
    for path in (source / "BBBC010_v1_foreground_eachworm").glob("E04_*"):
        path.unlink()
    made = prepare(RECIPE, tmp_path / "root", [source])
    _assert_same(_masks(made.folder, "train"), {"A01": truth["A01"]})
    assert dict(made.notes) == {
        "wells without a brightfield image: masks left out (B13)": 1,
        "wells without masks: image left out (E04)": 1,
    }


def test_empty_mask_is_left_out_and_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    truth = _data_set(source, ("A01",))
    empty = source / "BBBC010_v1_foreground_eachworm" / "A01_01_ground_truth.png"
    Image.new("L", (WIDTH, HEIGHT)).save(empty)
    made = prepare(RECIPE, tmp_path / "root", [source])
    _assert_same(_masks(made.folder, "train"), truth)
    assert dict(made.notes) == {"masks without pixels: left out": 1}


def test_foreground_tells_worms_without_a_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The foreground is RGBA; its outlines differ a little from those of the single worms."""
    monkeypatch.setattr(bbbc010, "_LEAST_WORM", 20)
    source = tmp_path / "source"
    truth = _data_set(source, ("A01", "B13"))
    (source / "BBBC010_v1_foreground").mkdir()
    extra = {"A01": _worm(0, 0, 2, 9), "B13": _worm(26, 0, 3, 9)}  # 18 and 27 pixels
    for well, masks in truth.items():
        grey = (np.any(masks, axis=0) | extra[well]).astype(np.uint8) * 255
        pixels = np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1)
        Image.fromarray(pixels).save(source / "BBBC010_v1_foreground" / f"{well}_binary.png")
    made = prepare(RECIPE, tmp_path / "root", [source])
    _assert_same(_masks(made.folder, "train"), truth)
    found = {well: e["unmasked_worms"] for well, e in _entries(made.folder, "train").items()}
    assert found == {"A01": 0, "B13": 1}
    assert list(made.notes.values()) == [1]


def test_unmasked_worms_counts_parts_of_a_worms_size() -> None:
    """By hand: two bars of 200 pixels, one of them masked; 199 pixels are none."""
    bars = np.zeros((60, 50), bool)
    bars[0:4], bars[10:14] = True, True
    speck = np.zeros_like(bars)
    speck[20:24] = True
    speck[20, 0] = False
    own = np.zeros_like(bars)
    own[8:14] = True  # reaches further than the foreground
    assert unmasked_worms(bars | speck, [own]) == 1
    assert unmasked_worms(bars, []) == 2
    assert unmasked_worms(np.zeros_like(bars), [own]) == 0


def test_interrupted_runs_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = _data_set(tmp_path / "source")
    real = bbbc010.mask_annotations
    calls: list[Path] = []

    def annotations(image: Path, *rest: Any) -> Any:
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(image, *rest)

    monkeypatch.setattr(bbbc010, "mask_annotations", annotations)
    with pytest.raises(KeyboardInterrupt):
        prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    made = prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    assert len(calls) == 4 + 1
    _assert_same({**_masks(made.folder, "train"), **_masks(made.folder, "val")}, truth)


def test_copies_of_a_file_count_once(tmp_path: Path) -> None:
    """An archive that lies beside what was unpacked from it."""
    source = tmp_path / "source"
    truth = _data_set(source, ("A01",))
    _zip(source / "BBBC010_v1_foreground_eachworm", source / "eachworm.zip", False)
    _zip(source / "BBBC010_v2_images", source / "images.zip", True)
    deeper = source / "old" / "BBBC010_v1_images" / _tif("A01", "w2").replace(GUID, "OTHER")
    deeper.parent.mkdir(parents=True)
    tifffile.imwrite(deeper, np.zeros((HEIGHT, WIDTH), np.uint16))
    made = prepare(RECIPE, tmp_path / "root", [source])
    _assert_same(_masks(made.folder, "train"), truth)
    assert _entries(made.folder, "train")["A01"]["file_name"] == _tif("A01", "w2")


def test_mask_of_another_size_is_named(tmp_path: Path) -> None:
    _data_set(tmp_path / "source", ("A01",))
    folder = tmp_path / "source" / "BBBC010_v1_foreground_eachworm"
    Image.new("L", (HEIGHT, WIDTH), 255).save(folder / "A01_03_ground_truth.png")
    with pytest.raises(BadFileError, match=r"A01_03_ground_truth\.png: .*\(40, 30\).*\(30, 40\)"):
        prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])


def test_damaged_mask_is_named(tmp_path: Path) -> None:
    _data_set(tmp_path / "source", ("A01",))
    path = tmp_path / "source/BBBC010_v1_foreground_eachworm/A01_03_ground_truth.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BadFileError, match=r"A01_03_ground_truth\.png"):
        prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])


@pytest.mark.parametrize(
    ("removed", "message"), [("*.tif", "w2_"), ("*_ground_truth.png", "_ground_truth.png")]
)
def test_missing_archive_is_named(tmp_path: Path, removed: str, message: str) -> None:
    _data_set(tmp_path / "source", ("A01",))
    for path in (tmp_path / "source").rglob(removed):
        path.unlink()
    with pytest.raises(BadFileError, match=f"{message}.*BBBC010_v2_images.zip"):
        prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])


def test_expected_counts_are_all_wells() -> None:
    wells = [f"{row}{column:02d}" for row in "ABCD" for column in range(1, 25)]
    wells += [f"E{column:02d}" for column in range(1, 5)]
    in_val = sum(well.startswith("D") for well in wells)
    assert RECIPE.expected["val"].images == in_val
    assert RECIPE.expected["train"].images == len(wells) - in_val
    instances = [count.instances or 0 for count in RECIPE.expected.values()]
    assert sum(instances) == 1407  # files in the published archive


def _pack(folder: Path, categories: Any, category: int = 5) -> Path:
    (folder / "images").mkdir(parents=True)
    Image.new("L", (WIDTH, HEIGHT), 7).save(folder / "images" / "A.png")
    polygon = [1.5, 2.25, 11, 2, 11, 12]
    annotation = {"id": 0, "image_id": 9, "category_id": category, "segmentation": [polygon]}
    content = {
        "info": {},
        "images": [{"id": 9, "file_name": "A.png", "well": "A01", "crop_xy": [3, 4], "license": 1}],
        "annotations": [{**annotation, "note": "kept"}, {**annotation, "id": 1, "image_id": 77}],
        "categories": categories,
    }
    content["images"][0].update(height=HEIGHT, width=WIDTH)
    (folder / "train.json").write_text(json.dumps(content))
    return folder


def test_pack_keeps_polygons_and_keys(tmp_path: Path) -> None:
    source = _pack(tmp_path / "pack", [{"id": 5, "name": "Worm"}])
    made = prepare(RECIPE, tmp_path / "root", [source])
    content = json.loads((made.folder / "annotations/train.json").read_text())
    (image,), (annotation,) = content["images"], content["annotations"]
    assert (image["well"], image["crop_xy"], image["id"]) == ("A01", [3, 4], 1)
    assert "license" not in image
    assert content["categories"] == [{"id": 1, "name": "worm"}]
    assert annotation["segmentation"] == [[1.5, 2.25, 11, 2, 11, 12]]
    assert (annotation["id"], annotation["image_id"], annotation["category_id"]) == (1, 1, 1)
    assert (annotation["iscrowd"], annotation["note"]) == (0, "kept")
    assert annotation["bbox"] == [1.5, 2, 9.5, 10]
    assert list(made.notes.values()) == [1]  # the annotation of image 77


def test_pack_of_another_data_set_is_refused(tmp_path: Path) -> None:
    source = _pack(tmp_path / "pack", [{"id": 5, "name": "nucleus"}])
    with pytest.raises(BadFileError, match=r"train\.json.*nucleus.*worm"):
        prepare(RECIPE, tmp_path / "root", [source])
    source = _pack(tmp_path / "other", [{"id": 4, "name": "worm"}])
    with pytest.raises(BadFileError, match=r"train\.json: annotation 0 has the category_id 5"):
        prepare(RECIPE, tmp_path / "root", [source])


def test_pack_without_categories_takes_the_ids(tmp_path: Path) -> None:
    made = prepare(RECIPE, tmp_path / "root", [_pack(tmp_path / "pack", [], category=1)])
    assert made.counts["train"] == (1, 1)


def test_pack_without_an_image_is_named(tmp_path: Path) -> None:
    source = _pack(tmp_path / "pack", [{"id": 5, "name": "worm"}])
    (source / "images" / "A.png").unlink()
    with pytest.raises(BadFileError, match=r"train\.json: lists 1 images.*A\.png.*images/"):
        prepare(RECIPE, tmp_path / "root", [source])


def test_real_pack(tmp_path: Path, shared_data: Path) -> None:
    pack = shared_data / "bbbc010_worms"
    made = prepare(RECIPE, tmp_path / "root", [pack])
    assert dict(made.counts) == {"train": (50, 707), "val": (15, 211)}
    for split in ("train", "val"):
        ours, theirs = (
            COCO(str(path))
            for path in (made.folder / f"annotations/{split}.json", pack / f"{split}.json")
        )
        by_name = {image["file_name"]: image for image in theirs.dataset["images"]}
        for image in ours.dataset["images"]:
            other = by_name[image["file_name"]]
            assert (image["well"], image["crop_xy"]) == (other["well"], other["crop_xy"])
            for one, two in zip(
                ours.loadAnns(ours.getAnnIds(image["id"])),
                theirs.loadAnns(theirs.getAnnIds(other["id"])),
                strict=True,
            ):
                assert one["segmentation"] == two["segmentation"]
                np.testing.assert_array_equal(ours.annToMask(one), theirs.annToMask(two))
        json_file = str(made.folder / "annotations" / f"{split}.json")
        assert load_coco(json_file, str(made.folder / "images")).findings == {}
    for path in (pack / "images").iterdir():
        assert (made.folder / "images" / path.name).read_bytes() == path.read_bytes()
