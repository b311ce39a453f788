"""A picture of an image with its cells tinted and outlined."""

from pathlib import Path

import cv2
import numpy as np

from ...data.readers import to_byte_range
from ...drawing import FILL, displayable, instance_color
from ...files import atomic_write
from ..cells import Cells

LONGEST_SIDE = 4000  # of the picture, in pixels; larger images are drawn smaller
THUMBNAIL_SIDE = 240
_THUMBNAIL_QUALITY = 85
_RESIZABLE = (np.uint8, np.uint16, np.int16, np.float32, np.float64)


def write(cells: Cells, file: Path) -> None:
    """Write :func:`picture` as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_write(file) as stream:
        stream.write(_encoded(picture(cells), ".png", []))


def thumbnail(cells: Cells, side: int = THUMBNAIL_SIDE) -> bytes:
    """:func:`picture`, its longer side at most ``side``, as a JPEG file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _THUMBNAIL_QUALITY]
    return _encoded(picture(cells, side), ".jpg", options)


def picture(cells: Cells, longest: int = LONGEST_SIDE) -> np.ndarray:
    """Draw all cells on the image, the best one on top; without pixels, on black.

    Values that are not 8-bit are stretched between percentiles, as for the model.

    Args:
        cells: with or without pixels.
        longest: side in pixels; a smaller image keeps its size.

    Returns:
        (H', W', 3) uint8, RGB.
    """
    scale = min(1.0, longest / max(cells.image_size))
    height, width = (max(1, round(side * scale)) for side in cells.image_size)
    canvas = _ground(cells, height, width)
    for i in range(len(cells) - 1, -1, -1):
        top, left, small = reduced(cells, i, (height, width))
        _draw(canvas, top, left, small, instance_color(i))
    return canvas


def reduced(cells: Cells, i: int, size: tuple[int, int]) -> tuple[int, int, np.ndarray]:
    """A cell in the picture's pixels: those whose centre lies in the mask.

    Args:
        cells: the cells.
        i: index of the cell.
        size: height and width of the picture, at most the image's.

    Returns:
        Row and column of the first pixel, and (h, w) bool; a cell so small that no centre hits it
        is one pixel, so that it can still be seen.
    """
    crop = cells.crops[i]
    places, samples = [], []
    for side in (0, 1):
        corner, count = int(cells.corners[i][side]), crop.shape[side]
        if size[side] == cells.image_size[side]:
            places.append(corner)
            samples.append(np.arange(count))
            continue
        scale = size[side] / cells.image_size[side]
        first = int(corner * scale)
        at = np.arange(first, min(size[side], int((corner + count) * scale) + 1))
        source = ((at + 0.5) / scale).astype(int) - corner
        inside = (source >= 0) & (source < count)
        places.append(int(at[inside][0]) if inside.any() else first)
        samples.append(source[inside])
    small = crop[np.ix_(*samples)]
    return places[0], places[1], small if small.any() else np.ones((1, 1), bool)


def _ground(cells: Cells, height: int, width: int) -> np.ndarray:
    """The image as a picture (height, width, 3) uint8; black where there is none."""
    if cells.pixels is None:
        return np.zeros((height, width, 3), np.uint8)
    image = cells.pixels[:, :, :3]
    if (height, width) != image.shape[:2]:
        plain = image if image.dtype in _RESIZABLE else image.astype(np.float32)
        image = cv2.resize(plain, (width, height), interpolation=cv2.INTER_AREA)
        image = image.reshape(height, width, -1)
    return displayable(np.rint(to_byte_range(image)).astype(np.uint8))


def _draw(
    canvas: np.ndarray, top: int, left: int, mask: np.ndarray, color: tuple[int, int, int]
) -> None:
    """Tint and outline a mask (h, w), its first pixel at top, left."""
    height, width = mask.shape
    under = canvas[top : top + height, left : left + width]
    under[mask] = (1 - FILL) * under[mask] + FILL * np.array(color)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for outline in outlines:
        rows, columns = outline[:, 0, 1], outline[:, 0, 0]
        under[rows, columns] = color


def _encoded(rgb: np.ndarray, suffix: str, options: list[int]) -> bytes:
    _, content = cv2.imencode(suffix, rgb[:, :, ::-1], options)
    return bytes(content)
