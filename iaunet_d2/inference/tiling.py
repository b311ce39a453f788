"""Where the tiles of a large image lie, and which part of the image each of them answers for.

Neighbouring tiles overlap. The middle line of an overlap divides it: the *core* of a tile is what
lies on its side of these lines, so the cores partition the image, and an object belongs to the tile
whose core holds the centre of its box (the idea of StarDist's ``is_responsible``,
https://github.com/stardist/stardist/blob/main/stardist/big.py). The centre is at least half an
overlap away from the border of that tile: an object no larger than the overlap is seen whole.
"""

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MARGIN = 4
"""How far, in pixels, two tiles' ideas of the centre of one cell may lie from the seam."""

_STEP = 16  # overlaps are rounded up to a multiple of this

_logger = logging.getLogger(__name__)


class Rectangle(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, the ends exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, by: int) -> "Rectangle":
        """With every side moved outwards."""
        return Rectangle(self.top - by, self.left - by, self.bottom + by, self.right + by)

    def holds_centres(self, boxes: np.ndarray) -> np.ndarray:
        """Which boxes (N, 4), x0, y0, x1, y1, have their centre in it: (N,) bool.

        A centre on the top or left side counts, one on the bottom or right side does not.
        """
        x, y = boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]  # twice the centre: no halves
        across = (x >= 2 * self.left) & (x < 2 * self.right)
        return across & (y >= 2 * self.top) & (y < 2 * self.bottom)

    def holds(self, boxes: np.ndarray) -> np.ndarray:
        """Which boxes (N, 4), x0, y0, x1, y1, lie in it as a whole: (N,) bool."""
        across = (boxes[:, 0] >= self.left) & (boxes[:, 2] <= self.right)
        return across & (boxes[:, 1] >= self.top) & (boxes[:, 3] <= self.bottom)


@dataclass(frozen=True)
class Tile:
    """One tile of an image.

    Attributes:
        number: counted row by row.
        row: of the grid of tiles.
        rectangle: what the tile shows.
        core: the part that it answers for; the cores of all tiles partition the image.
        alone: the part that no other tile shows; empty (top >= bottom or left >= right) where
            the others cover everything.
    """

    number: int
    row: int
    rectangle: Rectangle
    core: Rectangle
    alone: Rectangle


class _Span(NamedTuple):
    """The extent of tiles along one axis, each as first and last (exclusive) pixel."""

    extent: tuple[int, int]
    core: tuple[int, int]
    alone: tuple[int, int]


def plan_tiles(image_size: tuple[int, int], tile: int, overlap: int) -> list[Tile]:
    """Cover an image with square tiles, row by row.

    The last tile of a row and of a column is shifted back into the image, so every tile has its
    full size; an image smaller than a tile is covered by one, of the image's size.

    Args:
        image_size: height and width in pixels.
        tile: side in pixels.
        overlap: of neighbouring tiles, in pixels; the last ones overlap by more.

    Raises:
        ValueError: the image is empty, or the overlap is negative or not smaller than the tile.
    """
    if min(image_size) < 1:
        raise ValueError(f"An image of {image_size[0]} x {image_size[1]} pixels has no tiles.")
    if not 0 <= overlap < tile:
        raise ValueError(
            f"Tiles of {tile} pixels cannot overlap by {overlap}: give an overlap from 0 to less "
            "than the tile, best at least twice as large as the largest cell."
        )
    rows, columns = (_spans(length, tile, overlap) for length in image_size)
    return [
        Tile(
            row * len(columns) + column,
            row,
            *(
                Rectangle(down[0], across[0], down[1], across[1])
                for down, across in zip(vertical, horizontal, strict=True)
            ),
        )
        for row, vertical in enumerate(rows)
        for column, horizontal in enumerate(columns)
    ]


def _spans(length: int, tile: int, overlap: int) -> list[_Span]:
    """Tiles along one axis."""
    if length <= tile:
        return [_Span((0, length), (0, length), (0, length))]
    starts = [*range(0, length - tile, tile - overlap), length - tile]
    stops = [start + tile for start in starts]
    middles = [(start + stop) // 2 for start, stop in zip(starts[1:], stops, strict=False)]
    bounds = [0, *middles, length]
    return [
        _Span(
            (start, stop),
            (bounds[k], bounds[k + 1]),
            (stops[k - 1] if k else 0, starts[k + 1] if k + 1 < len(starts) else length),
        )
        for k, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]


def choose_overlap(largest_cell_side: float, tile: int, margin: int = MARGIN) -> int:
    """Overlap of tiles for cells of a size: twice the largest cell, so that it is never cut.

    One cell's side would be enough to see each cell whole; the rest leaves the model its
    surroundings. Tiles never overlap by more than half, as the work grows without bound beyond:

    - twice the cell fits into half a tile: that is taken, rounded up to a multiple of 16;
    - the cell and its margins fit, but not twice the cell: half a tile, with a warning in the log;
    - not even that: an error.

    Args:
        largest_cell_side: the longer side of the largest cell's box, in pixels.
        tile: side of a tile in pixels.
        margin: as in :func:`.large.segment_tiles`.

    Raises:
        ValueError: the cells do not fit the tile, or the numbers are not sizes.
    """
    if not 0 <= largest_cell_side < np.inf or tile < 2:
        raise ValueError(f"Not sizes in pixels: cell {largest_cell_side}, tile {tile}.")
    half = tile // 2
    least = int(np.ceil(largest_cell_side)) + 2 * margin + 1
    wanted = max(2 * largest_cell_side, least)
    overlap = int(-(-wanted // _STEP)) * _STEP
    if overlap <= half:
        return overlap
    if least > half:
        raise ValueError(
            f"Cells of {largest_cell_side:g} pixels do not fit tiles of {tile}: take tiles of at "
            f"least {2 * least} pixels, or none."
        )
    if wanted > half:
        _logger.warning(
            "Tiles of %d pixels are small for cells of %g: they overlap by %d, less than twice "
            "the cell. Cells at the seams are whole, but seen with little around them; tiles of "
            "%d would be better.",
            tile,
            largest_cell_side,
            half,
            -(-4 * int(np.ceil(largest_cell_side)) // (2 * _STEP)) * 2 * _STEP,
        )
    return half
