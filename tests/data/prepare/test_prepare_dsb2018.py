"""The recipe of the 2018 Data Science Bowl, on tiny files of the published form."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from reading_back import read_back, zip_folder

from iaunet_d2.data.coco_json import load_coco
from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.prepare import dsb2018
from iaunet_d2.data.prepare.dsb2018 import RECIPE
from iaunet_d2.data.prepare.rle_csv import decode_runs
from iaunet_d2.data.prepare.run import prepare
from iaunet_d2.data.readers import read_image

HEIGHT, WIDTH = 12, 17
HEADER = ["ImageId", "EncodedPixels", "Height", "Width", "Usage"]
Truth = dict[str, list[np.ndarray]]


def _id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _nuclei(seed: int, count: int) -> list[np.ndarray]:
    """Masks that do not overlap."""
    owner = np.random.default_rng(seed).integers(0, count + 1, (HEIGHT, WIDTH))
    return [owner == k for k in range(1, count + 1)]


def _image(folder: Path, name: str, seed: int = 0) -> Path:
    """RGBA, as most are."""
    path = folder / _id(name) / "images" / f"{_id(name)}.png"
    path.parent.mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(path)
    return path


def _train(folder: Path, names: str = "ab") -> Truth:
    truth = {}
    for k, name in enumerate(names):
        _image(folder, name, k)
        masks = folder / _id(name) / "masks"
        masks.mkdir()
        # Files are named by digests, so their order is not that of the seeds.
        files = sorted((_id(f"{name}{j}"), m) for j, m in enumerate(_nuclei(k, k + 2)))
        for file_name, mask in files:
            Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{file_name}.png")
        truth[_id(name)] = [mask for _, mask in files]
    return truth


def _runs(mask: np.ndarray) -> str:
    """Pixel by pixel down the columns: independent of how the package decodes."""
    runs: list[list[int]] = []
    for number, inside in enumerate(mask.T.ravel().tolist(), 1):
        if inside and runs and sum(runs[-1]) == number:
            runs[-1][1] += 1
        elif inside:
            runs.append([number, 1])
    return " ".join(f"{start} {length}" for start, length in runs)


def _solution(path: Path, truth: Truth, more: list[list[Any]] | None = None) -> None:
    rows = [[n, _runs(m), HEIGHT, WIDTH, "Private"] for n, masks in truth.items() for m in masks]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([HEADER, *rows, *(more or [])])


def _tested(folder: Path, table: str, names: str, archive: str) -> Truth:
    truth = {}
    for k, name in enumerate(names, 10):
        _image(folder / archive, name, k)
        truth[_id(name)] = _nuclei(k, 3)
    _solution(folder / table, truth)
    return truth


def _masks(folder: Path, split: str) -> Truth:
    return {
        Path(file_name).stem: [mask for _, mask in instances]
        for file_name, instances in read_back(folder, split).items()
    }


def _assert_same(found: Truth, truth: Truth) -> None:
    assert found.keys() == truth.keys()
    for name, masks in truth.items():
        assert len(found[name]) == len(masks)
        for one, other in zip(found[name], masks, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("zipped", [False, True])
def test_three_splits(tmp_path: Path, zipped: bool) -> None:
    source = tmp_path / "source"
    truth = {"train": _train(source / "stage1_train")}
    truth["val"] = _tested(source, "stage1_solution.csv", "cd", "stage1_test")
    truth["test"] = _tested(source, "stage2_solution_final.csv", "ef", "stage2_test_final")
    given = [source]
    if zipped:  # as published: no folder around the images' own
        archives = ("stage1_train", "stage1_test", "stage2_test_final")
        given = [zip_folder(source / name, tmp_path / f"{name}.zip") for name in archives]
        given += sorted(source.glob("*.csv"))
    made = prepare(RECIPE, tmp_path / "root", given)
    assert dict(made.counts) == {"train": (2, 5), "val": (2, 6), "test": (2, 6)}
    assert dict(made.notes) == {}
    for split, masks in truth.items():
        _assert_same(_masks(made.folder, split), masks)
        json_file = str(made.folder / "annotations" / f"{split}.json")
        assert load_coco(json_file, str(made.folder / "images")).class_names == ["nucleus"]


def test_alpha_is_left_out_when_read(tmp_path: Path) -> None:
    _train(tmp_path / "source", "a")
    made = prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    copied = made.folder / "images" / f"{_id('a')}.png"
    original = tmp_path / "source" / _id("a") / "images" / copied.name
    assert copied.read_bytes() == original.read_bytes()
    pixels = read_image(copied)
    assert (pixels.shape, pixels.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    bgr = cv2.imread(str(original), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(pixels, bgr[..., ::-1])


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_images_of_stage_two(tmp_path: Path, bits: int) -> None:
    source = tmp_path / "source"
    truth = _tested(source, "stage2_solution_final.csv", "e", "stage2_test_final")
    path = source / "stage2_test_final" / _id("e") / "images" / f"{_id('e')}.png"
    grey = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * (1 if bits == 8 else 300)
    cv2.imwrite(str(path), grey.astype(np.uint8 if bits == 8 else np.uint16))
    made = prepare(RECIPE, tmp_path / "root", [source])
    _assert_same(_masks(made.folder, "test"), truth)
    pixels = read_image(made.folder / "images" / path.name)[..., 0]
    assert pixels.shape == (HEIGHT, WIDTH)
    assert pixels[0, 0] == 0
    assert pixels[0, 1] < pixels[5, 3] < pixels[-1, -2]


@pytest.mark.parametrize(
    ("runs", "pixels"),
    [
        ("2 1", [(1, 0)]),  # column by column: below the first
        ("4 1", [(0, 1)]),
        ("12 1", [(2, 3)]),
        ("3 2", [(0, 1), (2, 0)]),
    ],
)
def test_runs_count_down_the_columns(runs: str, pixels: list[tuple[int, int]]) -> None:
    assert [tuple(p) for p in np.argwhere(decode_runs(runs, 3, 4, "F"))] == pixels


def test_ignored_images_are_left_out(tmp_path: Path) -> None:
    """Their rows hold no sizes that could be checked."""
    source = tmp_path / "source"
    truth = _tested(source, "stage2_solution_final.csv", "e", "stage2_test_final")
    _image(source / "stage2_test_final", "ignored")
    more = [[_id("ignored"), "1 1", 1, 1, "Ignored"]]
    _solution(source / "stage2_solution_final.csv", truth, more)
    made = prepare(RECIPE, tmp_path / "root", [source])
    _assert_same(_masks(made.folder, "test"), truth)
    assert not (made.folder / "images" / f"{_id('ignored')}.png").exists()
    assert list(made.notes.values()) == [1]


def test_image_without_nuclei_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "source"
    truth = _tested(source, "stage1_solution.csv", "c", "stage1_test")
    _image(source / "stage1_test", "bare")
    more = [[_id("bare"), "", HEIGHT, WIDTH, "Public"]]
    _solution(source / "stage1_solution.csv", truth, more)
    made = prepare(RECIPE, tmp_path / "root", [source])
    _assert_same(_masks(made.folder, "val"), {**truth, _id("bare"): []})


def test_table_without_usage_takes_all(tmp_path: Path) -> None:
    _image(tmp_path / "source", "c")
    text = f"ImageId,EncodedPixels,Height,Width\n{_id('c')},1 2 13 1,{HEIGHT},{WIDTH}\n"
    (tmp_path / "source" / "stage1_solution.csv").write_text(text)
    made = prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    (mask,) = _masks(made.folder, "val")[_id("c")]
    assert np.argwhere(mask).tolist() == [[0, 0], [0, 1], [1, 0]]


def test_splits_without_files_are_left_out(tmp_path: Path) -> None:
    """Test images without a solution, and a solution without images."""
    source = tmp_path / "source"
    truth = _train(source / "stage1_train")
    _image(source / "stage1_test", "unsolved")
    _solution(source / "stage2_solution_final.csv", {_id("absent"): _nuclei(0, 1)})
    made = prepare(RECIPE, tmp_path / "root", [source])
    assert made.counts.keys() == {"train"}
    _assert_same(_masks(made.folder, "train"), truth)
    assert sorted(made.notes.values()) == [1, 1]
    assert any(note.startswith("test left out") for note in made.notes)


def test_interrupted_runs_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = _train(tmp_path / "source", "abc")
    real = dsb2018.mask_annotations
    calls: list[Path] = []

    def annotations(image: Path, *rest: Any) -> Any:
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(image, *rest)

    monkeypatch.setattr(dsb2018, "mask_annotations", annotations)
    with pytest.raises(KeyboardInterrupt):
        prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    made = prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    assert len(calls) == 3 + 1
    _assert_same(_masks(made.folder, "train"), truth)


def test_empty_and_colour_masks(tmp_path: Path) -> None:
    truth = _train(tmp_path / "source", "a")
    folder = tmp_path / "source" / _id("a") / "masks"
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "0empty.png")
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[2, 3, :3] = 255
    Image.fromarray(pixels).save(folder / "0rgba.png")
    made = prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    single = np.zeros((HEIGHT, WIDTH), bool)
    single[2, 3] = True
    _assert_same(_masks(made.folder, "train"), {_id("a"): [single, *truth[_id("a")]]})
    assert dict(made.notes) == {"masks without pixels: left out": 1}


def test_copies_of_an_image_count_once(tmp_path: Path) -> None:
    """An archive that lies beside what was unpacked from it."""
    truth = _train(tmp_path / "source" / "stage1_train")
    zip_folder(tmp_path / "source" / "stage1_train", tmp_path / "source" / "stage1_train.zip")
    made = prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    _assert_same(_masks(made.folder, "train"), truth)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([_id("c"), "1 2 3", HEIGHT, WIDTH, "Private"], r"line 5.*3 numbers"),
        ([_id("c"), "204 2", HEIGHT, WIDTH, "Private"], r"line 5.*from pixel 204"),
        ([_id("c"), "1 1", WIDTH, HEIGHT, "Private"], r"line 5.*\('17', '12'\).*\(12, 17\)"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: list[Any], message: str) -> None:
    source = tmp_path / "source"
    truth = _tested(source, "stage1_solution.csv", "c", "stage1_test")
    _solution(source / "stage1_solution.csv", truth, [row])
    with pytest.raises(BadFileError, match=r"stage1_solution\.csv, " + message):
        prepare(RECIPE, tmp_path / "root", [source])


def test_incomplete_copies_are_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    truth = _tested(source, "stage1_solution.csv", "c", "stage1_test")
    _solution(source / "stage1_solution.csv", {**truth, _id("gone"): _nuclei(0, 1)})
    with pytest.raises(BadFileError, match=f"lists 2 images, and 1 .*{_id('gone')}"):
        prepare(RECIPE, tmp_path / "root", [source])
    _train(tmp_path / "other", "a")
    extra = tmp_path / "other" / _id("a") / "images" / "extra.png"
    Image.new("L", (WIDTH, HEIGHT)).save(extra)
    with pytest.raises(BadFileError, match="holds several images"):
        prepare(RECIPE, tmp_path / "root", [tmp_path / "other"])


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "source" / "photo.png")
    with pytest.raises(BadFileError, match=r"masks/\*\.png.*stage1_train\.zip"):
        prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])


def test_real_pack(tmp_path: Path, shared_data: Path) -> None:
    pack = shared_data / "dsb2018_nuclei"
    made = prepare(RECIPE, tmp_path / "root", [pack])
    assert dict(made.counts) == {"train": (200, 6276), "val": (40, 1113)}
    for split in ("train", "val"):
        ours, theirs = (
            json.loads(path.read_text())
            for path in (made.folder / f"annotations/{split}.json", pack / f"{split}.json")
        )
        assert _outlines(ours) == _outlines(theirs)
        stains = [
            {i["file_name"]: (i["stain"], i["dsb_id"]) for i in c["images"]} for c in (ours, theirs)
        ]
        assert stains[0] == stains[1]
        json_file = str(made.folder / "annotations" / f"{split}.json")
        assert load_coco(json_file, str(made.folder / "images")).findings == {}
    for path in (pack / "images").iterdir():
        assert (made.folder / "images" / path.name).read_bytes() == path.read_bytes()
    # The same polygons give the same masks; seen on one image.
    ours, theirs = COCO(str(made.folder / "annotations/val.json")), COCO(str(pack / "val.json"))
    name = theirs.dataset["images"][0]["file_name"]
    masks = []
    for coco in (ours, theirs):
        image = next(i["id"] for i in coco.dataset["images"] if i["file_name"] == name)
        masks.append([coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(image))])
    np.testing.assert_array_equal(masks[0], masks[1])


def _outlines(content: dict[str, Any]) -> dict[str, list[Any]]:
    names = {image["id"]: image["file_name"] for image in content["images"]}
    outlines: dict[str, list[Any]] = {name: [] for name in names.values()}
    for annotation in content["annotations"]:
        outlines[names[annotation["image_id"]]].append(
            (annotation["segmentation"], annotation["area"], annotation["bbox"])
        )
    return outlines
