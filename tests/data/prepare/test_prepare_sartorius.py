"""The Sartorius recipe, on tiny tables and images of the published form."""

import csv
import json
import logging
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util
from reading_back import read_back, zip_folder

from iaunet_d2.data.coco_json import load_coco
from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.prepare import sartorius
from iaunet_d2.data.prepare.rle_csv import decode_runs
from iaunet_d2.data.prepare.run import prepare
from iaunet_d2.data.prepare.sartorius import RECIPE, assign_folds

HEIGHT, WIDTH = 6, 9
HEADER = (
    "id,annotation,width,height,cell_type,plate_time,sample_date,sample_id,elapsed_timedelta"
).split(",")


def _runs(mask: np.ndarray) -> str:
    """Pixel by pixel along the rows: independent of how the package decodes."""
    runs: list[list[int]] = []
    for number, inside in enumerate(mask.ravel().tolist(), 1):
        if inside and runs and sum(runs[-1]) == number:
            runs[-1][1] += 1
        elif inside:
            runs.append([number, 1])
    return " ".join(f"{start} {length}" for start, length in runs)


def _row(image: str, runs: str, cell_type: str, sample: str) -> list[Any]:
    time = ["19h30m00s", "2019-06-16"]
    return [image, runs, WIDTH, HEIGHT, cell_type, *time, sample, "0 days 11:30:00"]


def _write(folder: Path, rows: list[list[Any]], header: list[str] = HEADER) -> Path:
    (folder / "train").mkdir(parents=True, exist_ok=True)
    with open(folder / "train.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    rng = np.random.default_rng(0)
    for name in sorted({row[0] for row in rows}):
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "train" / f"{name}.png")
    return folder


def _data_set(folder: Path, images: int = 12) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Random masks that overlap, two images per sample, three cell types."""
    rng = np.random.default_rng(1)
    truth: dict[str, list[tuple[str, np.ndarray]]] = defaultdict(list)
    rows = []
    for k in range(images):
        name, cell_type = f"{k:012x}", ("shsy5y", "astro", "cort")[k % 3]
        for _ in range(k % 4 + 1):
            mask = rng.random((HEIGHT, WIDTH)) < 0.4
            truth[name].append((cell_type, mask))
            rows.append(_row(name, _runs(mask), cell_type, f"{cell_type}_{k // 6}"))
    _write(folder, rows)
    return truth


def _masks(folder: Path, split: str) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Image -> cell type and mask of each instance, as the readers give them."""
    names = RECIPE.categories
    return {
        Path(file_name).stem: [(names[category], mask) for category, mask in instances]
        for file_name, instances in read_back(folder, split).items()
    }


def _assert_same(found: Any, truth: Any) -> None:
    assert found.keys() == truth.keys()
    for name, instances in truth.items():
        assert [t for t, _ in found[name]] == [t for t, _ in instances]
        for (_, one), (_, other) in zip(found[name], instances, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("runs", "pixels"),
    [
        ("1 1", [(0, 0)]),
        ("4 1", [(0, 3)]),
        ("5 1", [(1, 0)]),  # row by row: the second row's first pixel
        ("12 1", [(2, 3)]),  # the last
        ("4 2", [(0, 3), (1, 0)]),  # on around the end of a row
        ("10 3 1 1", [(0, 0), (2, 1), (2, 2), (2, 3)]),  # not in order
        ("2 2 3 2", [(0, 1), (0, 2), (0, 3)]),  # a pixel in two runs
        ("", []),
    ],
)
def test_runs_count_from_one_along_rows(runs: str, pixels: list[tuple[int, int]]) -> None:
    mask = decode_runs(runs, 3, 4, "C")
    assert mask.shape == (3, 4)
    assert [tuple(p) for p in np.argwhere(mask)] == pixels


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("1 2 3", "3 numbers"),
        ("12 2", "2 pixels from pixel 12"),
        ("0 1", "from pixel 0"),
        ("3 0", "run of 0 pixels"),
        ("3 -1", "run of -1 pixels"),
        ("1 x", "not whole numbers"),
        ("1 1.5", "not whole numbers"),
    ],
)
def test_damaged_runs(runs: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_runs(runs, 3, 4, "C")


@pytest.mark.parametrize("zipped", [False, True])
def test_masks_survive_exactly(tmp_path: Path, zipped: bool) -> None:
    truth = _data_set(tmp_path / "source")
    given = tmp_path / "source"
    if zipped:
        given = zip_folder(given, tmp_path / "sartorius-cell-instance-segmentation.zip")
    made = prepare(RECIPE, tmp_path / "root", [given])
    _assert_same(_masks(made.folder, "all"), truth)
    assert made.counts["all"] == (12, sum(map(len, truth.values())))
    train, val = _masks(made.folder, "train"), _masks(made.folder, "val")
    assert not train.keys() & val.keys()
    _assert_same({**train, **val}, truth)
    json_file = str(made.folder / "annotations" / "train.json")
    content = load_coco(json_file, str(made.folder / "images"))
    assert content.class_names == ["shsy5y", "astro", "cort"]
    copied = made.folder / "images" / f"{0:012x}.png"
    assert copied.read_bytes() == (tmp_path / "source/train" / copied.name).read_bytes()


def test_overlapping_instances_keep_their_pixels(tmp_path: Path) -> None:
    rows = [_row("a", "1 3", "cort", "s"), _row("a", "2 3", "cort", "s")]
    made = prepare(RECIPE, tmp_path / "root", [_write(tmp_path / "source", rows)])
    one, other = (mask for _, mask in _masks(made.folder, "all")["a"])
    assert (int(one.sum()), int(other.sum()), int((one & other).sum())) == (3, 3, 2)


def test_hollow_masks_stay_hollow(tmp_path: Path) -> None:
    ring = np.zeros((HEIGHT, WIDTH), bool)
    ring[1:5, 2:7] = True
    ring[2:4, 3:6] = False
    source = _write(tmp_path / "source", [_row("a", _runs(ring), "astro", "s")])
    made = prepare(RECIPE, tmp_path / "root", [source])
    np.testing.assert_array_equal(_masks(made.folder, "all")["a"][0][1], ring)


def test_interrupted_runs_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = _data_set(tmp_path / "source")
    real = sartorius._sample
    calls: list[Path] = []

    def sample(image: Path, *rest: Any) -> Any:
        calls.append(image)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(image, *rest)

    monkeypatch.setattr(sartorius, "_sample", sample)
    with pytest.raises(KeyboardInterrupt):
        prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    assert not (tmp_path / "root" / "sartorius").exists()
    made = prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    assert len(calls) == 12 + 1  # the one that was interrupted is done again, four are not
    _assert_same(_masks(made.folder, "all"), truth)


def test_what_the_archive_holds_besides_is_left_out(tmp_path: Path) -> None:
    truth = _data_set(tmp_path / "source", images=3)
    image = Image.new("L", (WIDTH, HEIGHT))
    for other in ("train_semi_supervised", "test", "LIVECell_dataset_2021/images"):
        (tmp_path / "source" / other).mkdir(parents=True)
        image.save(tmp_path / "source" / other / "other.png")
    for other in ("train_semi_supervised", "test"):  # not the one of train/
        image.save(tmp_path / "source" / other / f"{0:012x}.png")
    image.save(tmp_path / "source" / "train" / "unlisted.png")
    made = prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    _assert_same(_masks(made.folder, "all"), truth)
    copied = made.folder / "images" / f"{0:012x}.png"
    assert copied.read_bytes() == (tmp_path / "source/train" / copied.name).read_bytes()
    assert dict(made.notes) == {"images of train/ that train.csv does not list: left out": 1}


def test_mixed_image_keeps_each_cells_type(tmp_path: Path) -> None:
    rows = [_row("a", f"{k} 1", t, "s") for k, t in enumerate(("cort", "astro", "astro"), 1)]
    made = prepare(RECIPE, tmp_path / "root", [_write(tmp_path / "source", rows)])
    assert [t for t, _ in _masks(made.folder, "all")["a"]] == ["cort", "astro", "astro"]
    entry = json.loads((made.folder / "annotations/all.json").read_text())["images"][0]
    assert entry["cell_type"] == "astro"
    assert entry["sample_id"] == "s"
    assert list(made.notes.values()) == [1]
    assert "several types" in next(iter(made.notes))


def test_annotation_without_pixels_is_left_out_and_told(tmp_path: Path) -> None:
    rows = [_row("a", "", "cort", "s"), _row("a", "54 1", "cort", "s")]
    made = prepare(RECIPE, tmp_path / "root", [_write(tmp_path / "source", rows)])
    assert made.counts["all"] == (1, 1)
    assert _masks(made.folder, "all")["a"][0][1][5, 8]
    mended = json.loads((made.folder / "prepared.json").read_text())["mended"]
    assert list(mended.values()) == [1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (_row("a", "1 2 3", "cort", "s"), r"train\.csv, line 3.*3 numbers"),
        (_row("a", "54 2", "cort", "s"), r"train\.csv, line 3.*from pixel 54"),
        (_row("a", "1 2", "hela", "s"), r"train\.csv, line 3.*'hela'"),
        (["a", "1 2", 704, 520, "cort", "", "", "s", ""], r"line 3.*\('520', '704'\).*\(6, 9\)"),
        (["a", "1 2", WIDTH], r"train\.csv, line 3: is cut short"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: list[Any], message: str) -> None:
    source = _write(tmp_path / "source", [_row("a", "1 1", "cort", "s"), row])
    with pytest.raises(BadFileError, match=message):
        prepare(RECIPE, tmp_path / "root", [source])


def test_bad_tables_are_named(tmp_path: Path) -> None:
    source = _write(tmp_path / "source", [_row("a", "1 1", "cort", "s")], ["id", *HEADER[2:]])
    with pytest.raises(BadFileError, match=r"train\.csv: lacks the column\(s\) annotation"):
        prepare(RECIPE, tmp_path / "root", [source])
    with pytest.raises(BadFileError, match=r"train\.csv: lists no instance"):
        prepare(RECIPE, tmp_path / "root", [_write(tmp_path / "source", [])])
    (tmp_path / "source" / "train.csv").write_bytes(b"id,\xff\xfe\n")
    with pytest.raises(BadFileError, match=r"train\.csv: cannot be read"):
        prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])


def test_missing_image_is_named(tmp_path: Path) -> None:
    rows = [_row(name, "1 1", "cort", "s") for name in "ab"]
    source = _write(tmp_path / "source", rows)
    (source / "train" / "b.png").unlink()
    with pytest.raises(BadFileError, match=r"2 images, and 1 .*b\.png.*kaggle competitions"):
        prepare(RECIPE, tmp_path / "root", [source])


def test_no_source_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="kaggle competitions download -c sartorius"):
        prepare(RECIPE, tmp_path / "root")


def test_folds_keep_samples_together_and_types_even() -> None:
    rng = np.random.default_rng(3)
    samples = {}
    for cell_type in ("cort", "astro", "shsy5y"):
        for group in range(20):
            for k in range(int(rng.integers(1, 6))):
                samples[f"{cell_type}{group}-{k}"] = (f"{cell_type}_{group}", cell_type)
    folds = assign_folds(samples)
    assert set(folds.values()) == {0, 1, 2, 3, 4}
    of_sample = defaultdict(set)
    for image, (sample, _) in samples.items():
        of_sample[sample].add(folds[image])
    assert {len(found) for found in of_sample.values()} == {1}
    for cell_type in ("cort", "astro", "shsy5y"):
        sizes = Counter(folds[image] for image in samples if samples[image][1] == cell_type)
        # Largest first: folds differ by less than the largest sample.
        assert max(sizes.values()) - min(sizes.values()) < 6
    backwards = dict(reversed(samples.items()))
    assert assign_folds(backwards) == folds


def test_folds_of_few_samples() -> None:
    """By hand: b1 has more images than b2 and goes first, to fold 1; then comes fold 0."""
    samples = {"a": ("a1", "cort"), "b": ("b1", "astro"), "c": ("b1", "astro")}
    samples["d"] = ("b2", "astro")
    assert assign_folds(samples) == {"a": 1, "b": 1, "c": 1, "d": 0}


def test_largest_sample_goes_first() -> None:
    """By hand: z, with six images, fills fold 1 alone; the others go round the rest."""
    sizes = {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "z": 6}
    samples = {f"{s}{k}": (s, "cort") for s, count in sizes.items() for k in range(count)}
    folds = assign_folds(samples)
    assert {image[0]: fold for image, fold in folds.items()} == dict(z=1, a=0, b=2, c=3, d=4, e=0)


def test_published_counts_are_expected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The counts by cell type, added up; and a difference is told."""
    assert (RECIPE.expected["all"].images, RECIPE.expected["all"].instances) == (
        320 + 155 + 131,
        10_777 + 52_286 + 10_522,
    )
    _data_set(tmp_path / "source")
    with caplog.at_level(logging.WARNING):
        prepare(RECIPE, tmp_path / "root", [tmp_path / "source"])
    assert any("606" in message for message in caplog.messages)
    assert not any("train has" in message for message in caplog.messages)


def test_runs_agree_with_pycocotools_on_the_transpose() -> None:
    """COCO's run lengths go column by column: of the transposed frame, row by row."""
    mask = np.random.default_rng(5).random((7, 5)) < 0.5
    counts = []
    for inside in [False, True] * len(mask.ravel()):
        rest = mask.ravel()[sum(counts) :]
        ends = np.flatnonzero(rest != inside)
        counts.append(int(ends[0]) if len(ends) else len(rest))
    runs = " ".join(
        f"{sum(counts[:k]) + 1} {counts[k]}" for k in range(1, len(counts), 2) if counts[k]
    )
    rle = mask_util.frPyObjects({"size": [5, 7], "counts": counts}, 5, 7)
    np.testing.assert_array_equal(decode_runs(runs, 7, 5, "C"), mask_util.decode(rle).T)
    np.testing.assert_array_equal(decode_runs(runs, 5, 7, "F"), mask_util.decode(rle))
