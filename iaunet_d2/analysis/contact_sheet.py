"""Pictures of a data set on one sheet: images spread evenly over it, with their instances drawn."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ..data.segmentation import annotation_masks
from ..drawing import displayable, draw_instances
from .split_reader import SplitReader

SHEET_WIDTH = 2400  # at most, in pixels
LARGEST_SIDE = 1024  # of one image on the sheet
GAP = 8
STRIP = 26  # height of a caption
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LEAST_SIDE = 384
_INK = (0, 0, 0)


def contact_sheet(reader: SplitReader, images: int = 12, progress: bool = True) -> np.ndarray:
    """Draw some images of a data set, each above its name and its number of instances.

    Args:
        reader: of the data set.
        images: how many, spread evenly over the data set's order; all if there are fewer.
        progress: show a progress bar.

    Returns:
        (H, W, 3) ``uint8``, RGB, at most ``SHEET_WIDTH`` wide.

    Raises:
        BadFileError: an image cannot be used.
        ValueError: ``images`` is below 1.
    """
    if images < 1:
        raise ValueError(f"a contact sheet shows at least 1 image; {images} were asked for")
    chosen = [reader.records[k] for k in evenly_spread(len(reader.records), images)]
    columns = columns_for(len(chosen))
    side = tile_side(columns)
    tiles, captions = [], []
    for record, image in reader.images(chosen, progress=progress):
        shown = displayable(image[..., ::-1] if reader.is_bgr else image)
        instances = reader.annotations(record)
        outlined = {**record, "height": image.shape[0], "width": image.shape[1]}
        masks = annotation_masks({**outlined, "annotations": instances})
        size = fitted(image.shape[:2], side)
        tiles.append(
            draw_instances(_resized(shown, size), (_resized_mask(mask, size) for mask in masks))
        )
        count = f"{len(instances)} instance" + "s" * (len(instances) != 1)
        captions.append((Path(record["file_name"]).name, count))
    title = (reader.name, f"{len(tiles)} of {len(reader.records)} images")
    return arrange(tiles, captions, title, columns)


def evenly_spread(total: int, count: int) -> list[int]:
    """``count`` different numbers below ``total``, first and last included; all if it has fewer."""
    if count == 1:
        return [0]
    return sorted({round(k) for k in np.linspace(0, total - 1, min(count, total)).tolist()})


def columns_for(count: int) -> int:
    """Columns of a sheet that is about as wide as it is high, and whose images stay readable."""
    most = (SHEET_WIDTH - GAP) // (_LEAST_SIDE + GAP)
    return min(int(np.ceil(np.sqrt(max(count, 1)))), most)


def tile_side(columns: int) -> int:
    """Longest side of an image on a sheet with so many columns."""
    return min(LARGEST_SIDE, (SHEET_WIDTH - GAP) // columns - GAP)


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width of an image whose longer side becomes ``side``."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def arrange(
    tiles: Sequence[np.ndarray],
    captions: Sequence[tuple[str, str]],
    title: tuple[str, str],
    columns: int,
) -> np.ndarray:
    """Put images into rows and columns, each under its caption, all under a title.

    Args:
        tiles: (h, w, 3) ``uint8``, of any sizes.
        captions: of each tile: what is shortened where it has no room, and what is not.
        title: the same of the sheet.
        columns: tiles side by side.

    Returns:
        (H, W, 3) ``uint8`` on white.
    """
    width = max(tile.shape[1] for tile in tiles)
    columns = min(columns, len(tiles))
    rows = [tiles[k : k + columns] for k in range(0, len(tiles), columns)]
    heights = [max(tile.shape[0] for tile in row) for row in rows]
    total = GAP + columns * (width + GAP)
    sheet = np.full(
        (STRIP + GAP + sum(heights) + len(rows) * (STRIP + GAP), total, 3), 255, np.uint8
    )
    _write(sheet, title, GAP, 0, total - 2 * GAP)
    top = STRIP + GAP
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for column, tile in enumerate(row):
            left = GAP + column * (width + GAP)
            _write(sheet, captions[number * columns + column], left, top, width)
            below = top + STRIP
            sheet[below : below + tile.shape[0], left : left + tile.shape[1]] = tile
        top += STRIP + height + GAP
    return sheet


def _write(sheet: np.ndarray, caption: tuple[str, str], left: int, top: int, room: int) -> None:
    """Write a caption; its first part loses its middle where the whole is wider than the room."""
    first, last = (part.encode("ascii", "replace").decode() for part in caption)
    name = first
    for kept in range(len(first), 0, -1):
        if kept < len(first):
            name = f"{first[: (kept + 1) // 2]}...{first[len(first) - kept // 2 :]}"
        (width, _), _ = cv2.getTextSize(f"{name}: {last}", _FONT, 0.5, 1)
        if width <= room:
            break
    cv2.putText(sheet, f"{name}: {last}", (left, top + 18), _FONT, 0.5, _INK, 1, cv2.LINE_AA)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < image.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=method)


def _resized_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    resized = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
    return resized.astype(bool)
