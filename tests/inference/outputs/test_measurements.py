"""The table of cells against hand-worked numbers and scikit-image on a whole label image."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from cell_scenes import block, cells_of, disc, scattered
from skimage.measure import perimeter_crofton, regionprops_table

from iaunet_d2.inference.cells import Cells, no_cells
from iaunet_d2.inference.outputs import measurements

RNG = np.random.default_rng(3)


def in_file(cells: Cells, folder: Path) -> list[dict[str, str]]:
    measurements.write(cells, folder / "a.csv")
    with open(folder / "a.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream, strict=True))


def test_a_rectangle_by_hand() -> None:
    # 3 rows of 4 at row 2, column 5: second moments (n² - 1) / 12 along each side, and the axes
    # are four times their roots.
    cells = cells_of(
        [(2, 5, block(3, 4))], (10, 12), [0.75], [1], class_names=("a", "b"), name="x.tif"
    )
    row = {name: column[0] for name, column in cells.table().items()}
    assert (row["id"], row["image"], row["class"], row["score"]) == (1, "x.tif", "b", 0.75)
    assert (row["centroid_x"], row["centroid_y"]) == (6.5, 3.0)
    assert [row[f"bbox_{k}"] for k in ("x", "y", "width", "height")] == [5, 2, 4, 3]
    assert row["area"] == 12
    assert row["perimeter"] == 10  # through the centres of the border's pixels: 3 + 2 + 3 + 2
    assert row["major_axis"] == pytest.approx(4 * math.sqrt(15 / 12))
    assert row["minor_axis"] == pytest.approx(4 * math.sqrt(8 / 12))
    assert row["eccentricity"] == pytest.approx(math.sqrt(1 - 8 / 15))
    assert abs(row["orientation"]) == pytest.approx(math.pi / 2)
    assert row["solidity"] == 1
    assert row["equivalent_diameter"] == pytest.approx(math.sqrt(48 / math.pi))
    assert row["overlap_fraction"] == 0
    assert not [name for name in row if name.endswith(("_um", "_um2")) or "intensity" in name]


def test_pixels_that_are_not_square_by_hand() -> None:
    cells = cells_of([(2, 5, block(3, 4))], (10, 12), pixel_size=(0.5, 0.25))
    row = {name: column[0] for name, column in measurements.measure(cells).items()}
    assert (row["centroid_x_um"], row["centroid_y_um"]) == (6.5 * 0.25, 1.5)
    assert row["area_um2"] == 1.5
    assert row["major_axis_um"] == pytest.approx(0.5 * 4 * math.sqrt(8 / 12))  # now it stands
    assert row["minor_axis_um"] == pytest.approx(0.25 * 4 * math.sqrt(15 / 12))
    assert row["eccentricity"] == pytest.approx(math.sqrt(1 - (15 / 16) / (8 / 4)))
    assert row["orientation"] == pytest.approx(0)
    assert row["equivalent_diameter_um"] == pytest.approx(math.sqrt(6 / math.pi))
    # Lines cross the border 6 times along rows, 8 times along columns, 12 times on each slant.
    slant, apart = math.atan2(0.5, 0.25), 0.125 / math.sqrt(0.3125)
    crossings = slant * 6 * 0.5 + (math.pi / 2 - slant) * 8 * 0.25 + math.pi / 4 * 24 * apart
    assert row["perimeter_um"] == pytest.approx(crossings / 2)
    assert (row["area"], row["perimeter"]) == (12, 10)
    assert row["major_axis"] == pytest.approx(4 * math.sqrt(15 / 12))


@pytest.mark.parametrize("pixel_size", [(0.325, 0.325), (0.2, 0.5), (1.0, 0.3)])
def test_equal_to_scikit_image_on_a_whole_frame(pixel_size: tuple[float, float]) -> None:
    places = []
    for k, (row, column) in enumerate(np.ndindex(5, 6)):
        shape = disc(4 + k % 3) if k % 2 else RNG.random((9, 7)) < 0.6
        shape[0, 0] = shape[-1, -1] = True
        places.append((15 * row + k % 3, 16 * column, shape))
    pixels = RNG.integers(0, 65_536, (80, 100, 3)).astype(np.uint16)
    cells = cells_of(places, (80, 100), pixel_size=pixel_size, pixels=pixels)
    table, frame = measurements.measure(cells), cells.labels()
    names = {
        "area": "area",
        "major_axis": "axis_major_length",
        "minor_axis": "axis_minor_length",
        "equivalent_diameter": "equivalent_diameter_area",
    }
    shared = ["solidity", "perimeter", "centroid", "bbox"]
    plain = regionprops_table(frame, pixels, [*names.values(), *shared, "intensity_mean"])
    real = regionprops_table(
        frame,
        properties=[*names.values(), "eccentricity", "orientation", "centroid"],
        spacing=pixel_size,
    )
    for ours, theirs in names.items():
        unit = "um2" if ours == "area" else "um"
        np.testing.assert_allclose(table[ours], plain[theirs], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(table[f"{ours}_{unit}"], real[theirs], rtol=1e-9, atol=1e-9)
    for name in ("eccentricity", "orientation"):
        np.testing.assert_allclose(table[name], real[name], rtol=1e-7, atol=1e-7)
    for axis, at in (("y", "0"), ("x", "1")):
        np.testing.assert_allclose(table[f"centroid_{axis}"], plain[f"centroid-{at}"])
        np.testing.assert_allclose(table[f"centroid_{axis}_um"], real[f"centroid-{at}"])
        assert np.array_equal(table[f"bbox_{axis}"], plain[f"bbox-{at}"])
    np.testing.assert_allclose(table["solidity"], plain["solidity"])
    np.testing.assert_allclose(table["perimeter"], plain["perimeter"])
    for c in range(3):
        np.testing.assert_allclose(table[f"mean_intensity_{c}"], plain[f"intensity_mean-{c}"])
        lowest = [pixels[..., c][frame == i + 1].min() for i in range(len(cells))]
        highest = [pixels[..., c][frame == i + 1].max() for i in range(len(cells))]
        assert table[f"min_intensity_{c}"].tolist() == lowest
        assert table[f"max_intensity_{c}"].tolist() == highest


def test_overlapping_cells_are_measured_whole() -> None:
    cells = scattered(25, (60, 70), radius=8)
    table = measurements.measure(cells)
    masks = np.stack([cells.mask(i) for i in range(len(cells))])
    for i in range(len(cells)):
        others = np.delete(masks, i, 0).any(0)
        assert table["area"][i] == disc(8).sum()
        assert table["overlap_fraction"][i] == pytest.approx((masks[i] & others).sum() / 197)
    assert 0 < table["overlap_fraction"].max() <= 1


def test_overlap_by_hand() -> None:
    places = [(0, 0, block(2, 4)), (0, 3, block(2, 2)), (0, 3, block(1, 1)), (5, 5, block(1, 1))]
    found = measurements.measure(cells_of(places, (6, 6)))["overlap_fraction"]
    assert found.tolist() == [2 / 8, 2 / 4, 1, 0]


@pytest.mark.parametrize(
    "crop", [block(1, 1), block(1, 9), block(9, 1), np.eye(6), block(2, 2), np.fliplr(np.eye(2))]
)
@pytest.mark.parametrize("pixel_size", [None, (0.5, 0.5), (0.1, 0.7)])
def test_the_smallest_cells_have_numbers(
    crop: np.ndarray, pixel_size: tuple[float, float] | None
) -> None:
    cells = cells_of(
        [(3, 4, crop)], (20, 20), pixel_size=pixel_size, pixels=np.zeros((20, 20, 1), np.float32)
    )
    table = measurements.measure(cells)
    assert all(np.isfinite(c).all() for c in table.values() if c.dtype.kind in "fiu")
    assert table["solidity"] == [1]


@pytest.mark.parametrize("pixel_size", [(2.0, 0.5), (0.5, 1.0), (1.0, 0.7)])
@pytest.mark.parametrize("radius", [10, 40])
def test_real_perimeter_of_a_circle(pixel_size: tuple[float, float], radius: float) -> None:
    reach = [int(radius / size) + 1 for size in pixel_size]
    y, x = np.mgrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    circle = (y * pixel_size[0]) ** 2 + (x * pixel_size[1]) ** 2 <= radius**2
    found = measurements.real_perimeter(circle, pixel_size)
    assert found == pytest.approx(2 * math.pi * radius, rel=0.05)


@pytest.mark.parametrize("crop", [block(1, 1), block(3, 8), disc(9), RNG.random((9, 14)) < 0.5])
def test_real_perimeter_of_square_pixels_is_scikit_image_s(crop: np.ndarray) -> None:
    found = measurements.real_perimeter(crop, (0.5, 0.5))
    assert found == pytest.approx(perimeter_crofton(np.pad(crop, 1), directions=4) / 2)


@pytest.mark.parametrize(
    ("channels", "names", "suffixes"),
    [
        (1, (), [""]),
        (1, ("DAPI",), [""]),
        (2, (), ["_0", "_1"]),
        (2, ("DAPI", "GFP"), ["_DAPI", "_GFP"]),
        (2, ("DAPI", "DAPI"), ["_0", "_1"]),
        (2, ("DAPI", ""), ["_0", "_1"]),
        (3, ("DAPI",), ["_0", "_1", "_2"]),
    ],
)
def test_names_of_channels(channels: int, names: tuple[str, ...], suffixes: list[str]) -> None:
    pixels = np.arange(16 * channels, dtype=np.uint16).reshape(4, 4, channels)
    cells = cells_of([(0, 0, block(1, 2))], (4, 4), pixels=pixels, channel_names=names)
    table = measurements.measure(cells)
    assert [name for name in table if "mean_intensity" in name] == [
        f"mean_intensity{suffix}" for suffix in suffixes
    ]
    for c, suffix in enumerate(suffixes):
        assert table[f"mean_intensity{suffix}"].tolist() == [c + channels / 2]
        assert table[f"max_intensity{suffix}"].tolist() == [c + channels]


def test_no_cells_have_the_same_columns(tmp_path: Path) -> None:
    about = {"pixel_size": (0.5, 0.25), "pixels": np.zeros((9, 8, 2), np.uint8)}
    none = measurements.measure(no_cells((9, 8), **about))
    one = measurements.measure(cells_of([(0, 0, block(1, 1))], (9, 8), **about))
    assert [*none] == [*one]
    assert {name: c.dtype.kind for name, c in none.items()} == {
        name: c.dtype.kind for name, c in one.items()
    }
    assert all(column.shape == (0,) for column in none.values())
    assert in_file(no_cells((9, 8), **about), tmp_path) == []


def test_file_has_the_table(tmp_path: Path) -> None:
    name = 'a, "b"\nc.tif'
    pixels = RNG.integers(0, 65_536, (60, 70, 2)).astype(np.uint16)
    cells = scattered(12, (60, 70), pixel_size=(0.5, 0.1), pixels=pixels, name=name)
    table, rows = measurements.measure(cells), in_file(cells, tmp_path)
    assert len(rows) == 12
    for head, column in table.items():
        texts = [row[head] for row in rows]
        if column.dtype.kind == "f":
            assert [float(text) for text in texts] == pytest.approx(column, rel=1e-5, abs=1e-9)
        else:
            assert texts == [str(value) for value in column.tolist()]
    content = (tmp_path / "a.csv").read_bytes()
    assert content.count(b"\r\n") == 13


def test_a_name_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    cells = cells_of([(0, 0, block(1, 1))], (2, 2), name="caf\udce9.tif")
    assert in_file(cells, tmp_path)[0]["image"] == "caf\\udce9.tif"
