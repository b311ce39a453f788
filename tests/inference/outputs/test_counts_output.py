"""The line of an image, and the file of a run."""

import csv
from pathlib import Path

import numpy as np
import pytest
from cell_scenes import block, cells_of, scattered

from iaunet_d2.inference.cells import no_cells
from iaunet_d2.inference.outputs import counts
from iaunet_d2.inference.outputs.csv_table import text_of


def read(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream, strict=True))


def test_a_line_by_hand() -> None:
    places = [(0, 0, block(2, 4)), (0, 3, block(2, 2)), (4, 4, block(1, 1))]
    cells = cells_of(
        places,
        (5, 8),
        [0.75, 0.5, 0.25],
        [2, 0, 2],
        class_names=("a", "b", "c"),
        pixel_size=(0.5, 0.2),
        name="x.tif",
    )
    assert counts.counts_row(cells) == {
        "image": "x.tif",
        "cells": 3,
        "cells_a": 1,
        "cells_b": 0,
        "cells_c": 2,
        "mean_area": pytest.approx(13 / 3),
        "median_area": 4,
        "mean_area_um2": pytest.approx(1.3 / 3),
        "median_area_um2": pytest.approx(0.4),
        "covered_share": 11 / 40,
        "overlapping_cells": 2,
        "mean_score": 0.5,
        "error": "",
    }


def test_one_class_has_no_column_of_its_own() -> None:
    assert "cells_cell" not in counts.counts_row(scattered(3, (40, 40)))


def test_overlaps_by_full_frames() -> None:
    cells = scattered(40, (90, 120))
    masks = np.stack([cells.mask(i) for i in range(len(cells))])
    depth = masks.sum(0)
    row = counts.counts_row(cells)
    assert row["covered_share"] == pytest.approx((depth > 0).mean())
    assert row["overlapping_cells"] == sum((depth[mask] > 1).any() for mask in masks)


def test_nothing_found_leaves_means_empty(tmp_path: Path) -> None:
    row = counts.counts_row(no_cells((6, 5), pixel_size=(1.0, 1.0), name="empty.tif"))
    assert (row["cells"], row["covered_share"], row["overlapping_cells"]) == (0, 0, 0)
    counts.write_counts([row], tmp_path / "counts.csv")
    (line,) = read(tmp_path / "counts.csv")
    assert {name for name, text in line.items() if not text} == {
        "mean_area",
        "median_area",
        "mean_area_um2",
        "median_area_um2",
        "mean_score",
        "error",
    }


def test_failed_images_have_a_line_too(tmp_path: Path) -> None:
    cells = scattered(4, (40, 50), name="b.tif")
    known = scattered(4, (40, 50), pixel_size=(2.0, 2.0), name="c.tif")
    rows = [
        counts.failed_row("a.tif", 'is empty, "0 bytes"\nCopy it again.'),
        counts.counts_row(cells),
        counts.counts_row(known),
    ]
    counts.write_counts(rows, tmp_path / "counts.csv")
    failed, plain, real = read(tmp_path / "counts.csv")
    assert list(failed)[:2] == ["image", "cells"] and list(failed)[-1] == "error"
    assert (failed["image"], failed["cells"]) == ("a.tif", "")
    assert failed["error"] == 'is empty, "0 bytes"\nCopy it again.'
    assert (plain["cells"], plain["mean_area_um2"], plain["error"]) == ("4", "", "")
    assert float(real["mean_area_um2"]) == 4 * float(plain["mean_area"])


def test_no_images_leave_the_heads(tmp_path: Path) -> None:
    counts.write_counts(iter([]), tmp_path / "counts.csv")
    assert (tmp_path / "counts.csv").read_bytes() == b"image,cells,error\r\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.0, "0"),
        (3, "3"),
        (1 / 3, "0.333333"),
        (20_000.123456, "20000.123"),
        (1.23456789e-5, "1.23457e-05"),
        (-2.5, "-2.5"),
        (1e9, "1000000000.0"),
        ("a", "a"),
    ],
)
def test_numbers_as_text(value: object, text: str) -> None:
    assert text_of(value) == text
