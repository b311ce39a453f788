"""From what overlapping tiles found to each cell once.

An object is kept by the tile whose core holds the centre of its box (:mod:`.tiling`). Two tiles do
not see one cell exactly alike, so near a seam both may think that it is theirs, or that it is the
other's. Hence, where tiles overlap:

1. Detections *of different tiles* that share at least half of the smaller mask are taken for one
   cell, those most alike (by IoU of what both tiles show of them) first, and never two of one tile:
   if a tile found both, they are two cells, however much they overlap.
2. A cell stays if the centre of one of its detections lies in the core of its tile or up to a
   margin outside; or if its detections lie in each other's cores.
3. Of its detections, one that its tile shows whole is preferred, then one that belongs to its tile,
   then the higher score, then the one farther from its tile's border.
4. If a tile split a cell that another tile found in one piece, the second piece overlaps the cell
   without a tile that ever saw such an overlap: the worse of the two goes.

The class does not matter to detections that are alike (IoU at least one half): two tiles may
disagree on what a cell is, but it is one cell. Those of different classes that only lie inside one
another (a nucleus in its cell) are never one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .cells import Cells
from .tiling import MARGIN, Tile

SAME = 0.5
"""Detections of different tiles that share this part of the smaller mask may be one cell."""

SEEN_OVERLAPPING = 0.25
"""Detections of one tile that share this part confirm that two cells overlap."""


@dataclass(frozen=True)
class Seen:
    """Detections of one or more tiles, in coordinates of the image.

    Attributes:
        cells: N of them.
        boxes: x0, y0, x1, y1: (N, 4) int64.
        tiles: number of the tile of each: (N,) int64.
        own: the centre lies in the tile's core or up to the margin outside: (N,) bool.
        whole: does not touch a border of the tile inside the image: (N,) bool.
        depth: pixels to the nearest such border; a large number without one: (N,) int64.
    """

    cells: Cells
    boxes: np.ndarray
    tiles: np.ndarray
    own: np.ndarray
    whole: np.ndarray
    depth: np.ndarray

    def __len__(self) -> int:
        return len(self.tiles)

    def take(self, which: np.ndarray) -> "Seen":
        """Those at the indices (K,), or where a mask (N,) is true."""
        return Seen(
            self.cells.take(which),
            self.boxes[which],
            self.tiles[which],
            self.own[which],
            self.whole[which],
            self.depth[which],
        )


def seen_in(tile: Tile, cells: Cells, image_size: tuple[int, int], margin: int) -> Seen:
    """What a tile's result, in coordinates of the tile, says about the image.

    Pieces of cells that belong to another tile are left out.
    """
    top, left, bottom, right = tile.rectangle
    corners = cells.corners + np.array([top, left])
    # A tile's own pixels would keep the whole image alive, bit by bit.
    cells = replace(cells, corners=corners, image_size=image_size, pixels=None)
    boxes = cells.boxes
    height, width = image_size
    far = max(image_size)
    gaps = np.stack(
        [
            boxes[:, 0] - left if left > 0 else np.full(len(boxes), far),
            boxes[:, 1] - top if top > 0 else np.full(len(boxes), far),
            right - boxes[:, 2] if right < width else np.full(len(boxes), far),
            bottom - boxes[:, 3] if bottom < height else np.full(len(boxes), far),
        ]
    )
    depth = gaps.min(axis=0)
    own, whole = tile.core.grown(margin).holds_centres(boxes), depth > 0
    tiles = np.full(len(boxes), tile.number, dtype=np.int64)
    seen = Seen(cells, boxes, tiles, own, whole, depth)
    return seen.take(own | whole)


def join_cells(parts: Sequence[Cells]) -> Cells:
    """Cells of one image, one part after the other, as one; at least one part."""
    return replace(
        parts[0],
        crops=[crop for part in parts for crop in part.crops],
        corners=np.concatenate([part.corners for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        classes=np.concatenate([part.classes for part in parts]),
    )


def join_seen(parts: Sequence[Seen]) -> Seen:
    """At least one part."""
    arrays = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("boxes", "tiles", "own", "whole", "depth")
    )
    return Seen(join_cells([part.cells for part in parts]), *arrays)


class Stitcher:
    """Takes the results of tiles row by row and gives each cell once, when nothing can change it.

    Args:
        tiles: of the image, from :func:`.tiling.plan_tiles`.
        image_size: height and width in pixels.
        margin: in pixels, see the module's description.
    """

    def __init__(
        self, tiles: Sequence[Tile], image_size: tuple[int, int], margin: int = MARGIN
    ) -> None:
        self.tiles = tiles
        self.image_size = image_size
        self.margin = margin
        self._tops = sorted({tile.rectangle.top for tile in tiles})
        self._waiting: list[Seen] = []

    def add_row(self, results: Iterable[tuple[Tile, Cells]]) -> Seen:
        """Take the results of a whole row of tiles.

        Args:
            results: the tiles of the next row, in order, each with what was found in it, in
                coordinates of the tile.

        Returns:
            the cells that no later row can change; after the last row, all that remained.
        """
        done, row = [], 0
        for tile, cells in results:
            seen, row = seen_in(tile, cells, self.image_size, self.margin), tile.row
            alone = tile.alone.holds(seen.boxes)
            done.append(seen.take(alone & seen.own))
            self._waiting.append(seen.take(~alone))
        last = row + 1 == len(self._tops)
        below = self.image_size[0] if last else self._tops[row + 1]
        waiting = join_seen(self._waiting)
        pairs = like_pairs(waiting, self.tiles)
        final = _final(waiting.boxes[:, 3] <= below, pairs.indices)
        self._waiting = [waiting.take(~final)]
        done.append(waiting.take(self._once(waiting, pairs, final)))
        return join_seen(done)

    def _once(self, seen: Seen, pairs: "Pairs", final: np.ndarray) -> np.ndarray:
        """Indices (K,), ascending, of one detection per cell, of those that are final."""
        groups = group_by_cell(seen.tiles, pairs)
        kept: dict[int, dict[int, int]] = {}  # chosen detection: its cell, as tile: detection
        for first in np.flatnonzero(final).tolist():
            members = groups[first]
            if min(members.values()) != first or not self._stays(seen, members):
                continue
            kept[max(members.values(), key=lambda i: _rank(seen, i))] = members
        for i, j in pairs.indices.tolist():
            if i in kept and j in kept and not _overlapped_in_a_tile(seen, kept[i], kept[j]):
                del kept[min(i, j, key=lambda k: _rank(seen, k))]
        return np.array(sorted(kept), dtype=np.int64)

    def _stays(self, seen: Seen, members: dict[int, int]) -> bool:
        """Whether a cell has a detection that belongs to its tile, or to another's of the cell."""
        which = np.array(list(members.values()))
        if seen.own[which].any():
            return True
        cores = (self.tiles[number].core for number in members)
        return len(which) > 1 and any(core.holds_centres(seen.boxes[which]).any() for core in cores)


@dataclass(frozen=True)
class Pairs:
    """Detections of different tiles that may be one cell.

    Attributes:
        indices: the two of each, ascending: (P, 2) int64.
        iou: of what both tiles show of the masks: (P,).
    """

    indices: np.ndarray
    iou: np.ndarray


def like_pairs(seen: Seen, tiles: Sequence[Tile]) -> Pairs:
    """Find the pairs of detections of different tiles that may be one cell."""
    cells, areas = seen.cells, seen.cells.areas
    found, iou = [], []
    for i, j in near_pairs(seen.boxes, seen.tiles, areas).tolist():
        shared = shared_pixels(cells, i, j)
        if shared < SAME * min(areas[i], areas[j]):
            continue
        # A piece cut by one tile is as large there as what the other shows of the cell there.
        in_both = sum(
            areas[k] if seen.whole[k] and seen.whole[other] else _pixels_in(cells, k, tiles[number])
            for k, other, number in ((i, j, seen.tiles[j]), (j, i, seen.tiles[i]))
        )
        likeness = shared / (in_both - shared)
        if cells.classes[i] == cells.classes[j] or likeness >= SAME:
            found.append((i, j))
            iou.append(likeness)
    return Pairs(np.array(found, dtype=np.int64).reshape(-1, 2), np.array(iou))


def _pixels_in(cells: Cells, i: int, tile: Tile) -> int:
    """How many pixels of a mask a tile shows."""
    (top, left), (high, low, bottom, right) = cells.corners[i].tolist(), tile.rectangle
    rows, columns = slice(max(0, high - top), bottom - top), slice(max(0, low - left), right - left)
    return int(np.count_nonzero(cells.crops[i][rows, columns]))


def near_pairs(boxes: np.ndarray, tiles: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Pairs of different tiles whose boxes share enough for half of the smaller mask.

    The boxes are put into square buckets of about their own size, and compared inside each: the
    work grows with the number of boxes times how many lie on one place, never with its square.

    Args:
        boxes: x0, y0, x1, y1: (N, 4).
        tiles: (N,).
        areas: pixels of the masks: (N,).

    Returns:
        (P, 2) int64, ascending in each pair; each pair once.
    """
    if len(boxes) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    side = max(16, int(np.median(boxes[:, 2:] - boxes[:, :2])))
    low, high = boxes[:, :2] // side, (boxes[:, 2:] - 1) // side
    counts = high - low + 1
    total = counts.prod(axis=1)
    item = np.repeat(np.arange(len(boxes)), total)
    nth = np.arange(len(item)) - np.repeat(np.cumsum(total) - total, total)
    x, y = low[item, 0] + nth % counts[item, 0], low[item, 1] + nth // counts[item, 0]
    buckets = y * (high[:, 0].max() + 1) + x
    order = np.argsort(buckets, kind="stable")
    item, buckets, x, y = item[order], buckets[order], x[order], y[order]
    found = [np.zeros((0, 2), dtype=np.int64)]
    for step in range(1, len(item)):
        together = np.flatnonzero(buckets[step:] == buckets[:-step])
        if not len(together):
            break
        first, second = item[together], item[together + step]
        start = np.maximum(boxes[first, :2], boxes[second, :2])
        stop = np.minimum(boxes[first, 2:], boxes[second, 2:])
        # Two boxes meet in several buckets: the one with the corner of what they share counts.
        here = (start[:, 0] // side == x[together]) & (start[:, 1] // side == y[together])
        most = (stop - start).clip(0).prod(axis=1)
        enough = most >= np.maximum(1, SAME * np.minimum(areas[first], areas[second]))
        good = here & enough & (tiles[first] != tiles[second])
        found.append(np.stack([first[good], second[good]], axis=1))
    return np.concatenate(found)


def shared_pixels(cells: Cells, i: int, j: int) -> int:
    """How many pixels two masks have in common."""
    a, b = cells.crops[i], cells.crops[j]
    (top_a, left_a), (top_b, left_b) = cells.corners[i].tolist(), cells.corners[j].tolist()
    top, left = max(top_a, top_b), max(left_a, left_b)
    bottom = min(top_a + a.shape[0], top_b + b.shape[0])
    right = min(left_a + a.shape[1], left_b + b.shape[1])
    if top >= bottom or left >= right:
        return 0
    part_a = a[top - top_a : bottom - top_a, left - left_a : right - left_a]
    part_b = b[top - top_b : bottom - top_b, left - left_b : right - left_b]
    return int(np.count_nonzero(part_a & part_b))


def group_by_cell(tiles: np.ndarray, pairs: Pairs) -> list[dict[int, int]]:
    """Join the pairs, those most alike first, to cells with at most one detection of each tile.

    Args:
        tiles: of the detections: (N,).
        pairs: from :func:`like_pairs`.

    Returns:
        for each detection its cell, as number of the tile: detection; members of a cell share it.
    """
    groups = [{tile: i} for i, tile in enumerate(tiles.tolist())]
    for k in np.argsort(-pairs.iou, kind="stable").tolist():
        one, other = (groups[i] for i in pairs.indices[k].tolist())
        if one.keys().isdisjoint(other):
            one.update(other)
            for member in other.values():
                groups[member] = one
    return groups


def _final(above: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Which detections (N,) are above the next row of tiles, with all that they are linked to."""
    if not len(above):
        return above
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(above),) * 2)
    count, component = connected_components(links, directed=False)
    open_ones = np.zeros(count, dtype=bool)
    open_ones[component[~above]] = True
    return ~open_ones[component]


def _rank(seen: Seen, i: int) -> tuple[bool, bool, float, int, int]:
    """Larger is better; the earlier one of equals."""
    return (
        bool(seen.whole[i]),
        bool(seen.own[i]),
        float(seen.cells.scores[i]),
        int(seen.depth[i]),
        -i,
    )


def _overlapped_in_a_tile(seen: Seen, one: dict[int, int], other: dict[int, int]) -> bool:
    """Whether a tile found both of two cells, one on the other."""
    for tile in one.keys() & other.keys():
        i, j = one[tile], other[tile]
        smaller = min(np.count_nonzero(seen.cells.crops[k]) for k in (i, j))
        if shared_pixels(seen.cells, i, j) >= SEEN_OVERLAPPING * smaller:
            return True
    return False
