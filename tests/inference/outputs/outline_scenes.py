"""Cells with every awkward kind of mask, and masks drawn again from outlines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from skimage.draw import polygon2mask

from iaunet_d2.inference.cells import Cells, no_cells

SIZE = (37, 53)


def cells_of(masks: Sequence[np.ndarray], **about: Any) -> Cells:
    """A result with these masks (H, W), scores falling, classes in turn."""
    names = about.setdefault("class_names", ("cell",))
    if not len(masks):
        return no_cells(about.pop("image_size", SIZE), **about)
    spans = [
        [(int(np.flatnonzero(m.any(axis))[0]), int(np.flatnonzero(m.any(axis))[-1]) + 1)]
        for m in masks
        for axis in (1, 0)
    ]
    rows, columns = [s[0] for s in spans[0::2]], [s[0] for s in spans[1::2]]
    crops = [m[slice(*r), slice(*c)].copy() for m, r, c in zip(masks, rows, columns, strict=True)]
    return Cells(
        crops,
        np.array([(r[0], c[0]) for r, c in zip(rows, columns, strict=True)], dtype=np.int64),
        np.linspace(0.987654, 0.3, len(masks), dtype=np.float32),
        np.arange(len(masks)) % len(names),
        masks[0].shape,
        **about,
    )


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """Rows from top to bottom, columns from left to right, as a mask."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def disc(row: float, column: float, radius: float) -> np.ndarray:
    """Pixels with their centre in a circle."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def awkward_masks() -> dict[str, np.ndarray]:
    """Masks (37, 53) by name; some overlap."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    noise = rng.random(SIZE) < 0.55
    return {
        "disc": disc(18, 20, 9.4),
        "over the disc": disc(20, 28, 7.7),
        "ring": disc(12, 12, 9.3) & ~disc(12, 12, 5.2),
        "ring with an island": (disc(12, 12, 9.3) & ~disc(12, 12, 5.2)) | disc(12, 12, 2.5),
        "two holes that touch by a corner": box(2, 2, 9, 9) & ~box(4, 4, 5, 5) & ~box(5, 5, 6, 6),
        "hole that touches the outside": box(20, 40, 24, 44)
        & ~box(21, 41, 23, 43)
        & ~box(23, 43, 24, 44),
        "two parts": box(24, 3, 30, 8) | box(26, 11, 33, 14),
        "parts that touch by a corner": box(30, 30, 33, 34) | box(33, 34, 36, 37),
        "two pixels, falling": box(0, 0, 1, 1) | box(1, 1, 2, 2),
        "two pixels, rising": box(1, 0, 2, 1) | box(0, 1, 1, 2),
        "one pixel": box(7, 33, 8, 34),
        "last pixel": box(36, 52, 37, 53),
        "left edge": box(12, 0, 20, 3) & ~box(14, 0, 16, 2),
        "whole frame": box(0, 0, 37, 53),
        "frame of the frame": box(0, 0, 37, 53) & ~box(1, 1, 36, 52),
        "chessboard": (rows + columns) % 2 == 0,
        "noise": noise & box(5, 5, 30, 45),
        "ragged": (disc(18, 26, 15) & (noise | disc(18, 26, 10))),
    }


def awkward_cells(**about: Any) -> Cells:
    """Those masks as a result of two classes, in an image with pixels of 0.5 x 0.25 µm."""
    about = {"class_names": ("cell", "in division"), "pixel_size": (0.5, 0.25), **about}
    return cells_of(list(awkward_masks().values()), **about)


def drawn(rings: Sequence[Any], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Pixels with their centre inside an odd number of rings of x and y, by scikit-image."""
    mask = np.zeros(size, dtype=bool)
    for ring in rings:
        # scikit-image counts from the centre of the first pixel, in rows and columns.
        mask ^= polygon2mask(size, np.asarray(ring, dtype=float)[:, ::-1] - 0.5)
    return mask


def assert_same_masks(found: Sequence[np.ndarray], cells: Cells) -> None:
    """Every pixel of every cell, in order."""
    assert len(found) == len(cells)
    for i, mask in enumerate(found):
        assert np.array_equal(mask, cells.mask(i)), f"cell {i}"
