"""Touching cells, a segmenter that finds them without fault, and the errors of what is found."""

import time
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from tqdm import tqdm

from iaunet_d2.inference.cells import Cells

SPACING = 24
OFF = 3  # pixels by which a box may be wrong


@dataclass
class CellPlane:
    """Cells as the nearest points of a shaken lattice; a pixel's colour is its cell's number."""

    side: int
    name: str = "cells"
    pixel_size: tuple[float, float] | None = None
    channel_names: tuple[str, ...] = ()
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.uint8))

    def __post_init__(self) -> None:
        self.count = round(self.side / SPACING)  # along a side
        self.step = self.side / self.count
        rng = np.random.default_rng(0)
        shape = (self.count, self.count, 2)
        self.shake = rng.uniform(0.25, 0.75, shape).astype(np.float32)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.side, self.side, 3

    def numbers(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Of the cells at pixels; the two are broadcast together."""
        y, x = ((at + 0.5).astype(np.float32) / np.float32(self.step) for at in (rows, columns))
        row, column = y.astype(np.int32), x.astype(np.int32)
        nearest = np.full(np.broadcast_shapes(y.shape, x.shape), np.inf, dtype=np.float32)
        number = np.zeros(nearest.shape, dtype=np.int32)
        for down in (-1, 0, 1):
            r = np.clip(row + down, 0, self.count - 1)
            for right in (-1, 0, 1):
                c = np.clip(column + right, 0, self.count - 1)
                point = self.shake[r, c]
                distance = (y - r - point[..., 0]) ** 2 + (x - c - point[..., 1]) ** 2
                closer = distance < nearest
                np.copyto(nearest, distance, where=closer)
                np.copyto(number, r * self.count + c, where=closer)
        return number

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        number = self.numbers(rows[:, None], columns[None])
        return np.stack([number >> 16, number >> 8 & 255, number & 255], axis=-1).astype(np.uint8)

    def areas(self) -> np.ndarray:
        """Pixels of each cell, counted block by block."""
        areas = np.zeros(self.count**2, dtype=np.int64)
        block = 2000
        for top in tqdm(range(0, self.side, block), desc="areas", leave=False):
            for left in range(0, self.side, block):
                size = (min(block, self.side - top), min(block, self.side - left))
                areas += np.bincount(
                    numbers_in(self.read(top, left, *size)).ravel(), None, len(areas)
                )
        return areas


def numbers_in(image: np.ndarray) -> np.ndarray:
    """Numbers of the cells (H, W) that an image shows."""
    red, green, blue = (image[..., k].astype(np.int32) for k in range(3))
    return red << 16 | green << 8 | blue


class PerfectSegmenter:
    """Finds what an image shows, with random scores from 0.5 to 1."""

    def __init__(self, jitter: int = 0) -> None:
        self.jitter = jitter
        self.rng = np.random.default_rng(1)
        self.seconds = 0.0

    def __call__(self, images: list[np.ndarray]) -> list[Cells]:
        start = time.thread_time()
        found = [self.one(image) for image in images]
        self.seconds += time.thread_time() - start
        return found

    def one(self, image: np.ndarray) -> Cells:
        numbers = numbers_in(image)
        numbers -= numbers.min() - 1
        crops, corners = [], []
        for k, place in enumerate(ndimage.find_objects(numbers)):
            if place is None:
                continue
            moved = self.moved(numbers[place] == k + 1, place[0].start, place[1].start, image.shape)
            crops.append(moved[0])
            corners.append(moved[1:])
        scores = np.sort(self.rng.uniform(0.5, 1, len(crops)))[::-1].astype(np.float32)
        order = self.rng.permutation(len(crops))
        return Cells(
            [crops[i] for i in order],
            np.array(corners, dtype=np.int64)[order],
            scores,
            np.zeros(len(crops), dtype=np.int64),
            image.shape[:2],
        )

    def moved(
        self, crop: np.ndarray, top: int, left: int, size: tuple[int, ...]
    ) -> tuple[np.ndarray, int, int]:
        """A mask moved by the jitter, and what the image still shows of it; with its corner."""
        if not self.jitter:
            return crop, top, left
        down, right = self.rng.integers(-self.jitter, self.jitter + 1, 2).tolist()
        rows = slice(max(0, -top - down), max(0, size[0] - top - down))
        columns = slice(max(0, -left - right), max(0, size[1] - left - right))
        part = crop[rows, columns]
        if not part.any():
            return crop, top, left
        (y,), (x,) = np.nonzero(part.any(1)), np.nonzero(part.any(0))
        part = part[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        return part, top + down + rows.start + int(y[0]), left + right + columns.start + int(x[0])


# Counting errors


def errors_by_box(boxes: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """Each found box (N, 4) counts for the true one (M, 4) with the largest IoU."""
    near = cKDTree(truth[:, :2] + truth[:, 2:]).query(boxes[:, :2] + boxes[:, 2:], k=9)[1]
    others = truth[near]  # (N, 9, 4)
    low = np.maximum(boxes[:, None, :2], others[..., :2])
    high = np.minimum(boxes[:, None, 2:], others[..., 2:])
    shared = (high - low).clip(0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    iou = shared / (areas + (others[..., 2:] - others[..., :2]).prod(-1) - shared)
    best = near[np.arange(len(near)), iou.argmax(1)]
    counts = np.bincount(best, minlength=len(truth))
    off = np.abs(boxes - truth[best]).max(1)
    return {
        "cells": len(truth),
        "found": len(boxes),
        "duplicated": int((counts > 1).sum()),
        "cut": int((off > OFF).sum()),
        "missing": int((counts == 0).sum()),
    }


class ExactErrors:
    """Compares masks with the cells of a plane by number and area, part by part."""

    def __init__(self, plane: CellPlane) -> None:
        self.plane = plane
        self.counts = np.zeros(plane.count**2, dtype=np.int32)
        self.areas = np.zeros(plane.count**2, dtype=np.int64)

    def add(self, cells: Cells) -> None:
        if not len(cells):
            return
        firsts = np.array([crop[0].argmax() for crop in cells.crops])
        numbers = self.plane.numbers(cells.corners[:, 0], cells.corners[:, 1] + firsts)
        np.add.at(self.counts, numbers, 1)
        np.add.at(self.areas, numbers, cells.areas)

    def result(self) -> dict[str, int]:
        found = self.counts == 1
        return {
            "cells": len(self.counts),
            "found": int(self.counts.sum()),
            "duplicated": int((self.counts > 1).sum()),
            "cut": int((self.areas != self.plane.areas())[found].sum()),
            "missing": int((self.counts == 0).sum()),
        }
