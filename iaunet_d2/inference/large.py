"""Segmenting an image of any size, tile by tile, with memory for two rows of tiles."""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from .cells import Cells
from .sources.base import Plane
from .stitching import Seen, Stitcher, join_cells
from .tiling import MARGIN, Tile, plan_tiles

_logger = logging.getLogger(__name__)

Segment = Callable[[list[np.ndarray]], list[Cells]]
"""From images (H, W, C) to what was found in each, in their coordinates."""


@dataclass
class TileReport:
    """What happened at the seams; filled while the results are taken.

    Attributes:
        cells: how many were given so far.
        cut: how many of them end at a tile's border inside the image.
        largest: longest side of a box among them, in pixels.
    """

    cells: int = 0
    cut: int = 0
    largest: int = 0

    def warning(self, overlap: int) -> str:
        """What to tell the user; empty where no cell was cut."""
        if not self.cut:
            return ""
        return (
            f"{self.cut} of {self.cells} cells reach over the border of their tile and may be cut: "
            f"the largest found has {self.largest} pixels, the tiles overlap by {overlap}. Take an "
            f"overlap of at least {2 * self.largest} pixels, with larger tiles if need be."
        )

    def _add(self, seen: Seen) -> None:
        self.cells += len(seen)
        self.cut += int(np.count_nonzero(~seen.whole))
        sides = seen.boxes[:, 2:] - seen.boxes[:, :2]
        self.largest = max(self.largest, int(sides.max(initial=0)))


def segment_tiles(
    plane: Plane,
    segment: Segment,
    tile: int,
    overlap: int,
    margin: int = MARGIN,
    batch_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
    report: TileReport | None = None,
) -> Iterator[Cells]:
    """Segment an image in tiles; give the cells from top to bottom while it goes on.

    The next tiles are read in a second thread while ``segment`` works; closing the iterator, or an
    error, ends it.

    Args:
        plane: the image; read in parts, each once but for the overlap.
        segment: called in this thread with up to ``batch_size`` tiles of one size.
        tile: side of the tiles in pixels.
        overlap: of neighbouring tiles in pixels, best twice the largest cell
            (:func:`.tiling.choose_overlap`).
        margin: a cell whose centre lies so far outside the core of its tile is kept if no other
            tile found it; the distance, in pixels, by which tiles may disagree.
        batch_size: tiles at a time.
        progress: called with how many tiles are done, and of how many.
        report: gets the numbers of cells, and of those cut.

    Yields:
        for each row of tiles, the cells that no later tile can change, in coordinates of the
        image, best first; may be none. Memory does not grow with the rows.

    Raises:
        ValueError: tile, overlap, margin or batch size are no sizes, or ``segment`` does not
            answer for each tile.
        BadFileError: a part of the image cannot be read.
    """
    if margin < 0 or batch_size < 1:
        raise ValueError(f"Not possible: a margin of {margin}, {batch_size} tiles at a time.")
    height, width, _ = plane.shape
    tiles = plan_tiles((height, width), tile, overlap)
    batches = _segmented(plane, segment, tiles, batch_size, progress)
    return _stitched(plane, tiles, batches, margin, report or TileReport())


def segment_large(
    plane: Plane,
    segment: Segment,
    tile: int,
    overlap: int,
    margin: int = MARGIN,
    batch_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
    report: TileReport | None = None,
) -> Cells:
    """Segment an image in tiles and keep all cells, best first.

    Arguments and errors as in :func:`segment_tiles`; where cells were cut, the log has a warning.
    """
    report = report or TileReport()
    parts = segment_tiles(
        plane, segment, tile, overlap, margin, batch_size, progress, report=report
    )
    cells = best_first(join_cells(list(parts)))
    if report.cut:
        _logger.warning("%s: %s", plane.name, report.warning(overlap))
    return cells


def best_first(cells: Cells) -> Cells:
    """Cells by score; equals keep their order."""
    return cells.take(np.argsort(-cells.scores, kind="stable"))


def _stitched(
    plane: Plane,
    tiles: list[Tile],
    results: Generator[tuple[Tile, Cells], None, None],
    margin: int,
    report: TileReport,
) -> Iterator[Cells]:
    """For each row of tiles, the cells that are final."""
    size = plane.shape[:2]
    stitcher = Stitcher(tiles, size, margin)
    row: list[tuple[Tile, Cells]] = []
    with closing(results):
        for tile, cells in results:
            row.append((tile, cells))
            if tile.number + 1 < len(tiles) and tiles[tile.number + 1].row == tile.row:
                continue
            seen = stitcher.add_row(row)
            row.clear()
            report._add(seen)
            yield replace(
                best_first(seen.cells),
                name=plane.name,
                pixel_size=plane.pixel_size,
                channel_names=plane.channel_names,
            )


def _segmented(
    plane: Plane,
    segment: Segment,
    tiles: Sequence[Tile],
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> Generator[tuple[Tile, Cells], None, None]:
    """Tiles in order, each with what was found in it."""
    batches = [tiles[k : k + batch_size] for k in range(0, len(tiles), batch_size)]
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tile-reader")
    try:
        ahead = reader.submit(_read, plane, batches[0])
        for k, batch in enumerate(batches):
            images = ahead.result()
            if k + 1 < len(batches):
                ahead = reader.submit(_read, plane, batches[k + 1])
            found = segment(images)
            _check(found, images)
            yield from zip(batch, found, strict=True)
            if progress is not None:
                progress(batch[-1].number + 1, len(tiles))
    finally:
        reader.shutdown(wait=True, cancel_futures=True)


def _read(plane: Plane, tiles: Sequence[Tile]) -> list[np.ndarray]:
    """The pixels of tiles."""
    places = (tile.rectangle for tile in tiles)
    return [
        plane.read(top, left, bottom - top, right - left) for top, left, bottom, right in places
    ]


def _check(found: Sequence[Cells], images: Sequence[np.ndarray]) -> None:
    if len(found) != len(images):
        raise ValueError(f"{len(images)} tiles were segmented, but {len(found)} results came back.")
    for cells, image in zip(found, images, strict=True):
        if cells.image_size != image.shape[:2]:
            raise ValueError(
                f"The result of a tile of {image.shape[:2]} pixels is for {cells.image_size}."
            )
