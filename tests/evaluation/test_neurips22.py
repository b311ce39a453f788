"""The F1 of NeurIPS 2022, against hand-worked cases, plain-Python counting and skimage."""

import math
from pathlib import Path

import numpy as np
import pytest
from mask_scenes import (
    Pixels,
    as_map,
    box,
    data_set,
    evaluated,
    iou,
    most_pairs,
    painted,
    pixels,
    random_masks,
    shaken,
)
from skimage.segmentation import clear_border

from iaunet_d2.evaluation.neurips22 import (
    NeurIPS22Evaluator,
    cell_counts,
    foreground_dice,
    precision_recall_f1,
    tiles,
    without_frame_cells,
)


def grid(height: int, width: int, *cells: tuple[int, int, int, int]) -> np.ndarray:
    """Label map with rectangles (top, left, bottom, right)."""
    labels = np.zeros((height, width), dtype=np.int32)
    for k, (top, left, bottom, right) in enumerate(cells):
        labels[top:bottom, left:right] = k + 1
    return labels


# ------------------------------------------------------------------------------- frame


@pytest.mark.parametrize(
    ("cell", "stays"),
    [
        ((2, 2, 4, 4), True),
        ((1, 2, 4, 4), False),
        ((2, 1, 4, 4), False),
        ((5, 7, 8, 10), True),  # rows 5-7 of 10, columns 7-9 of 12
        ((5, 7, 9, 10), False),
        ((5, 7, 8, 11), False),
        ((0, 0, 1, 1), False),
    ],
)
def test_frame_of_two_pixels(cell: tuple[int, int, int, int], stays: bool) -> None:
    labels = grid(10, 12, cell)
    assert bool(without_frame_cells(labels).any()) is stays


def test_whole_cell_goes_and_the_others_are_numbered_anew() -> None:
    # The first has a part apart from the frame, which goes as well.
    labels = grid(10, 12, (0, 0, 3, 3), (4, 4, 6, 6), (7, 4, 8, 6))
    labels[4, 8] = 1
    labels[labels == 3] = 9
    expected = grid(10, 12, (4, 4, 6, 6), (7, 4, 8, 6))
    before = labels.copy()
    np.testing.assert_array_equal(without_frame_cells(labels), expected)
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (3, 3), (4, 9)])
def test_images_that_are_all_frame(size: tuple[int, int]) -> None:
    assert not without_frame_cells(np.ones(size, dtype=np.int32)).any()
    assert not without_frame_cells(np.zeros(size, dtype=np.int32)).any()


@pytest.mark.parametrize("seed", range(6))
def test_frame_rule_is_that_of_skimage(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros((30, 41), dtype=np.int32)
    for k, (top, left) in enumerate((t, e) for t in range(0, 28, 7) for e in range(0, 39, 8)):
        y, x = top + rng.integers(0, 3), left + rng.integers(0, 3)
        labels[y : y + 4, x : x + 5] = k + 1
    # skimage's buffer counts from 0: 1 is a frame of 2 pixels.
    expected = clear_border(labels, buffer_size=1)
    found = without_frame_cells(labels)
    assert 0 < len(np.unique(found)) < len(np.unique(labels))
    np.testing.assert_array_equal(found > 0, expected > 0)


# ------------------------------------------------------------------------------- counts


def test_counts_by_hand() -> None:
    # Truth: a cell of 4x4, one of 2x4, and one at the frame. Predicted: 4x2 of the first (IoU
    # 8 / 16, enough), 1 of 8 pixels of the second, and the one at the frame, which is no hit.
    truth = grid(14, 14, (2, 2, 6, 6), (8, 2, 10, 6), (8, 8, 10, 14))
    predicted = grid(14, 14, (2, 2, 6, 4), (8, 2, 9, 3), (8, 8, 10, 14))
    assert cell_counts(truth, predicted).tolist() == [1, 1, 1]
    assert cell_counts(truth, predicted, threshold=0.51).tolist() == [0, 2, 2]
    assert cell_counts(truth, predicted, threshold=0.1).tolist() == [2, 0, 0]


def test_precision_recall_f1() -> None:
    # 3 of 4 predictions, 3 of 5 cells: 2 * 0.75 * 0.6 / 1.35
    assert precision_recall_f1(np.array([3, 1, 2])) == pytest.approx((0.75, 0.6, 2 / 3))
    for counts in ([0, 0, 0], [0, 4, 0], [0, 0, 4]):
        assert precision_recall_f1(np.array(counts)) == (0, 0, 0)


def test_foreground_dice() -> None:
    nothing, first = np.zeros((3, 4), dtype=np.int32), grid(3, 4, (0, 0, 2, 4))
    assert foreground_dice(nothing, nothing) == 1
    assert foreground_dice(nothing, first) == foreground_dice(first, nothing) == 0
    # 8 and 4 pixels, 4 shared; who they belong to does not matter.
    assert foreground_dice(first, grid(3, 4, (0, 0, 1, 2), (0, 2, 1, 4))) == pytest.approx(8 / 12)


def plain_counts(truth: np.ndarray, predicted: np.ndarray, threshold: float) -> list[int]:
    """By sets of pixels, as the organisers' page words it."""
    height, width = truth.shape

    def inner(labels: np.ndarray) -> list[Pixels]:
        parts = [pixels(labels == k) for k in range(1, labels.max() + 1)]
        return [
            part
            for part in parts
            if part and all(2 <= y < height - 2 and 2 <= x < width - 2 for y, x in part)
        ]

    ours, theirs = inner(truth), inner(predicted)
    pairs = most_pairs([[iou(a, b) >= threshold for b in theirs] for a in ours])
    return [pairs, len(theirs) - pairs, len(ours) - pairs]


@pytest.mark.parametrize("seed", range(6))
def test_random_scenes_by_counting_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (23, 31)
    masks = [m for m in random_masks(rng, *size, 30) if m.sum() < 40][:9]
    near = shaken(rng, masks)
    truth = as_map(painted(masks, rng.random(len(masks)).tolist()), *size)
    predicted = as_map(painted(near, rng.random(len(near)).tolist()), *size)
    expected = plain_counts(truth, predicted, 0.5)
    assert sum(expected) > 0
    assert cell_counts(truth, predicted).tolist() == expected
    # In tiles, each an image of its own.
    total = np.zeros(3, dtype=np.int64)
    for ours, theirs in zip(plain_tiles(truth, 12), plain_tiles(predicted, 12), strict=True):
        total += plain_counts(ours, theirs, 0.5)
    found = cell_counts(truth, predicted, large_image=23 * 31, tile=12)
    assert found.tolist() == total.tolist()
    assert cell_counts(truth, predicted, large_image=23 * 31 + 1, tile=12).tolist() == expected


def plain_tiles(labels: np.ndarray, side: int) -> list[np.ndarray]:
    rows, columns = math.ceil(labels.shape[0] / side), math.ceil(labels.shape[1] / side)
    padded = np.zeros((rows * side, columns * side), dtype=labels.dtype)
    padded[: labels.shape[0], : labels.shape[1]] = labels
    return [
        padded[i * side : (i + 1) * side, j * side : (j + 1) * side]
        for i in range(rows)
        for j in range(columns)
    ]


@pytest.mark.parametrize("size", [(10, 20), (11, 19), (7, 30), (5, 5)])
def test_tiles(size: tuple[int, int]) -> None:
    labels = np.arange(size[0] * size[1]).reshape(size)
    for found, expected in zip(tiles(labels, 10), plain_tiles(labels, 10), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_cells_at_the_edge_of_tiles() -> None:
    # Two tiles of 10 side by side and a padded third: rows 0-9, columns 0-9, 10-19, 20-22.
    cells = [
        (3, 3, 6, 6),  # inside the first tile
        (3, 7, 6, 12),  # across the seam: parts at both frames
        (3, 14, 6, 18),  # columns 14-17, the last that stay clear of 18 and 19
        (7, 14, 9, 16),  # row 8 is in the frame
        (3, 22, 6, 23),  # at the image's right edge, but inside the padded third tile
    ]
    labels = grid(10, 23, *cells)
    assert cell_counts(labels, labels, large_image=230, tile=10).tolist() == [3, 0, 0]
    # In one piece: the cell across the seam counts, and the one at the right edge does not.
    assert cell_counts(labels, labels).tolist() == [3, 0, 0]
    only_edge = grid(10, 23, cells[4])
    assert cell_counts(labels, only_edge, large_image=230, tile=10).tolist() == [1, 0, 2]
    assert cell_counts(labels, only_edge).tolist() == [0, 0, 3]


def test_a_tile_without_predictions_counts_as_missed() -> None:
    truth = grid(10, 20, (3, 3, 6, 6), (3, 13, 6, 16))
    predicted = grid(10, 20, (3, 3, 6, 6))
    assert cell_counts(truth, predicted, large_image=200, tile=10).tolist() == [1, 0, 1]


# ------------------------------------------------------------------------------- evaluator

SIZE = (12, 15)


def test_evaluator_over_images(tmp_path: Path) -> None:
    inner = [box(*SIZE, 2, 2 + 4 * k, 5, 5 + 4 * k) for k in range(3)]  # 9 pixels each
    at_frame = box(*SIZE, 8, 0, 10, 3)  # 6 pixels
    truth = [(mask, 0) for mask in (*inner, at_frame)]
    name = data_set(tmp_path, [(*SIZE, truth), (*SIZE, truth), (*SIZE, truth), (*SIZE, [])])
    found = {
        # All three, and a wrong one of 4 pixels: precision 0.75, recall 1, F1 6 / 7 = 0.8571.
        # Dice 2 * 27 / (33 + 31) = 0.84375, rounded 0.8438 (or 0.8437).
        1: (*SIZE, [(m, 0.9, 0) for m in (*inner, box(*SIZE, 7, 6, 9, 8))]),
        # One of three: precision 1, recall 0.3333, F1 0.5; Dice 18 / 42 = 0.4286.
        2: (*SIZE, [(inner[0], 0.9, 0), (inner[1], 0.4, 0)]),
        # Only the one at the frame: nothing counts; Dice 12 / 39 = 0.3077.
        3: (*SIZE, [(at_frame, 0.9, 0)]),
        # Image 4 has no record at all: F1 0, Dice 1.
    }
    values = evaluated(NeurIPS22Evaluator(name), found)
    assert values["F1"] == pytest.approx(100 * (0.8571 + 0.5) / 4, abs=1e-9)
    assert values["F1-median"] == pytest.approx(25, abs=1e-9)
    assert values["precision"] == pytest.approx(100 * 1.75 / 4, abs=1e-9)
    assert values["recall"] == pytest.approx(100 * 1.3333 / 4, abs=1e-9)
    dice = (0.8438 + 0.4286 + 0.3077 + 1) / 4
    assert values["Dice"] == pytest.approx(100 * dice, abs=0.003)


def test_overlapping_predictions_are_flattened_by_score(tmp_path: Path) -> None:
    # 4x6; the prediction covers it, and a better-scored one takes 4x4 of it: 8 of 24 are left.
    cell, bite = box(*SIZE, 3, 3, 7, 9), box(*SIZE, 3, 3, 7, 7)
    name = data_set(tmp_path, [(*SIZE, [(cell, 0)])])
    kept = evaluated(NeurIPS22Evaluator(name), {1: (*SIZE, [(cell, 0.9, 0), (bite, 0.8, 0)])})
    # The bite has nothing left and does not count.
    assert kept["F1"] == kept["precision"] == 100
    bitten = evaluated(NeurIPS22Evaluator(name), {1: (*SIZE, [(cell, 0.8, 0), (bite, 0.9, 0)])})
    # The bite itself is 16 / 24 of the cell: it hits, the rest is wrong.
    assert (bitten["precision"], bitten["recall"]) == (50, 100)


def test_evaluator_in_tiles(tmp_path: Path) -> None:
    size = (10, 20)
    across, inside = box(*size, 3, 8, 6, 12), box(*size, 3, 13, 6, 16)
    name = data_set(tmp_path, [(*size, [(across, 0), (inside, 0)])])
    found = {1: (*size, [(inside, 0.9, 0)])}
    assert evaluated(NeurIPS22Evaluator(name), found)["recall"] == 50
    tiled = NeurIPS22Evaluator(name, large_image=200, tile=10)
    assert evaluated(tiled, found)["recall"] == 100


def test_both_empty_is_zero(tmp_path: Path) -> None:
    name = data_set(tmp_path, [(*SIZE, [])])
    values = evaluated(NeurIPS22Evaluator(name), {1: (*SIZE, [])})
    assert values == {"F1": 0, "F1-median": 0, "precision": 0, "recall": 0, "Dice": 100}
