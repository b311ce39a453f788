"""Scenes for the tiler: known cells, and a segmenter that sees them perfectly in each tile."""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from iaunet_d2.inference.cells import Cells


@dataclass
class CoordinatePlane:
    """A plane of any size whose pixels are their own row and column; counts what is read."""

    size: tuple[int, int]
    name: str = "coordinates"
    pixel_size: tuple[float, float] | None = (0.5, 0.25)
    channel_names: tuple[str, ...] = ("row", "column")
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.int32))
    reads: list = field(default_factory=list)

    @property
    def shape(self):
        return (*self.size, 2)

    def read(self, top, left, height, width):
        assert top >= 0 and left >= 0
        assert top + height <= self.size[0] and left + width <= self.size[1]
        self.reads.append((top, left, height, width))
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).astype(self.dtype)


def cells_of(objects, size, scores=None, classes=None):
    """From (top, left, crop) to Cells."""
    count = len(objects)
    return Cells(
        [crop for _, _, crop in objects],
        np.array([(top, left) for top, left, _ in objects], dtype=np.int64).reshape(-1, 2),
        np.asarray(scores if scores is not None else np.ones(count), dtype=np.float32),
        np.asarray(classes if classes is not None else np.zeros(count), dtype=np.int64),
        size,
        class_names=("cell", "other"),
    )


def tight(top, left, mask):
    """(top, left, crop) of a mask at a place; None without a pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return top + int(rows[0]), left + int(columns[0]), crop


def jittered(rng, top, left, crop):
    """Moved by up to a pixel, and grown, shrunk or neither by one."""
    mask, how = np.pad(crop, 1), rng.integers(3)
    if how:
        mask = (ndimage.binary_dilation if how == 1 else ndimage.binary_erosion)(mask)
    down, right = rng.integers(-1, 2, 2)
    return tight(top - 1 + down, left - 1 + right, mask)


class PerfectSegmenter:
    """Finds what a tile of a CoordinatePlane shows of the objects, with random scores.

    Args:
        objects: (top, left, crop) each.
        jitter: of each detection anew.
        blind: ``blind(k, top, left)`` says that object k is missed in the tile at the place.
        class_of: ``class_of(k, top, left)`` gives its class there.
    """

    def __init__(self, objects, jitter=False, seed=0, blind=None, class_of=None):
        self.objects, self.jitter = objects, jitter
        self.rng = np.random.default_rng(seed)
        self.blind = blind or (lambda k, top, left: False)
        self.class_of = class_of or (lambda k, top, left: 0)
        self.batches = []
        places = np.array([(top, left) for top, left, _ in objects]).reshape(-1, 2)
        sides = np.array([crop.shape for _, _, crop in objects]).reshape(-1, 2)
        self.low, self.high = places, places + sides

    def __call__(self, images):
        self.batches.append(len(images))
        return [self.one(image) for image in images]

    def one(self, image):
        height, width = image.shape[:2]
        top, left = image[0, 0].tolist()
        meets = (self.low < (top + height, left + width)) & (self.high > (top, left))
        found, classes = [], []
        for k in np.flatnonzero(meets.all(axis=1)).tolist():
            if self.blind(k, top, left):
                continue
            thing = self.objects[k]
            if self.jitter:
                thing = jittered(self.rng, *thing)
            thing = thing and clipped(thing, top, left, height, width)
            if thing:
                found.append(thing)
                classes.append(self.class_of(k, top, left))
        order = self.rng.permutation(len(found))
        scores = np.sort(self.rng.random(len(found)))[::-1]
        chosen = [found[i] for i in order]
        return cells_of(chosen, (height, width), scores, [classes[i] for i in order])


def clipped(thing, top, left, height, width):
    """What a tile shows of an object, in the tile's coordinates."""
    row, column, crop = thing
    row, column = row - top, column - left
    part = crop[max(0, -row) : max(0, height - row), max(0, -column) : max(0, width - column)]
    return tight(max(0, row), max(0, column), part) if part.size else None


def touching_cells(side, spacing=24, seed=0):
    """Cells that fill a square image: nearest point of a shaken lattice."""
    rng = np.random.default_rng(seed)
    count = round(side / spacing)
    grid = (np.stack(np.meshgrid(*[np.arange(count)] * 2), -1).reshape(-1, 2) + 0.5) * side / count
    points = grid + rng.uniform(-0.25, 0.25, grid.shape) * spacing
    pixels = np.stack(np.meshgrid(*[np.arange(side) + 0.5] * 2, indexing="ij"), -1)
    labels = cKDTree(points).query(pixels.reshape(-1, 2))[1].reshape(side, side) + 1
    return [
        (place[0].start, place[1].start, labels[place] == k + 1)
        for k, place in enumerate(ndimage.find_objects(labels))
        if place is not None
    ]


def disc(row, column, radius):
    """(top, left, crop) of a disc around a point."""
    reach = int(np.ceil(radius))
    top, left = int(row) - reach, int(column) - reach
    rows, columns = np.ogrid[top : int(row) + reach + 1, left : int(column) + reach + 1]
    return tight(top, left, (rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


def as_set(cells):
    """The exact masks, as something that can be compared."""
    corners = [tuple(corner) for corner in cells.corners.tolist()]
    return sorted(
        (corner, crop.shape, crop.tobytes())
        for corner, crop in zip(corners, cells.crops, strict=True)
    )


def errors_against(cells, objects, jitter=False):
    """(duplicated, cut, missing): each found cell is counted for the object that it is most alike.

    Cut is one that lacks a pixel of the object; with jitter, one that no jitter could have taken.
    """
    truth = cells_of(objects, cells.image_size)
    safe = replace(truth, crops=[surely_in(crop) for crop in truth.crops]) if jitter else truth
    counts, cut, truth_boxes = np.zeros(len(objects), dtype=int), 0, truth.boxes
    for i, box in enumerate(cells.boxes):
        near = np.flatnonzero((np.abs(truth_boxes - box) <= 12).all(axis=1))
        shares = [frames(cells, i, truth, j) for j in near]
        likeness = [(a & b).sum() / (a | b).sum() for a, b in shares]
        best = near[int(np.argmax(likeness))]
        counts[best] += 1
        found, needed = frames(cells, i, safe, best)
        cut += bool((needed & ~found).any())
    return int((counts > 1).sum()), int(cut), int((counts == 0).sum())


def surely_in(crop):
    """The pixels that stay in a mask, however it is jittered."""
    shrunk = ndimage.binary_erosion(np.pad(crop, 1))
    return ndimage.binary_erosion(shrunk, np.ones((3, 3), dtype=bool))[1:-1, 1:-1]


def frames(a, i, b, j):
    """Two masks in a frame around both."""
    corner = np.minimum(a.corners[i], b.corners[j])
    ends = [cells.corners[k] + cells.crops[k].shape for cells, k in ((a, i), (b, j))]
    both = np.zeros((2, *(np.maximum(*ends) - corner)), dtype=bool)
    for frame, cells, k in zip(both, (a, b), (i, j), strict=True):
        (top, left), crop = cells.corners[k] - corner, cells.crops[k]
        frame[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return both
