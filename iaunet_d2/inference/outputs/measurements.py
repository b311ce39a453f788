"""A table of cells: where they are, their size, shape, overlap and brightness."""

import math
from pathlib import Path

import numpy as np
from skimage.measure import perimeter, regionprops

from ..cells import Cells
from .coverage import coverage, overlap_fractions, window
from .csv_table import write_csv

# Column -> scikit-image's name.
_LENGTHS = {
    "major_axis": "axis_major_length",
    "minor_axis": "axis_minor_length",
    "equivalent_diameter": "equivalent_diameter_area",
}
_RATIOS = {"eccentricity": "eccentricity", "orientation": "orientation"}


def measure(cells: Cells) -> dict[str, np.ndarray]:
    """Measure every cell on its own mask, so that overlapping ones are measured whole.

    Shapes are scikit-image's (``regionprops``). The columns:

    - ``id`` (number in the label image), ``image``, ``class``, ``score``;
    - ``centroid_x``, ``centroid_y``: in pixels, the centre of the first pixel being 0, 0;
    - ``bbox_x``, ``bbox_y``, ``bbox_width``, ``bbox_height``: in whole pixels;
    - ``area``, ``perimeter``, ``major_axis``, ``minor_axis``, ``equivalent_diameter``: in pixels;
      the axes are those of the ellipse of the same second moments;
    - ``eccentricity`` of that ellipse (0 is a circle), ``orientation`` of its major axis (radians
      from the vertical, counter-clockwise); where the pixel size is known, those of the real shape,
      which is another one only if pixels are not square;
    - ``solidity``: area over that of the convex hull;
    - ``overlap_fraction``: share of the pixels that other cells cover too;
    - where the pixel size is known, ``centroid_x_um``, ``centroid_y_um``, ``area_um2``,
      ``perimeter_um`` (:func:`real_perimeter` if pixels are not square), ``major_axis_um``,
      ``minor_axis_um``, ``equivalent_diameter_um``;
    - where there are pixels, ``mean_intensity``, ``min_intensity``, ``max_intensity`` in the
      image's own values, with several channels one each: ``mean_intensity_<name>``, or the
      channel's number, from 0, where the names are unknown or not distinct.

    Returns:
        Column -> (N,), in this order.
    """
    boxes = cells.boxes
    shapes = _shapes(cells)
    columns = {
        "id": np.arange(1, len(cells) + 1),
        "image": np.array([cells.name] * len(cells), dtype=np.str_),
        "class": np.array([cells.class_names[c] for c in cells.classes], dtype=np.str_),
        "score": cells.scores,
        "centroid_x": shapes["x"] + boxes[:, 0],
        "centroid_y": shapes["y"] + boxes[:, 1],
        "bbox_x": boxes[:, 0],
        "bbox_y": boxes[:, 1],
        "bbox_width": boxes[:, 2] - boxes[:, 0],
        "bbox_height": boxes[:, 3] - boxes[:, 1],
        "area": cells.areas,
        "perimeter": np.array([perimeter(crop, 4) for crop in cells.crops], np.float64),
        **{name: shapes[name] for name in (*_LENGTHS, *_RATIOS, "solidity")},
        "overlap_fraction": overlap_fractions(cells, coverage(cells)),
    }
    if cells.pixel_size is not None:
        columns |= _real_sizes(cells, cells.pixel_size, columns)
    return columns | _intensities(cells)


def _shapes(cells: Cells, spacing: tuple[float, float] = (1.0, 1.0)) -> dict[str, np.ndarray]:
    """What scikit-image says of each crop; x, y is the centroid from the crop's first pixel."""
    chosen = {**_LENGTHS, **_RATIOS}
    square = spacing == (1.0, 1.0)
    rows = []
    for crop in cells.crops:
        (region,) = regionprops(crop.astype(np.uint8), spacing=spacing)
        row = [region[key] for key in chosen.values()]
        # The hull takes the most time, and no pixel size changes its share.
        rows.append([*row, *region.centroid[::-1], region.solidity if square else 1.0])
    table = np.array(rows, np.float64).reshape(len(rows), len(chosen) + 3)
    return dict(zip([*chosen, "x", "y", "solidity"], table.T, strict=True))


def _real_sizes(
    cells: Cells, pixel_size: tuple[float, float], columns: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Columns in µm, and the ratios of the real shape in place of those of the pixels."""
    high, wide = pixel_size
    found = {
        "centroid_x_um": columns["centroid_x"] * wide,
        "centroid_y_um": columns["centroid_y"] * high,
        "area_um2": columns["area"] * high * wide,
    }
    if high == wide:
        lengths = {f"{name}_um": columns[name] * high for name in _LENGTHS}
        return found | {"perimeter_um": columns["perimeter"] * high} | lengths
    shapes = _shapes(cells, pixel_size)
    ratios = {name: shapes[name] for name in _RATIOS}
    perimeters = [real_perimeter(crop, pixel_size) for crop in cells.crops]
    lengths = {f"{name}_um": shapes[name] for name in _LENGTHS}
    return found | {"perimeter_um": np.array(perimeters, np.float64)} | lengths | ratios


def real_perimeter(crop: np.ndarray, pixel_size: tuple[float, float]) -> float:
    """Perimeter of a mask of pixels that are not square, in the unit of their size.

    scikit-image measures square pixels alone. This is the Cauchy-Crofton formula for four
    directions (its ``perimeter_crofton``, where pixels are square): how often parallel lines cross
    the border, times their distance, over the angles that each direction stands for. Legland, Kiêu
    and Devaux, Image Analysis & Stereology 26, 2007, https://doi.org/10.5566/ias.v26.p83-92

    Args:
        crop: (h, w), bool.
        pixel_size: height and width of a pixel.
    """
    high, wide = pixel_size
    mask = np.pad(crop, 1)
    slant = math.atan2(high, wide)
    crossed = [
        # Border crossings along the lines, their distance, and the angle they stand for.
        (mask[:, 1:] != mask[:, :-1], high, slant),
        (mask[1:] != mask[:-1], wide, math.pi / 2 - slant),
        (mask[1:, 1:] != mask[:-1, :-1], high * wide / math.hypot(high, wide), math.pi / 4),
        (mask[1:, :-1] != mask[:-1, 1:], high * wide / math.hypot(high, wide), math.pi / 4),
    ]
    return sum(int(found.sum()) * apart * angle for found, apart, angle in crossed) / 2


def _intensities(cells: Cells) -> dict[str, np.ndarray]:
    """Mean, least and greatest value of each channel under each mask."""
    if cells.pixels is None:
        return {}
    channels = cells.pixels.shape[2]
    means = np.zeros((len(cells), channels))
    least, greatest = (np.zeros((len(cells), channels), cells.pixels.dtype) for _ in range(2))
    for i, crop in enumerate(cells.crops):
        values = window(cells.pixels, cells, i)[crop]
        means[i] = values.mean(0, dtype=np.float64)
        least[i], greatest[i] = values.min(0), values.max(0)
    tables = {"mean": means, "min": least, "max": greatest}
    return {
        f"{statistic}_intensity{suffix}": table[:, c]
        for c, suffix in enumerate(_suffixes(channels, cells.channel_names))
        for statistic, table in tables.items()
    }


def _suffixes(channels: int, names: tuple[str, ...]) -> list[str]:
    if channels == 1:
        return [""]
    usable = len(names) == channels and len(set(names)) == channels and all(names)
    return [f"_{name}" for name in (names if usable else range(channels))]


def write(cells: Cells, file: Path) -> None:
    """Write :func:`measure` as CSV, a line per cell; numbers have 6 digits that count.

    Raises:
        OSError: the file cannot be written.
    """
    columns = measure(cells)
    write_csv(columns, zip(*(column.tolist() for column in columns.values()), strict=True), file)
