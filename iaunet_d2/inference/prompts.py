"""Point prompts: the cell at each of some places, instead of all cells."""

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.errors import BadFileError
from ..networks import PointsError
from ..networks.scored_masks import ScoredMasks
from .inputs import Input
from .sources.base import Plane

IMAGE_COLUMNS = ("image", "file", "label")
"""Accepted names of the column with the image; Fiji writes Label."""


def answers_at(model: nn.Module, entry: dict[str, Any], points: np.ndarray) -> ScoredMasks:
    """Find the mask at each point of one image, in the points' order.

    Args:
        model: in evaluation mode.
        entry: of the mapper.
        points: (P, 2), x and y in pixels of the original image.

    Raises:
        PointsError: the model takes no points.
    """
    segment_at = getattr(model, "segment_at", None)
    if segment_at is None:
        raise PointsError(
            f"{type(model).__name__} takes no points: an IAUNet with seeded queries does "
            "(configs *_seeded.yaml, quickstart.yaml, bbbc010_small.yaml)"
        )
    found = segment_at([{**entry, "points": torch.as_tensor(points, dtype=torch.float32)}])[0]
    return never_empty(found, points)


def answers_in_tiles(
    model: nn.Module,
    plane: Plane,
    points: np.ndarray,
    side: int,
    entry_of: Callable[[np.ndarray], dict[str, Any]],
) -> ScoredMasks:
    """Find the mask at each point of a large plane, each in a tile that it is the middle of.

    Args:
        model, points: as of :func:`answers_at`.
        plane: is read in parts.
        side: of the tiles, pixels.
        entry_of: from a tile's pixels to what the model takes.
    """
    height, width, _ = plane.shape
    crops, corners, scores, classes = [], [], [], []
    for point in points:
        corner = window_at(point, (height, width), side)
        entry = entry_of(plane.read(*corner, min(side, height), min(side, width)))
        found = answers_at(model, entry, (point - corner[::-1])[None])
        crops += found.crops
        corners.append(found.corners + torch.tensor(corner))
        scores.append(found.scores)
        classes.append(found.classes)
    empty = torch.zeros(0, 2, dtype=torch.int64)
    return ScoredMasks(
        crops,
        torch.cat([empty, *corners]),
        torch.cat([torch.zeros(0), *scores]),
        torch.cat([empty[:, 0], *classes]),
        (height, width),
    )


def checked_points(points: Any, size: tuple[int, int], name: str) -> np.ndarray:
    """Return points as (P, 2) float64, x and y.

    Raises:
        ValueError: they are of another shape, or one lies outside the image of ``size`` (H, W).
    """
    given = np.asarray(points, dtype=np.float64).reshape(-1, 2) if len(points) else np.zeros((0, 2))
    height, width = size
    inside = ((given >= 0) & (given < (width, height))).all(1)
    if not inside.all():
        x, y = given[~inside][0]
        raise ValueError(f"{name}: the point x={x:g}, y={y:g} is outside its {width} x {height}")
    return given


def never_empty(found: ScoredMasks, points: np.ndarray) -> ScoredMasks:
    """Give a point that no mask answers its own pixel, with the score 0, so that none is lost."""
    crops, corners, scores = list(found.crops), found.corners.clone(), found.scores.clone()
    for i, crop in enumerate(crops):
        if not crop.numel():
            crops[i] = torch.ones(1, 1, dtype=torch.bool)
            corners[i] = torch.from_numpy(points[i, ::-1].astype(np.int64).copy())
            scores[i] = 0
    return ScoredMasks(crops, corners, scores.float(), found.classes, found.size)


def window_at(point: Sequence[float], size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return row and column where a window of ``side`` pixels around a point (x, y) begins."""
    starts = (round(at - side / 2) for at in (point[1], point[0]))
    top, left = (max(0, min(s, n - side)) for s, n in zip(starts, size, strict=True))
    return top, left


def read_points(file: str | os.PathLike[str], images: Sequence[Input]) -> dict[str, np.ndarray]:
    """Read a CSV with the columns image (or file, label), x and y, in pixels from the top left.

    Args:
        file: the CSV; its images are file names, with or without suffix, or paths as they are
            shown.
        images: of the run.

    Returns:
        points (P, 2) by :attr:`~.inputs.Input.name`, in the file's order, for the images that have
        some.

    Raises:
        BadFileError: columns are missing, a number is none, or an image is not among the run's, or
            is several of them.
    """
    with Path(file).open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.DictReader(stream)
        columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        image = next((columns[c] for c in IMAGE_COLUMNS if c in columns), None)
        if image is None or not {"x", "y"} <= columns.keys():
            raise BadFileError(
                f"{file}: columns named image, x and y are needed, and there are "
                f"{', '.join(columns) or 'none'}"
            )
        known = _by_shown_name(images)
        points: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            name = _one_image(known, row[image] or "", f"{file}, line {rows.line_num}")
            points.setdefault(name, []).append(_place(row, columns, file, rows.line_num))
    return {name: np.array(own) for name, own in points.items()}


def _place(
    row: Mapping[str, str], columns: Mapping[str, str], file: Any, line: int
) -> tuple[float, float]:
    given = [row[columns[axis]] for axis in ("x", "y")]
    try:
        x, y = (float(value) for value in given)
    except (TypeError, ValueError) as error:
        raise BadFileError(f"{file}, line {line}: x, y {given} are not two numbers") from error
    return x, y


def _by_shown_name(images: Sequence[Input]) -> dict[str, set[str]]:
    """Map every name that an image goes by to the images with that name."""
    known: dict[str, set[str]] = {}
    for one in images:
        for called in {one.shown, str(one.path), one.path.name, one.path.stem, one.name}:
            known.setdefault(called, set()).add(one.name)
    return known


def _one_image(known: Mapping[str, set[str]], called: str, where: str) -> str:
    found = known.get(called.strip(), set())
    if len(found) != 1:
        problem = f"is {len(found)} of the images: name its folders"
        if not found:
            problem = "is none of the images that predict was given"
        raise BadFileError(f"{where}: {called!r} {problem}")
    return next(iter(found))
