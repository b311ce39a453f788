"""ISBI 2014 from MATLAB files of both formats."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from reading_back import Instances, assert_same, read_back, zip_folder
from scipy.io import loadmat, savemat

from iaunet_d2.data import BadFileError
from iaunet_d2.data.prepare import isbi2014, matlab
from iaunet_d2.data.prepare.matlab import MatFile
from iaunet_d2.data.prepare.run import prepare

HEIGHT, WIDTH = 14, 22
VAL, TEST = 2, 5


class Cell:
    """An image with the cytoplasms of its cells, its nuclei one by one, and their union."""

    def __init__(self, number: int, cells: int) -> None:
        rng = np.random.default_rng(number)
        self.image = rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
        self.cytoplasms = []
        for k in range(cells):
            mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
            mask[1 + k : 9 + 2 * k, 2 + 4 * k : 9 + 5 * k] = True  # each covers part of the next
            mask[1 + k, 2 + 4 * k] = False
            self.cytoplasms.append(mask)
        touching, single = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
        touching[2:4, 3:5] = touching[4:6, 5:7] = True  # two squares that meet at a corner
        single[10:12, 15 + number % 5 : 18 + number % 5] = True
        self.nuclei = [touching, single]

    @property
    def nuclei_mask(self) -> np.ndarray:
        return self.nuclei[0] | self.nuclei[1]

    @property
    def instances(self) -> Instances:
        return [(1, n) for n in self.nuclei] + [(2, c) for c in self.cytoplasms]


TRAIN_CELLS = [Cell(k, cells) for k, cells in enumerate((2, 3, 0))]
TEST_CELLS = [Cell(10 + k, cells) for k, cells in enumerate((3, 1, 2, 2, 3))]


def cell_array(entries: Sequence[Any]) -> np.ndarray:
    """A MATLAB cell array (n, 1), as SciPy writes it."""
    array = np.empty((len(entries), 1), dtype=object)
    for k, entry in enumerate(entries):
        array[k, 0] = cell_array(entry) if isinstance(entry, list) else entry
    return array


def write_version_7(path: Path, variables: dict[str, Any]) -> None:
    """MATLAB's own compressed format; lists become cell arrays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {k: cell_array(v) if isinstance(v, list) else v for k, v in variables.items()}
    savemat(path, content, do_compression=True)


def write_version_73(path: Path, variables: dict[str, Any]) -> None:
    """HDF5 behind 512 bytes: axes reversed, cell arrays (1, n) of references into ``#refs#``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        referred = file.create_group("#refs#")

        def store(group: h5py.Group, name: str, value: Any) -> h5py.Dataset:
            if isinstance(value, list) and not value:
                dataset = group.create_dataset(name, data=np.zeros(2, np.uint64))
                dataset.attrs["MATLAB_empty"] = np.uint8(1)
            elif isinstance(value, list):
                dataset = group.create_dataset(name, (1, len(value)), dtype=h5py.ref_dtype)
                for k, entry in enumerate(value):
                    dataset[0, k] = store(referred, f"{name}_{k}", entry).ref
            else:
                stored = value.astype(np.uint8) if value.dtype == bool else value
                dataset = group.create_dataset(name, data=stored.T)
            kinds = {"bool": b"logical", "float64": b"double"}
            kind = b"cell" if isinstance(value, list) else kinds.get(str(value.dtype), b"uint8")
            dataset.attrs["MATLAB_class"] = np.bytes_(kind)
            return dataset

        for name, value in variables.items():
            store(file, name, value)
    header = (
        b"MATLAB 7.3 MAT-file, Platform: PCWIN64, Created on: Mon Jan  6 2014 HDF5 schema 1.00 ."
    )
    with open(path, "r+b") as stream:
        stream.write(header.ljust(116) + bytes(8) + b"\x00\x02IM")


def unchanged(mask: np.ndarray) -> np.ndarray:
    return mask


def truth(
    kind: str, cells: Sequence[Cell], convert: Callable[[np.ndarray], np.ndarray] = unchanged
) -> dict[str, Any]:
    """The variables of a ``_GT`` file; masks of whatever type and foreground value."""
    return {
        f"{kind}_Cytoplasm": [[convert(m) for m in c.cytoplasms] for c in cells],
        f"{kind}_Nuclei": [convert(c.nuclei_mask) for c in cells],
        "CellNum": np.array([[float(len(c.cytoplasms))] for c in cells]),
    }


def write_small(folder: Path) -> None:
    """What ``Train45Test90.zip`` holds."""
    for name, kind, cells in (
        ("isbi_train", "train", TRAIN_CELLS),
        ("isbi_test90", "test", TEST_CELLS[:VAL]),
    ):
        variable = {"isbi_train": "ISBI_Train", "isbi_test90": "ISBI_Test90"}[name]
        write_version_7(folder / f"{name}.mat", {variable: [c.image for c in cells]})
        write_version_7(folder / f"{name}_GT.mat", truth(kind, cells, lambda m: m.astype(np.uint8)))


def write_whole(folder: Path) -> None:
    """What ``Dataset.zip`` holds."""
    inside = folder / "Dataset" / "Synthetic"
    write_version_73(inside / "trainset.mat", {"trainset": [c.image for c in TRAIN_CELLS]})
    write_version_7(
        inside / "trainset_GT.mat", truth("train", TRAIN_CELLS, lambda m: m.astype(np.uint8))
    )
    write_version_73(inside / "testset.mat", {"testset": [c.image for c in TEST_CELLS]})
    write_version_73(inside / "testset_GT.mat", truth("test", TEST_CELLS))
    (folder / "Dataset" / "EDF").mkdir()
    for name in ("EDF000.png", "EDF000_GT.png"):
        Image.new("L", (9, 7)).save(folder / "Dataset" / "EDF" / name)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isbi2014, "VAL_IMAGES", VAL)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_small(tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    write_whole(tmp_path / "whole")
    return tmp_path / "whole"


def assert_split(folder: Path, split: str, cells: Sequence[Cell], first: int = 1) -> None:
    found = read_back(folder, split)
    assert list(found) == [f"{split}/{k:03d}.png" for k in range(first, first + len(cells))]
    for (name, instances), cell in zip(found.items(), cells, strict=True):
        with Image.open(folder / "images" / name) as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.array(image), cell.image)
        assert_same(instances, cell.instances)


def test_all_splits_from_both_archives(
    tmp_path: Path, small: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archives = [
        zip_folder(small, tmp_path / "Train45Test90.zip"),
        zip_folder(whole, tmp_path / "Dataset.zip"),
    ]
    made = prepare(isbi2014.RECIPE, tmp_path / "out", archives)
    assert_split(made.folder, "train", TRAIN_CELLS)
    assert_split(made.folder, "val", TEST_CELLS[:VAL])
    assert_split(made.folder, "test", TEST_CELLS[VAL:], first=VAL + 1)
    assert {name: images for name, (images, _) in made.counts.items()} == {
        "train": 3,
        "val": 2,
        "test": 3,
    }
    assert made.notes == {}
    assert not list((made.folder / "images").rglob("EDF*"))
    assert "published are 810" in caplog.text  # three images are not the published number
    assert "may share images" not in caplog.text


def test_the_whole_set_alone_gives_the_same(tmp_path: Path, whole: Path) -> None:
    made = prepare(isbi2014.RECIPE, tmp_path / "out", [whole])
    assert_split(made.folder, "train", TRAIN_CELLS)
    assert_split(made.folder, "val", TEST_CELLS[:VAL])
    assert_split(made.folder, "test", TEST_CELLS[VAL:], first=VAL + 1)


def test_the_small_archive_alone_has_no_test(
    tmp_path: Path, small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = prepare(isbi2014.RECIPE, tmp_path / "out", [small])
    assert set(made.counts) == {"train", "val"}
    assert "'test' could not be made" in caplog.text
    assert_split(made.folder, "val", TEST_CELLS[:VAL])


def test_version_73_is_what_scipy_does_not_read(whole: Path) -> None:
    with pytest.raises(NotImplementedError, match=r"v7\.3"):
        loadmat(whole / "Dataset" / "Synthetic" / "testset.mat")


def test_other_images_at_the_start_are_told(
    tmp_path: Path, small: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [TEST_CELLS[0].image, TEST_CELLS[4].image]
    write_version_7(small / "isbi_test90.mat", {"ISBI_Test90": images})
    made = prepare(isbi2014.RECIPE, tmp_path / "out", [small, whole])
    assert "1 of the 2 images of isbi_test90.mat" in caplog.text
    assert list(made.notes.values()) == [1]


def test_another_number_of_cells_is_told(
    tmp_path: Path, small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    variables = truth("train", TRAIN_CELLS)
    variables["CellNum"][1] = 7
    write_version_7(small / "isbi_train_GT.mat", variables)
    made = prepare(isbi2014.RECIPE, tmp_path / "out", [small])
    assert "image 2 has 3, CellNum 7" in caplog.text
    assert list(made.notes.values()) == [1]
    assert_split(made.folder, "train", TRAIN_CELLS)


def test_cell_numbers_may_be_absent(tmp_path: Path, small: Path) -> None:
    variables = truth("train", TRAIN_CELLS)
    del variables["CellNum"]
    write_version_7(small / "isbi_train_GT.mat", variables)
    assert prepare(isbi2014.RECIPE, tmp_path / "out", [small]).notes == {}


@pytest.mark.parametrize("write", [write_version_7, write_version_73])
@pytest.mark.parametrize(
    "as_type",
    [
        unchanged,
        lambda mask: mask.astype(np.uint8) * np.uint8(255),
        lambda mask: mask.astype(np.float64),
    ],
    ids=["logical", "0 and 255", "double"],
)
def test_masks_of_any_type(tmp_path: Path, write: Any, as_type: Any) -> None:
    for name, variable in (("trainset", "trainset"), ("trainset_GT", "")):
        content = truth("train", TRAIN_CELLS, as_type)
        write(
            tmp_path / "in" / f"{name}.mat",
            {variable: [c.image for c in TRAIN_CELLS]} if variable else content,
        )
    made = prepare(isbi2014.RECIPE, tmp_path / "out", [tmp_path / "in"])
    assert_split(made.folder, "train", TRAIN_CELLS)


@pytest.mark.parametrize("scale", [255.0, 1.0], ids=["from 0 to 1", "from 0 to 255"])
def test_images_of_doubles_become_bytes(tmp_path: Path, small: Path, scale: float) -> None:
    images = [c.image / scale for c in TRAIN_CELLS]
    write_version_7(small / "isbi_train.mat", {"ISBI_Train": images})
    made = prepare(isbi2014.RECIPE, tmp_path / "out", [small])
    assert_split(made.folder, "train", TRAIN_CELLS)


@pytest.mark.parametrize("write", [write_version_7, write_version_73])
def test_empty_masks_are_no_instances(tmp_path: Path, write: Any) -> None:
    empty = np.zeros((0, 0))
    cell = TRAIN_CELLS[0]
    write(tmp_path / "in" / "trainset.mat", {"trainset": [cell.image] * 2})
    masks = {
        "train_Cytoplasm": [[cell.cytoplasms[0]], []],
        "train_Nuclei": [empty, cell.nuclei_mask],
    }
    if write is write_version_73:  # MATLAB stores the size of an empty array, not the array
        write_with_empty(tmp_path / "in" / "trainset_GT.mat", masks)
    else:
        write(tmp_path / "in" / "trainset_GT.mat", masks)
    made = prepare(isbi2014.RECIPE, tmp_path / "out", [tmp_path / "in"])
    found = read_back(made.folder, "train")
    assert_same(found["train/001.png"], [(2, cell.cytoplasms[0])])
    assert_same(found["train/002.png"], [(1, n) for n in cell.nuclei])


def test_cytoplasms_that_are_in_no_cell_array(tmp_path: Path, small: Path) -> None:
    cells = [TRAIN_CELLS[2], TEST_CELLS[1]]  # none, and one
    variables = truth("train", cells)
    variables["train_Cytoplasm"] = [np.zeros((0, 0)), cells[1].cytoplasms[0]]
    write_version_7(small / "isbi_train.mat", {"ISBI_Train": [c.image for c in cells]})
    write_version_7(small / "isbi_train_GT.mat", variables)
    made = prepare(isbi2014.RECIPE, tmp_path / "out", [small])
    assert_split(made.folder, "train", cells)
    assert made.notes == {}


def write_with_empty(path: Path, variables: dict[str, Any]) -> None:
    write_version_73(path, variables)
    with h5py.File(path, "r+") as file:
        stored = file[file["train_Nuclei"][0, 0]]
        assert stored.size == 0
        name = stored.name
        del file[name]
        dataset = file.create_dataset(name, data=np.zeros(2, np.uint64))
        dataset.attrs["MATLAB_empty"] = np.uint8(1)
        dataset.attrs["MATLAB_class"] = np.bytes_(b"double")
        file["train_Nuclei"][0, 0] = dataset.ref


def test_an_interrupted_conversion_goes_on(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[int] = []
    original = isbi2014._sample

    def stopping(part: Any, index: int) -> Any:
        if len(converted) == 4:
            raise KeyboardInterrupt
        converted.append(index)
        return original(part, index)

    monkeypatch.setattr(isbi2014, "_sample", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(isbi2014.RECIPE, tmp_path / "out", [whole])
    assert not (tmp_path / "out" / "isbi2014").exists()

    def counting(part: Any, index: int) -> Any:
        converted.append(index)
        return original(part, index)

    monkeypatch.setattr(isbi2014, "_sample", counting)
    made = prepare(isbi2014.RECIPE, tmp_path / "out", [whole])
    assert len(converted) == len(TRAIN_CELLS) + TEST
    assert_split(made.folder, "test", TEST_CELLS[VAL:], first=VAL + 1)


def test_entries_of_hdf5_are_read_one_by_one(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = matlab._array
    monkeypatch.setattr(matlab, "_array", lambda stored: read.append(1) or original(stored))
    folder = whole / "Dataset" / "Synthetic"
    with MatFile(folder / "testset.mat") as images, MatFile(folder / "testset_GT.mat") as masks:
        cells = images.cells("testset")
        cytoplasms = masks.cells("cytoplasm")
        assert (len(cells), len(cytoplasms), len(cytoplasms[0])) == (TEST, TEST, 3)
        assert not read
        np.testing.assert_array_equal(cells[3], TEST_CELLS[3].image)
        assert len(read) == 1


@pytest.mark.parametrize("name", ["isbi_train.mat", "isbi_train_GT.mat"])
@pytest.mark.parametrize("write", [write_version_7, write_version_73])
def test_a_truncated_file_is_named(tmp_path: Path, small: Path, name: str, write: Any) -> None:
    write(small / name, {"ISBI_Train": [TRAIN_CELLS[0].image], **truth("train", TRAIN_CELLS[:1])})
    data = (small / name).read_bytes()
    (small / name).write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(BadFileError, match=rf"{name}.*fetch it again"):
        prepare(isbi2014.RECIPE, tmp_path / "out", [small])


def test_files_that_are_missing_or_do_not_fit(tmp_path: Path, small: Path) -> None:
    def refused(number: int, match: str) -> None:
        with pytest.raises(BadFileError, match=match):
            prepare(isbi2014.RECIPE, tmp_path / f"out{number}", [small])

    write_version_7(small / "isbi_train_GT.mat", truth("train", TRAIN_CELLS[:2]))
    refused(1, r"holds 3 images, and .*isbi_train_GT\.mat holds masks of 2 \(cytoplasm\)")
    variables = truth("train", TRAIN_CELLS)
    variables["train_Nuclei"][1] = np.ones((WIDTH, HEIGHT), bool)
    write_version_7(small / "isbi_train_GT.mat", variables)
    refused(2, r"isbi_train\.mat, image 2: is 22x14 .*height x width 22x14")
    write_version_7(small / "isbi_train_GT.mat", {"train_Nuclei": [1]})
    refused(3, r"no variable whose name ends in 'cytoplasm', only train_Nuclei")
    (small / "isbi_train_GT.mat").unlink()
    refused(4, r"no file isbi_train_gt\.mat.*Train45Test90\.zip")
    for path in small.iterdir():
        path.unlink()
    refused(5, "isbi_train.mat or isbi_test90.mat or trainset.mat or testset.mat")
