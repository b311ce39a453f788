"""Cells made by hand, for the tests of several outputs."""

from typing import Any

import numpy as np

from iaunet_d2.inference.cells import Cells


def cells_of(
    places: list[tuple[int, int, np.ndarray]],
    image_size: tuple[int, int],
    scores: list[float] | None = None,
    classes: list[int] | None = None,
    **about: Any,
) -> Cells:
    """Cells from row, column and crop of each; scores fall from 1 unless they are given."""
    count = len(places)
    return Cells(
        [np.asarray(crop, bool) for _, _, crop in places],
        np.array([(row, column) for row, column, _ in places], np.int64).reshape(-1, 2),
        np.array(np.linspace(1, 0.5, count) if scores is None else scores, np.float32),
        np.array([0] * count if classes is None else classes, np.int64),
        image_size,
        **about,
    )


def block(height: int, width: int) -> np.ndarray:
    return np.ones((height, width), bool)


def disc(radius: float) -> np.ndarray:
    """Pixels whose centre lies within the radius of the middle pixel's."""
    reach = int(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return x**2 + y**2 <= radius**2


def scattered(
    count: int, image_size: tuple[int, int], radius: float = 7, seed: int = 0, **about: Any
) -> Cells:
    """Discs at random places, wholly inside, which overlap where it falls so."""
    rng = np.random.default_rng(seed)
    crop = disc(radius)
    most = np.array(image_size) - len(crop)
    corners = rng.integers(0, most + 1, (count, 2))
    places = [(int(row), int(column), crop) for row, column in corners]
    scores = np.sort(rng.random(count))[::-1].tolist()
    return cells_of(places, image_size, scores, **about)


def single_pixels(count: int, width: int, **about: Any) -> Cells:
    """Cells of one pixel, row by row."""
    pixel = block(1, 1)
    places = [(i // width, i % width, pixel) for i in range(count)]
    return cells_of(places, (-(-count // width), width), [0.5] * count, **about)
