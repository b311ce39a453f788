"""Counts of a run: a line per image."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..cells import Cells
from .coverage import coverage, overlap_fractions
from .csv_table import write_csv

ERROR = "error"


def counts_row(cells: Cells) -> dict[str, Any]:
    """The line of one image.

    - ``image``, ``cells``, and with several classes ``cells_<class>`` for each;
    - ``mean_area``, ``median_area`` in pixels, and where the pixel size is known ``mean_area_um2``,
      ``median_area_um2``;
    - ``covered_share``: share of the image's pixels that lie in at least one cell;
    - ``overlapping_cells``: cells that have a pixel in common with another;
    - ``mean_score``;
    - ``error``: empty; see :func:`failed_row`.

    Returns:
        Column -> value; None for a mean over no cells.
    """
    depth = coverage(cells)
    row: dict[str, Any] = {"image": cells.name, "cells": len(cells)}
    if len(cells.class_names) > 1:
        row |= {f"cells_{name}": count for name, count in class_counts(cells).items()}
    areas = cells.areas
    row |= {"mean_area": _mean(areas), "median_area": _median(areas)}
    if cells.pixel_size is not None:
        sizes = areas * (cells.pixel_size[0] * cells.pixel_size[1])
        row |= {"mean_area_um2": _mean(sizes), "median_area_um2": _median(sizes)}
    return row | {
        "covered_share": float(np.count_nonzero(depth) / depth.size),
        "overlapping_cells": int(np.count_nonzero(overlap_fractions(cells, depth))),
        "mean_score": _mean(cells.scores),
        ERROR: "",
    }


def failed_row(name: str, error: str) -> dict[str, Any]:
    """The line of an image of which nothing could be said, with the reason."""
    return {"image": name, ERROR: error}


def class_counts(cells: Cells) -> dict[str, int]:
    """Cells of each class, in the order of the model's classes."""
    counts = np.bincount(cells.classes, minlength=len(cells.class_names))
    return dict(zip(cells.class_names, counts.tolist(), strict=True))


def write_counts(rows: Iterable[Mapping[str, Any]], file: Path) -> None:
    """Write lines as CSV, under a line of heads.

    The columns are all that some line has; ``error`` is the last. What a line has not, or what is
    None, stays empty.

    Raises:
        OSError: the file cannot be written.
    """
    rows = list(rows)
    found = dict.fromkeys(key for row in [{"image": 0, "cells": 0}, *rows] for key in row)
    heads = [key for key in found if key != ERROR] + [ERROR]
    write_csv(heads, ([row.get(head) for head in heads] for row in rows), file)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean(dtype=np.float64)) if len(values) else None


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None
