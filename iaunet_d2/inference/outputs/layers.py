"""Label images in layers: no cell loses a pixel to another."""

from pathlib import Path

import numpy as np

from ..cells import Cells
from .coverage import window
from .label_tiff import best_first, write_label_tiff

_BITS = 8  # layers to a byte
_FULL = 2**_BITS - 1


def layers(cells: Cells) -> list[np.ndarray]:
    """Share the cells out among layers so that no two of a layer have a pixel in common.

    Greedy colouring: each cell, the best score first, goes into the first layer that is free under
    it. One frame of bits keeps what is taken in eight layers, one byte a pixel.

    Returns:
        Of each layer, the indices of its cells; one empty layer where there are no cells.
    """
    taken: list[np.ndarray] = []
    members: list[list[int]] = [[]]
    for i in best_first(cells).tolist():
        layer = _first_free(taken, cells, i)
        if layer == len(members):
            members.append([])
        members[layer].append(i)
    return [np.array(layer, np.int64) for layer in members]


def _first_free(taken: list[np.ndarray], cells: Cells, i: int) -> int:
    """The first layer that is free under a cell, which is taken now."""
    crop = cells.crops[i]
    for group in range(len(taken) + 1):
        if group == len(taken):
            taken.append(np.zeros(cells.image_size, np.uint8))
        under = window(taken[group], cells, i)
        used = int(np.bitwise_or.reduce(under[crop]))
        if used != _FULL:
            free = ~used & (used + 1)  # the lowest bit that is not set
            under |= crop * np.uint8(free)
            break
    return group * _BITS + free.bit_length() - 1


def write(cells: Cells, file: Path) -> None:
    """Write the layers as a TIFF of axes C, Y, X, channels named ``layer 1`` and so on.

    Every cell is whole: where a pixel of layer k is i + 1, it belongs to the cell at index i, the
    number it has in the label image too.

    Raises:
        OSError: the file cannot be written.
    """
    write_label_tiff(cells, layers(cells), file, named=True)
