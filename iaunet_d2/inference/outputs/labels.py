"""Label image: one number per cell, one cell per pixel."""

from pathlib import Path

import numpy as np

from ..cells import Cells
from .label_tiff import best_first, paint, write_label_tiff


def label_image(cells: Cells) -> np.ndarray:
    """Label image (H, W): 0 is background, the cell at index i is i + 1.

    Where cells overlap, a pixel belongs to the one of best score (among equals, to the first one),
    so a cell that lies wholly under better ones has no pixel.

    Returns:
        uint16; uint32 for more than 65,535 cells.
    """
    return paint(cells, best_first(cells), 0, cells.image_size[0])


def write(cells: Cells, file: Path) -> None:
    """Write :func:`label_image` as a compressed TIFF that Fiji, QuPath and napari open.

    It is painted and compressed in bands of rows: a slide is never held whole.

    Raises:
        OSError: the file cannot be written.
    """
    write_label_tiff(cells, [best_first(cells)], file, named=False)
