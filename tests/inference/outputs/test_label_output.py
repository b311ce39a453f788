"""The label image, and its TIFF in the eyes of other readers."""

import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import tifffile
from cell_scenes import block, cells_of, disc, scattered, single_pixels
from PIL import Image

from iaunet_d2.inference.cells import Cells, no_cells
from iaunet_d2.inference.outputs import label_tiff, labels


def expected(cells: Cells) -> np.ndarray:
    """Full frames, painted from the worst score to the best."""
    frame = np.zeros(cells.image_size, int)
    for i in sorted(range(len(cells)), key=lambda k: (cells.scores[k], -k)):
        frame[cells.mask(i)] = i + 1
    return frame


def test_best_score_wins_an_overlap() -> None:
    cells = cells_of([(0, 0, block(2, 3)), (1, 1, block(2, 3))], (4, 5), [0.9, 0.8])
    wanted = [[1, 1, 1, 0, 0], [1, 1, 1, 2, 0], [0, 2, 2, 2, 0], [0, 0, 0, 0, 0]]
    assert cells.labels().tolist() == wanted


def test_numbers_follow_the_order_and_the_front_follows_the_score() -> None:
    cells = cells_of([(0, 0, block(1, 2)), (0, 1, block(1, 2))], (1, 4), [0.3, 0.8])
    assert labels.label_image(cells).tolist() == [[1, 2, 2, 0]]


def test_among_equal_scores_the_first_wins() -> None:
    cells = cells_of([(0, 0, block(1, 2)), (0, 1, block(1, 2))], (1, 4), [0.5, 0.5])
    assert labels.label_image(cells).tolist() == [[1, 1, 2, 0]]


def test_a_crop_covers_with_its_mask_alone() -> None:
    ring = disc(3) & ~np.pad(disc(1), 2)
    cells = cells_of([(0, 0, ring), (2, 2, disc(1))], (7, 7), [0.9, 0.1])
    assert (cells.labels() == 2).sum() == 5
    assert (cells.labels() == 1).sum() == ring.sum()


@pytest.mark.parametrize(("count", "kind"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_type_grows_with_the_number_of_cells(count: int, kind: type) -> None:
    found = labels.label_image(single_pixels(count, 256))
    assert found.dtype == kind
    assert np.array_equal(found.ravel()[:count], np.arange(1, count + 1))


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (7, 4), (1300, 90)])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_file_holds_the_label_image(size: tuple[int, int], count: int, tmp_path: Path) -> None:
    cells = scattered(count, size, radius=0 if min(size) < 15 else 7)
    file = tmp_path / "a.labels.tif"
    labels.write(cells, file)
    wanted = expected(cells)
    assert np.array_equal(tifffile.imread(file), wanted)
    with Image.open(file) as image:
        assert np.array_equal(np.asarray(image), wanted)
    assert np.array_equal(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), wanted)


def test_bands_meet_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_tiff, "BAND", 10)
    monkeypatch.setattr(label_tiff, "STRIP_BYTES", 2 * 83 * 4)  # strips of 4 rows, bands of 12
    cells = scattered(80, (101, 83))
    labels.write(cells, tmp_path / "a.labels.tif")
    with Image.open(tmp_path / "a.labels.tif") as image:
        assert np.array_equal(np.asarray(image), expected(cells))
        assert image.tag_v2[278] == 4


def test_imagej_is_told_the_size_of_pixels_that_are_not_square(tmp_path: Path) -> None:
    cells = scattered(5, (40, 60), pixel_size=(0.5, 0.325))
    labels.write(cells, tmp_path / "a.labels.tif")
    with Image.open(tmp_path / "a.labels.tif") as image:
        tags = image.tag_v2
    assert tags[270].startswith("ImageJ=")
    assert "unit=um" in tags[270].split()
    assert float(tags[282]) == pytest.approx(1 / 0.325)  # pixels per µm, horizontally
    assert float(tags[283]) == pytest.approx(1 / 0.5)
    assert tags[296] == 1  # no unit of TIFF's own: ImageJ's counts
    assert tags[259] in (8, 32946)  # deflate
    assert 322 not in tags  # ImageJ opens no tiles


def test_imagej_is_told_no_size_that_nobody_knows(tmp_path: Path) -> None:
    labels.write(scattered(5, (40, 60)), tmp_path / "a.labels.tif")
    with Image.open(tmp_path / "a.labels.tif") as image:
        assert "unit=" not in image.tag_v2[270]
        assert float(image.tag_v2[282]) == 1


def test_ome_has_the_size_where_labels_are_too_many_for_imagej(tmp_path: Path) -> None:
    cells = single_pixels(70_000, 280, pixel_size=(0.5, 0.25))
    labels.write(cells, tmp_path / "a.labels.tif")
    with Image.open(tmp_path / "a.labels.tif") as image:
        tags = image.tag_v2
    pixels = ElementTree.fromstring(tags[270].encode("latin-1")).find(".//{*}Pixels")
    found = tifffile.imread(tmp_path / "a.labels.tif")
    assert found.dtype == np.uint32
    assert np.array_equal(found.ravel(), np.arange(1, 70_001))
    assert pixels is not None
    assert pixels.get("Type") == "uint32"
    assert (pixels.get("SizeX"), pixels.get("SizeY")) == ("280", "250")
    assert float(pixels.get("PhysicalSizeX", "nan")) == 0.25
    assert float(pixels.get("PhysicalSizeY", "nan")) == 0.5
    assert {pixels.get("PhysicalSizeXUnit"), pixels.get("PhysicalSizeYUnit")} == {"µm"}
    assert tags[296] == 3  # per cm
    assert float(tags[282]) == pytest.approx(40_000)
    assert float(tags[283]) == pytest.approx(20_000)


def test_files_beyond_imagej_are_bigtiff_and_ome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_tiff, "CLASSIC_LIMIT", 4000)
    cells = scattered(5, (40, 60), pixel_size=(0.5, 0.25))
    labels.write(cells, tmp_path / "a.labels.tif")
    assert (tmp_path / "a.labels.tif").read_bytes()[:4] == b"II+\0"
    with tifffile.TiffFile(tmp_path / "a.labels.tif") as tif:
        assert tif.is_ome and not tif.is_imagej
        assert np.array_equal(tif.asarray(), expected(cells))


def test_a_large_image_is_not_held_whole(tmp_path: Path) -> None:
    cells = scattered(50, (6000, 5000))
    tracemalloc.start()
    labels.write(cells, tmp_path / "a.labels.tif")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6000 * 5000 * 2 / 3
    with tifffile.TiffFile(tmp_path / "a.labels.tif") as tif:
        assert tif.pages[0].shape == (6000, 5000)


def test_nothing_is_left_of_a_file_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> np.ndarray:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(label_tiff, "paint", full)
    with pytest.raises(OSError, match="No space left"):
        labels.write(no_cells((4, 4)), tmp_path / "a.labels.tif")
    assert list(tmp_path.iterdir()) == []
