"""Pictures: where cells are drawn, on what, and how large."""

import io
from pathlib import Path

import numpy as np
import pytest
from cell_scenes import block, cells_of, disc, scattered
from PIL import Image

from iaunet_d2.inference.cells import no_cells
from iaunet_d2.inference.outputs import overlay


def drawn(cells_picture: np.ndarray) -> np.ndarray:
    return cells_picture.any(2)


def test_file_is_the_picture(tmp_path: Path) -> None:
    cells = scattered(10, (40, 70))
    overlay.write(cells, tmp_path / "a.overlay.png")
    with Image.open(tmp_path / "a.overlay.png") as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), overlay.picture(cells))


def test_without_pixels_the_ground_is_black() -> None:
    cells = cells_of([(2, 3, block(5, 6))], (12, 15))
    picture = overlay.picture(cells)
    assert picture.shape == (12, 15, 3) and picture.dtype == np.uint8
    assert np.array_equal(drawn(picture), cells.mask(0))
    edge, inner = picture[2, 3], picture[4, 5]
    assert np.array_equal(edge, picture[6, 8])
    assert edge.max() == 255
    assert 0 < inner.max() < 80  # a tint


def test_a_hole_is_outlined_and_left_open() -> None:
    ring = disc(8) & ~np.pad(disc(4), 4)
    picture = overlay.picture(cells_of([(1, 1, ring)], (20, 20)))
    assert np.array_equal(drawn(picture)[1:18, 1:18], ring)
    assert picture[9, 4].max() == 255  # beside the hole


def test_the_best_lies_on_top() -> None:
    under = cells_of([(0, 0, block(6, 6))], (8, 8))
    both = cells_of([(0, 0, block(6, 6)), (2, 2, block(6, 6))], (8, 8))
    assert np.array_equal(overlay.picture(both)[0:6, 5], overlay.picture(under)[0:6, 5])


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("longest", [4000, 30])
def test_any_pixels_become_a_picture(channels: int, kind: type, longest: int) -> None:
    ramp = np.linspace(0, 200, 60 * 45).reshape(60, 45, 1).repeat(channels, 2).astype(kind)
    picture = overlay.picture(no_cells((60, 45), pixels=ramp), longest)
    assert picture.shape == ((60, 45, 3) if longest == 4000 else (30, 22, 3))
    rows = picture[..., 0].mean(1)
    assert (np.diff(rows) >= 0).all() and rows[-1] > rows[0] + 150
    if channels == 1:
        assert np.array_equal(picture[..., 0], picture[..., 2])
    assert picture[..., 2].any() == (channels != 2)


def test_eight_bits_stay_as_they_are() -> None:
    pixels = np.full((10, 10, 1), 37, np.uint8)
    assert (overlay.picture(no_cells((10, 10), pixels=pixels)) == 37).all()


def test_the_image_is_not_drawn_on() -> None:
    pixels = np.zeros((10, 10, 3), np.uint8)
    overlay.picture(cells_of([(0, 0, block(5, 5))], (10, 10), pixels=pixels))
    assert not pixels.any()


def test_large_images_are_drawn_smaller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(overlay, "LONGEST_SIDE", 50)
    cells = scattered(30, (300, 200), radius=20)
    picture = overlay.picture(cells, 50)
    assert picture.shape == (50, 33, 3)
    # Pixels of the picture whose centre lies in some cell.
    any_mask = np.any([cells.mask(i) for i in range(len(cells))], axis=0)
    rows = ((np.arange(50) + 0.5) * 300 / 50).astype(int)
    columns = ((np.arange(33) + 0.5) * 200 / 33).astype(int)
    assert np.array_equal(drawn(picture), any_mask[np.ix_(rows, columns)])


def test_a_frame_is_never_made_of_a_large_image() -> None:
    places = [(0, 0, block(3, 3)), (99_990, 199_990, block(10, 10))]
    picture = overlay.picture(cells_of(places, (100_000, 200_000)))
    assert picture.shape == (2000, 4000, 3)
    assert np.argwhere(drawn(picture)).tolist() == [[0, 0], [1999, 3999]]


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (700, 20), (240, 240), (60, 50)])
def test_thumbnails_are_small_jpegs(size: tuple[int, int]) -> None:
    cells = scattered(5, size, radius=0, pixels=np.zeros((*size, 1), np.uint16))
    with Image.open(io.BytesIO(overlay.thumbnail(cells))) as image:
        assert image.format == "JPEG"
        assert max(image.size) == min(240, max(size))
