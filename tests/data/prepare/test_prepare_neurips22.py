"""NeurIPS 2022 from images of many formats and int16 label maps."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from reading_back import Instances, assert_same, read_back, zip_folder

from iaunet_d2.data import BadFileError, read_image
from iaunet_d2.data.prepare import label_maps, neurips22
from iaunet_d2.data.prepare.label_maps import label_annotations, label_patches
from iaunet_d2.data.prepare.neurips22 import read_label_map
from iaunet_d2.data.prepare.run import prepare
from iaunet_d2.data.rasterise import Patch, encode_patch
from iaunet_d2.data.segmentation import encode_mask

HEIGHT, WIDTH = 21, 34


def label_map(number: int) -> np.ndarray:
    """Ids with gaps, cells that touch, and one at the lower right corner; int16 as published."""
    labels = np.zeros((HEIGHT, WIDTH), np.int16)
    labels[2:9, 1:8] = 3
    labels[2:9, 8 : 15 + number % 3] = 1
    labels[10:, 20:25] = 700
    labels[5, 22] = 12
    labels[18:, 30:] = 32767
    return labels


def instances(labels: np.ndarray) -> Instances:
    return [(1, labels == k) for k in np.unique(labels) if k]


def noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(len(shape))
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def write_label(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, labels, compression="adobe_deflate", photometric="minisblack")


def write_pair(folder: Path, number: int, image: np.ndarray, suffix: str = "png") -> np.ndarray:
    """An image and its label map, with the names of the archives."""
    path = folder / "images" / f"cell_{number:05d}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix in ("tif", "tiff"):
        tifffile.imwrite(path, image)
    else:
        Image.fromarray(image).save(path)
    labels = label_map(number)
    write_label(folder / "labels" / f"cell_{number:05d}_label.tiff", labels)
    return labels


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The three archives' folders, below one."""
    root = tmp_path / "published"
    for number in (1, 2):
        write_pair(root / "Training-labeled", number, noise(HEIGHT, WIDTH, 3))
    write_pair(root / "Tuning", 1, noise(HEIGHT, WIDTH))
    write_pair(root / "Testing" / "Public", 1, noise(HEIGHT, WIDTH, 3), "jpg")
    hidden = root / "Testing" / "Hidden" / "images"
    hidden.mkdir(parents=True)
    Image.new("RGB", (5, 4)).save(hidden / "TestHidden_001.png")
    return root


def assert_published(folder: Path) -> None:
    for split, names in {
        "train": ["cell_00001.png", "cell_00002.png"],
        "val": ["cell_00001.png"],
        "test": ["cell_00001.jpg"],
    }.items():
        found = read_back(folder, split)
        assert list(found) == [f"{split}/{name}" for name in names]
        for number, masks in enumerate(found.values(), 1):
            assert_same(masks, instances(label_map(number)))


def test_all_splits_from_a_folder(tmp_path: Path, published: Path) -> None:
    made = prepare(neurips22.RECIPE, tmp_path / "out", [published])
    assert_published(made.folder)
    assert made.notes == {}
    assert made.counts["train"] == (2, 10)
    assert not list((made.folder / "images").rglob("*Hidden*"))
    assert "must not be redistributed" in (made.folder / "prepared.json").read_text()


def test_all_splits_from_the_archives(tmp_path: Path, published: Path) -> None:
    for with_top_folder in (True, False):
        archives = []
        for name in ("Training-labeled", "Tuning", "Testing"):
            part = tmp_path / f"{with_top_folder}" / name
            part.mkdir(parents=True)
            (published / name).rename(part / name if with_top_folder else part / "x")
            inside = part if with_top_folder else part / "x"
            archives.append(zip_folder(inside, tmp_path / f"{with_top_folder}" / f"{name}.zip"))
            (part / name if with_top_folder else part / "x").rename(published / name)
        made = prepare(neurips22.RECIPE, tmp_path / f"out {with_top_folder}", archives)
        assert_published(made.folder)


def test_the_folder_of_one_archive(tmp_path: Path, published: Path) -> None:
    made = prepare(neurips22.RECIPE, tmp_path / "out", [published / "Tuning"])
    assert set(made.counts) == {"val"}


COPIED = {
    "8-bit grey.png": noise(HEIGHT, WIDTH),
    "8-bit colour.png": noise(HEIGHT, WIDTH, 3),
    "with transparency.png": noise(HEIGHT, WIDTH, 4),
    "16-bit grey.png": noise(HEIGHT, WIDTH, dtype=np.uint16),
    "colour.jpg": noise(HEIGHT, WIDTH, 3),
    "grey.jpeg": noise(HEIGHT, WIDTH),
    "8-bit grey.tif": noise(HEIGHT, WIDTH),
    "16-bit grey.tif": noise(HEIGHT, WIDTH, dtype=np.uint16),
    "16-bit colour.tiff": noise(HEIGHT, WIDTH, 3, dtype=np.uint16),
}


@pytest.mark.parametrize("name", COPIED)
def test_images_that_are_copied(tmp_path: Path, name: str) -> None:
    suffix = name.split(".")[-1]
    labels = write_pair(tmp_path / "Tuning", 1, COPIED[name], suffix)
    made = prepare(neurips22.RECIPE, tmp_path / "out", [tmp_path / "Tuning"])
    [(copy, masks)] = read_back(made.folder, "val").items()
    assert copy == f"val/cell_00001.{suffix}"
    source = tmp_path / "Tuning" / "images" / f"cell_00001.{suffix}"
    assert (made.folder / "images" / copy).read_bytes() == source.read_bytes()
    assert read_image(made.folder / "images" / copy).shape[2] in (1, 3)
    assert_same(masks, instances(labels))


def _bmp(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def _rgba_tiff(path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified"])


def _planar_tiff(path: Path, pixels: np.ndarray) -> None:
    planes = np.moveaxis(pixels, 2, 0)
    tifffile.imwrite(path, planes, photometric="minisblack", planarconfig="separate")


def _pages_tiff(path: Path, pixels: np.ndarray) -> None:
    with tifffile.TiffWriter(path) as writer:
        for channel in np.moveaxis(pixels, 2, 0):
            writer.write(channel, contiguous=False, photometric="minisblack", metadata=None)


def _float_tiff(path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")


DECODED: dict[str, tuple[Any, str, np.ndarray, np.ndarray]] = {
    "grey BMP": (_bmp, "bmp", noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH)),
    "colour BMP": (_bmp, "bmp", noise(HEIGHT, WIDTH, 3), noise(HEIGHT, WIDTH, 3)),
    "four channels": (
        _rgba_tiff,
        "tif",
        noise(HEIGHT, WIDTH, 4),
        noise(HEIGHT, WIDTH, 4)[..., :3],
    ),
    "four planes of 16 bits": (
        _planar_tiff,
        "tiff",
        noise(HEIGHT, WIDTH, 4, dtype=np.uint16),
        noise(HEIGHT, WIDTH, 4, dtype=np.uint16)[..., :3],
    ),
    "three pages": (_pages_tiff, "tif", noise(HEIGHT, WIDTH, 3), noise(HEIGHT, WIDTH, 3)),
    "two pages": (
        _pages_tiff,
        "tif",
        noise(HEIGHT, WIDTH, 2),
        np.pad(noise(HEIGHT, WIDTH, 2), ((0, 0), (0, 0), (0, 1))),
    ),
}


@pytest.mark.parametrize("name", DECODED)
def test_images_that_become_png(tmp_path: Path, name: str) -> None:
    write, suffix, pixels, expected = DECODED[name]
    folder = tmp_path / "Training-labeled"
    labels = write_pair(folder, 1, noise(2, 2))
    (folder / "images" / "cell_00001.png").unlink()
    write(folder / "images" / f"cell_00001.{suffix}", pixels)
    made = prepare(neurips22.RECIPE, tmp_path / "out", [folder])
    [(file_name, masks)] = read_back(made.folder, "train").items()
    assert file_name == "train/cell_00001.png"
    stored = cv2.imread(str(made.folder / "images" / file_name), cv2.IMREAD_UNCHANGED)
    stored = stored[..., ::-1] if stored.ndim == 3 else stored
    np.testing.assert_array_equal(stored, expected)
    assert stored.dtype == expected.dtype
    assert_same(masks, instances(labels))
    assert len(made.notes) == (suffix != "bmp")


def test_many_channels_of_floats_become_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "Training-labeled"
    write_pair(folder, 1, noise(2, 2))
    (folder / "images" / "cell_00001.png").unlink()
    ramp = np.linspace(-4, 4, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH, 1)
    _float_tiff(folder / "images" / "cell_00001.tif", np.repeat(ramp, 5, axis=2))
    made = prepare(neurips22.RECIPE, tmp_path / "out", [folder])
    stored = read_image(made.folder / "images" / "train" / "cell_00001.png")
    assert stored.shape == (HEIGHT, WIDTH, 3)
    assert (stored[0, 0, 0], stored[-1, -1, 2]) == (0, 255)
    assert abs(int(stored[HEIGHT // 2, WIDTH // 2, 1]) - 128) < 8


def test_an_id_in_pieces_is_one_instance(tmp_path: Path) -> None:
    folder = tmp_path / "Tuning"
    write_pair(folder, 1, noise(HEIGHT, WIDTH))
    labels = np.zeros((HEIGHT, WIDTH), np.int16)
    labels[1:4, 1:4] = labels[10:12, 20:30] = 5
    labels[5, 5] = labels[6, 6] = 2  # pieces that meet at a corner are one
    write_label(folder / "labels" / "cell_00001_label.tiff", labels)
    made = prepare(neurips22.RECIPE, tmp_path / "out", [folder])
    [masks] = read_back(made.folder, "val").values()
    assert_same(masks, [(1, labels == 2), (1, labels == 5)])
    assert made.notes == {"instances in several pieces: kept as one": 1}


def test_an_image_without_cells(tmp_path: Path) -> None:
    folder = tmp_path / "Tuning"
    write_pair(folder, 1, noise(HEIGHT, WIDTH))
    write_label(folder / "labels" / "cell_00001_label.tiff", np.zeros((HEIGHT, WIDTH), np.int16))
    made = prepare(neurips22.RECIPE, tmp_path / "out", [folder])
    assert read_back(made.folder, "val") == {"val/cell_00001.png": []}


def test_an_interrupted_conversion_goes_on(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scattered = label_map(1)
    scattered[0, 33] = 3
    write_label(published / "Training-labeled" / "labels" / "cell_00001_label.tiff", scattered)
    read: list[str] = []
    original = neurips22.read_label_map

    def stopping(path: Path) -> np.ndarray:
        if len(read) == 1:
            raise KeyboardInterrupt
        read.append(str(path))
        return original(path)

    monkeypatch.setattr(neurips22, "read_label_map", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(neurips22.RECIPE, tmp_path / "out", [published])
    monkeypatch.setattr(
        neurips22, "read_label_map", lambda path: read.append(str(path)) or original(path)
    )
    made = prepare(neurips22.RECIPE, tmp_path / "out", [published])
    assert len(read) == len(set(read)) == 4
    assert list(made.notes.values()) == [1]  # also what the first run has noted
    first, second = read_back(made.folder, "train").values()
    assert_same(first, instances(scattered))
    assert_same(second, instances(label_map(2)))


def test_pairs_that_are_not_complete(tmp_path: Path, published: Path) -> None:
    Image.new("L", (3, 2)).save(published / "Tuning" / "images" / "cell_00009.png")
    made = prepare(neurips22.RECIPE, tmp_path / "out", [published])
    assert made.counts["val"][0] == 1
    assert made.notes == {"images of val without a label map: left out": 1}
    (published / "Tuning" / "images" / "cell_00001.png").unlink()
    with pytest.raises(BadFileError, match=r"cell_00001_label\.tiff: has no image cell_00001\.\*"):
        prepare(neurips22.RECIPE, tmp_path / "out 2", [published])


def test_two_images_of_one_name(tmp_path: Path, published: Path) -> None:
    Image.new("L", (3, 2)).save(published / "Tuning" / "images" / "cell_00001.bmp")
    with pytest.raises(BadFileError, match=r"cell_00001\.bmp.* and .*cell_00001\.png: one of them"):
        prepare(neurips22.RECIPE, tmp_path / "out", [published])


def test_a_label_map_of_another_size(tmp_path: Path, published: Path) -> None:
    label = published / "Tuning" / "labels" / "cell_00001_label.tiff"
    write_label(label, label_map(1).T)
    with pytest.raises(
        BadFileError,
        match=r"cell_00001\.png is 34x21 .*cell_00001_label\.tiff is 21x34",
    ):
        prepare(neurips22.RECIPE, tmp_path / "out", [published])


def test_nothing_usable_given(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(BadFileError, match=r"_label\.tif.*Training-labeled\.zip, Tuning\.zip"):
        prepare(neurips22.RECIPE, tmp_path / "out", [tmp_path / "in"])


@pytest.mark.parametrize("name", ["images/cell_00001.tif", "labels/cell_00001_label.tiff"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "Tuning"
    write_pair(folder, 1, noise(HEIGHT, WIDTH), "tif")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(BadFileError, match=name):
        prepare(neurips22.RECIPE, tmp_path / "out", [folder])


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.full((4, 5), -1, np.int16), "from -1 to -1"),
        (np.full((4, 5), 0.5, np.float32), "float32 from 0.5"),
        (np.zeros((4, 5, 3), np.uint8), r"shape is \(4, 5, 3\)"),
    ],
    ids=["negative", "broken", "colour"],
)
def test_files_that_are_no_label_map(tmp_path: Path, labels: np.ndarray, match: str) -> None:
    tifffile.imwrite(tmp_path / "a.tiff", labels)
    with pytest.raises(BadFileError, match=rf"a\.tiff: .*{match}"):
        read_label_map(tmp_path / "a.tiff")


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<u4", ">u2", "<f4"])
def test_label_maps_of_any_type(tmp_path: Path, dtype: str) -> None:
    labels = label_map(2).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tiff", labels, byteorder=">" if ">" in dtype else "<")
    found = label_annotations(read_label_map(tmp_path / "a.tiff"), 1)[0]
    assert [a["segmentation"] for a in found] == [encode_mask(m) for _, m in instances(labels)]


def test_run_lengths_of_a_patch_are_those_of_the_mask() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 9, 2)
        mask = rng.random((height, width)) < rng.choice([0.1, 0.5, 0.9, 1.0])
        mask[rng.integers(height), rng.integers(width)] = True
        rows, columns = np.nonzero(mask)
        # Sometimes with background around it, as a window need not be tight.
        slack = rng.integers(0, 2)
        top, left = (max(int(v.min()) - slack, 0) for v in (rows, columns))
        pixels = mask[top : rows.max() + 1 + slack, left : columns.max() + 1 + slack]
        expected = encode_mask(mask)
        assert encode_patch(Patch(top, left, pixels), (int(height), int(width))) == expected


def test_ids_greater_than_the_image_is_large() -> None:
    labels = np.zeros((6, 7), np.uint32)
    labels[1, 2:4], labels[3:5, 6] = 4_000_000_000, 17
    found = {identity: patch for identity, patch in label_patches(labels)}
    assert list(found) == [17, 4_000_000_000]
    frame = np.zeros((6, 7), bool)
    found[4_000_000_000].paste(frame)
    np.testing.assert_array_equal(frame, labels == 4_000_000_000)


def test_a_large_map_costs_what_its_cells_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((3000, 2500), np.int16)
    ids = np.arange(1, 2001).reshape(40, 50)
    labels[10:2810:70, 10:2260:45] = ids
    labels[11:2811:70, 10:2260:45] = ids
    sizes = []
    original = label_maps.encode_patch
    monkeypatch.setattr(
        label_maps,
        "encode_patch",
        lambda patch, size: sizes.append(patch.pixels.size) or original(patch, size),
    )
    found, scattered = label_annotations(labels, 1)
    assert (len(found), scattered, set(sizes)) == (2000, [], {2})
    assert found[777]["segmentation"] == encode_mask(labels == 778)
