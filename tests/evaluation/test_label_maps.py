"""Label maps and their metrics, against hand-worked cases, plain-Python counting and skimage."""

import itertools
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from mask_scenes import (
    as_map,
    box,
    data_set,
    evaluated,
    iou,
    most_pairs,
    painted,
    pixels,
    random_masks,
    rle,
    shaken,
)
from pycocotools import mask as mask_util
from skimage.metrics import contingency_table
from skimage.segmentation import join_segmentations

from iaunet_d2.evaluation.label_maps import (
    LabelMapEvaluator,
    aggregated_jaccard,
    aji,
    average_precision_at,
    contingency_of_maps,
    f1_score,
    foreground,
    label_map,
    matched_jaccard,
    overlap_matrix,
    panoptic_quality,
    panoptic_sums,
    run_lengths,
)
from iaunet_d2.evaluation.matching import (
    contingency_of_masks,
    detection_counts,
    greedy_pairs,
    mean,
    pair_count,
)

EMPTY = np.zeros((5, 7), dtype=np.int32)


def strips() -> tuple[np.ndarray, np.ndarray]:
    """Two true strips of 4 pixels; predictions with 3 of one, 2 of the other, and one of 2 apart.

    IoUs: 3 / 4, and 2 / (4 + 4 - 2) = 1 / 3.
    """
    truth, predicted = EMPTY.copy(), EMPTY.copy()
    truth[0, 0:4], truth[2, 0:4] = 1, 2
    predicted[0, 0:3], predicted[2, 2:6], predicted[4, 0:2] = 1, 2, 3
    return truth, predicted


# ------------------------------------------------------------------------------- run lengths


def test_run_lengths_are_those_that_were_encoded() -> None:
    # 3x2, column by column: 0 1 1 | 1 0 1
    mask = np.array([[0, 1], [1, 0], [1, 1]], dtype=bool)
    assert run_lengths(rle(mask)["counts"]).tolist() == [1, 3, 1, 1]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (40, 31), (700, 900)])
def test_foreground_is_what_pycocotools_decodes(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random(size) < share for share in (0.0, 0.01, 0.5, 1.1)]
    masks.append(box(*size, size[0] // 3, size[1] // 3, size[0], size[1]))
    for mask in masks:
        encoded = rle(mask)
        expected = np.flatnonzero(mask_util.decode(encoded).ravel(order="F"))
        np.testing.assert_array_equal(foreground(encoded), expected)


def test_foreground_of_polygons_merged() -> None:
    parts = mask_util.frPyObjects([[1, 1, 6, 1, 6, 4, 1, 4], [8, 2, 12, 2, 12, 9, 8, 9]], 10, 13)
    merged = mask_util.merge(parts)
    expected = np.flatnonzero(mask_util.decode(merged).ravel(order="F"))
    assert expected.size == 5 * 3 + 4 * 7
    np.testing.assert_array_equal(foreground(merged), expected)


# ------------------------------------------------------------------------------- label map


def test_shared_pixels_go_to_the_best_scored() -> None:
    masks = [rle(box(1, 5, 0, 0, 1, 3)), rle(box(1, 5, 0, 2, 1, 5))]
    assert label_map(masks, np.array([0.9, 0.8]), 1, 5).tolist() == [[1, 1, 1, 2, 2]]
    assert label_map(masks, np.array([0.8, 0.9]), 1, 5).tolist() == [[1, 1, 2, 2, 2]]


def test_equal_scores_and_duplicates_keep_the_first() -> None:
    masks = [rle(box(2, 3, 0, 0, 2, 2))] * 2
    labels = label_map(masks, np.array([0.5, 0.5]), 2, 3)
    assert labels.tolist() == [[1, 1, 0], [1, 1, 0]]
    assert labels.dtype == np.int32


def test_a_map_of_nothing() -> None:
    assert label_map([], np.zeros(0), 2, 3).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_label_maps_of_random_masks() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        masks = random_masks(rng, 12, 17, 8)
        scores = rng.integers(0, 4, size=8) / 4  # with ties
        labels = label_map([rle(m) for m in masks], scores, 12, 17)
        parts = [pixels(labels == k) for k in range(1, 9)]
        assert [part for part in parts if part] == painted(masks, scores.tolist())


# ------------------------------------------------------------------------------- counting


def test_overlap_matrix_by_hand() -> None:
    # Background meets background in 35 - (3 + 1) - (2 + 2 + 2) - 2 = 23 pixels.
    expected = [[23, 0, 2, 2], [1, 3, 0, 0], [2, 0, 2, 0]]
    assert overlap_matrix(*strips()).tolist() == expected


def test_overlap_matrix_is_that_of_skimage() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 5, (9, 11)), rng.integers(0, 7, (9, 11))
    found = overlap_matrix(first, second)
    np.testing.assert_array_equal(found, contingency_table(first, second).toarray())
    joined = join_segmentations(first, second)
    assert np.count_nonzero(found) == len(np.unique(joined))


def test_overlap_matrix_of_different_frames() -> None:
    with pytest.raises(ValueError, match=r"shapes \(5, 7\) and \(7, 5\)"):
        overlap_matrix(EMPTY, EMPTY.T)


def test_labels_without_pixels_are_no_instances() -> None:
    truth = np.array([[0, 5, 5], [2, 2, 2]])
    contingency = contingency_of_maps(truth, truth)
    assert contingency.truth.tolist() == [3, 2]
    assert contingency.shared.tolist() == [[3, 0], [0, 2]]


def test_contingency_of_masks_that_overlap() -> None:
    rng = np.random.default_rng(3)
    truth, predicted = random_masks(rng, 20, 30, 6), random_masks(rng, 20, 30, 9)
    found = contingency_of_masks([rle(m) for m in truth], [rle(m) for m in predicted])
    for i, ours in enumerate(truth):
        for j, theirs in enumerate(predicted):
            shared = len(pixels(ours) & pixels(theirs))
            assert found.shared[i, j] == shared
            assert found.dice()[i, j] == pytest.approx(2 * shared / (ours.sum() + theirs.sum()))
            assert found.iou()[i, j] == pytest.approx(iou(pixels(ours), pixels(theirs)))


def test_contingency_of_large_masks_is_exact() -> None:
    ours, theirs = box(3000, 2000, 0, 0, 2999, 1999), box(3000, 2000, 1, 1, 3000, 2000)
    found = contingency_of_masks([rle(ours)], [rle(theirs)])
    assert found.shared.tolist() == [[2998 * 1998]]


@pytest.mark.parametrize(("wanted", "found"), [(0, 0), (0, 2), (3, 0)])
def test_contingency_of_nothing(wanted: int, found: int) -> None:
    one = rle(box(2, 2, 0, 0, 1, 1))
    contingency = contingency_of_masks([one] * wanted, [one] * found)
    assert contingency.iou().shape == (wanted, found)
    counts = detection_counts(contingency, [0.5, 0.9])
    assert counts.tolist() == [[0, found, wanted]] * 2


# ------------------------------------------------------------------------------- pairs


def test_pairs_that_greedy_would_miss() -> None:
    assert pair_count(np.array([[True, True], [True, False]])) == 2
    assert pair_count(np.array([[True, True, True]])) == 1
    assert pair_count(np.zeros((2, 3), dtype=bool)) == 0


def test_pair_count_by_trying_everything() -> None:
    rng = np.random.default_rng(4)
    for _ in range(60):
        hits = rng.random(rng.integers(0, 6, size=2)) < rng.random()
        assert pair_count(hits) == most_pairs(hits.tolist())


def test_greedy_pairs_take_the_highest_first() -> None:
    # 0.9 binds row 0 and column 0; what is left for row 1 is column 1 with 0.2, not over 0.2.
    rows, columns = greedy_pairs(np.array([[0.9, 0.8], [0.85, 0.2]]), 0.2)
    assert (rows.tolist(), columns.tolist()) == ([0], [0])
    rows, columns = greedy_pairs(np.array([[0.9, 0.8], [0.85, 0.2]]), 0.1)
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [0, 1])
    assert greedy_pairs(np.zeros((0, 3)), 0.0)[0].size == 0


def test_an_iou_of_exactly_the_threshold() -> None:
    # Two pixels, each predicted apart: both IoUs are 1 / 2, and only one can be the partner.
    contingency = contingency_of_maps(np.array([[1, 1]]), np.array([[1, 2]]))
    assert detection_counts(contingency, [0.5]).tolist() == [[1, 1, 0]]
    assert detection_counts(contingency, [0.5], strict=True).tolist() == [[0, 2, 1]]
    assert panoptic_sums(contingency).tolist() == [0, 0, 2, 1]


def test_an_iou_of_three_fifths_reaches_the_threshold() -> None:
    contingency = contingency_of_maps(np.array([[1, 1, 1, 1, 1]]), np.array([[1, 1, 1, 0, 0]]))
    assert detection_counts(contingency, [0.6]).tolist() == [[1, 0, 0]]


# ------------------------------------------------------------------------------- metrics


def test_strips_by_hand() -> None:
    contingency = contingency_of_maps(*strips())
    # Intersections 3 + 2; unions 4 + 6, and 2 of the prediction apart.
    assert aji(*strips()) == pytest.approx(5 / 12)
    # One pair of IoU 0.75, two false positives, one false negative.
    assert panoptic_sums(contingency).tolist() == [0.75, 1, 2, 1]
    # RQ = 1 / (1 + 2 / 2 + 1 / 2)
    assert panoptic_quality(panoptic_sums(contingency)) == pytest.approx((0.3, 0.75, 0.4))
    counts = detection_counts(contingency, [0.3, 0.5, 0.8])
    assert counts.tolist() == [[2, 1, 0], [1, 2, 1], [0, 3, 2]]
    assert average_precision_at(counts) == pytest.approx([2 / 3, 1 / 4, 0])
    assert f1_score(counts) == pytest.approx([4 / 5, 2 / 5, 0])


def test_aji_lets_true_instances_share_a_prediction() -> None:
    # Each of two halves has the whole as its best: (2 + 2) / (4 + 4). One to one it would be
    # 2 / (4 + 2).
    assert aji(np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]])) == pytest.approx(0.5)


def test_cellposes_index_by_hand() -> None:
    # Shared are 3 and 2 pixels; 8 true pixels and 2 + 2 beside them are foreground.
    assert matched_jaccard(contingency_of_maps(*strips())) == pytest.approx(5 / 12)
    # One to one, a half is left over.
    halves = contingency_of_maps(np.array([[1, 1, 2, 2, 2]]), np.array([[1, 1, 1, 1, 1]]))
    assert matched_jaccard(halves) == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [(0, 0, math.nan), (0, 1, 0.0), (1, 0, 0.0), (1, 1, 1.0)],
)
def test_empty_and_one_pixel(truth: int, predicted: int, expected: float) -> None:
    ours, theirs = EMPTY.copy(), EMPTY.copy()
    ours[4, 6], theirs[4, 6] = truth, predicted
    contingency = contingency_of_maps(ours, theirs)
    counts = detection_counts(contingency, [0.5])
    values = [
        aggregated_jaccard(contingency),
        matched_jaccard(contingency),
        *panoptic_quality(panoptic_sums(contingency)),
        *average_precision_at(counts),
        *f1_score(counts),
    ]
    np.testing.assert_array_equal(values, [expected] * 7)


def plain_aji(truth: list[set], predicted: list[set]) -> float:
    intersection, union, used = 0, 0, set()
    for ours in truth:
        ious = [iou(ours, theirs) for theirs in predicted]
        if not any(ious):
            union += len(ours)
            continue
        best = ious.index(max(ious))
        intersection += len(ours & predicted[best])
        union += len(ours | predicted[best])
        used.add(best)
    union += sum(len(p) for k, p in enumerate(predicted) if k not in used)
    return intersection / union


def plain_matched(truth: list[set], predicted: list[set]) -> float:
    """The best of all ways to pair, by the number of pairs of 0.5 and more, then by the IoUs."""
    if len(truth) > len(predicted):
        truth, predicted = predicted, truth

    def worth(chosen: tuple[set, ...]) -> tuple[int, float]:
        ious = [iou(*pair) for pair in zip(truth, chosen, strict=True)]
        return sum(value >= 0.5 for value in ious), sum(ious)

    best = max(itertools.permutations(predicted, len(truth)), key=worth)
    shared = sum(len(a & b) for a, b in zip(truth, best, strict=True))
    return shared / len(set().union(*truth, *predicted))


@pytest.mark.parametrize("seed", range(8))
def test_cellposes_index_by_trying_everything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, 12, 12, 5)
    truth = painted(masks, [-mask.sum() for mask in masks])
    near = shaken(rng, masks) + random_masks(rng, 12, 12, 2)
    predicted = painted(near, rng.random(len(near)).tolist())
    contingency = contingency_of_maps(as_map(truth, 12, 12), as_map(predicted, 12, 12))
    assert matched_jaccard(contingency) == pytest.approx(plain_matched(truth, predicted))


@pytest.mark.parametrize("seed", range(8))
def test_random_scenes_by_counting_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, 14, 19, 7)
    truth = painted(masks, [-mask.sum() for mask in masks])
    near = shaken(rng, masks) + random_masks(rng, 14, 19, 2)
    predicted = painted(near, rng.random(len(near)).tolist())
    contingency = contingency_of_maps(as_map(truth, 14, 19), as_map(predicted, 14, 19))
    assert aggregated_jaccard(contingency) == pytest.approx(plain_aji(truth, predicted))
    ious = [[iou(ours, theirs) for theirs in predicted] for ours in truth]
    thresholds = [0.2, 0.5, 0.7]
    for t, counts in zip(thresholds, detection_counts(contingency, thresholds), strict=True):
        pairs = most_pairs([[value >= t for value in row] for row in ious])
        assert counts.tolist() == [pairs, len(predicted) - pairs, len(truth) - pairs]
    over = [value for row in ious for value in row if value > 0.5]
    total = (len(truth) + len(predicted)) / 2  # TP + FP / 2 + FN / 2
    assert panoptic_quality(panoptic_sums(contingency))[0] == pytest.approx(sum(over) / total)


def test_mean_of_nothing() -> None:
    assert math.isnan(mean([])) and math.isnan(mean([math.nan]))
    assert mean([1.0, math.nan, 2.0]) == 1.5


# ------------------------------------------------------------------------------- evaluator

HEIGHT, WIDTH = 5, 7


def cells_of(labels: np.ndarray) -> list[tuple[np.ndarray, int]]:
    return [(labels == k, 0) for k in range(1, labels.max() + 1)]


def test_evaluator_over_four_images(tmp_path: Path) -> None:
    truth, predicted = strips()
    size = (HEIGHT, WIDTH)
    name = data_set(
        tmp_path,
        [(*size, cells_of(truth)), (*size, cells_of(truth)), (*size, []), (*size, [])],
    )
    found = {
        # As in `strips`, and below the threshold one that would otherwise be wrong.
        1: (*size, [(m, 0.5 + 0.1 * k, c) for k, (m, c) in enumerate(cells_of(predicted))]
            + [(box(*size, 4, 5, 5, 7), 0.49, 0)]),
        # Both cells, exactly.
        2: (*size, [(mask, 0.9, number) for mask, number in cells_of(truth)]),
        # Image 3 has no cell and nothing was found; image 4 has no cell and no predictions at all.
        3: (*size, []),
    }  # fmt: skip
    values = evaluated(LabelMapEvaluator(name), found)
    # Images 3 and 4 are 0 / 0 and left out.
    assert values["AJI"] == pytest.approx(100 * (5 / 12 + 1) / 2)
    assert values["AJI-matched"] == values["AJI"]
    # Pairs 0.75, 1, 1; TP 3, FP 2, FN 1: RQ = 3 / 4.5.
    assert values["RQ"] == values["F1@0.5"] == pytest.approx(100 * 3 / 4.5)
    assert values["SQ"] == pytest.approx(100 * 2.75 / 3)
    assert values["PQ"] == pytest.approx(100 * 2.75 / 4.5)
    # By image 1 / 4 and 1 at 0.5, 0.6 and 0.7; 0 and 1 at 0.8 and 0.9.
    assert [values[f"AP@{t}"] for t in (0.5, 0.6, 0.7)] == pytest.approx([62.5] * 3)
    assert [values[f"AP@{t}"] for t in (0.8, 0.9)] == pytest.approx([50.0] * 2)
    assert values["AP"] == pytest.approx((3 * 62.5 + 2 * 50) / 5)
    # Summed: 3 / (3 + 2 + 1); from 0.8 on 2 / (2 + 3 + 2).
    assert values["AP-pooled@0.5"] == pytest.approx(50.0)
    assert values["AP-pooled@0.9"] == pytest.approx(200 / 7)
    assert values["AP-pooled"] == pytest.approx((3 * 50 + 2 * 200 / 7) / 5)
    # F1 is at 0.5 whatever the thresholds.
    other = evaluated(LabelMapEvaluator(name, thresholds=(0.3, 0.8)), found)
    assert other["F1@0.5"] == values["F1@0.5"]
    # At 0.3, image 1 has 2 / 3.
    assert other["AP"] == pytest.approx(100 * ((2 / 3 + 1) / 2 + (0 + 1) / 2) / 2)


def test_image_without_predictions_counts_as_missed(tmp_path: Path) -> None:
    truth, _ = strips()
    cells = cells_of(truth)
    name = data_set(tmp_path, [(HEIGHT, WIDTH, cells), (HEIGHT, WIDTH, cells)])
    values = evaluated(
        LabelMapEvaluator(name), {1: (HEIGHT, WIDTH, [(m, 0.9, c) for m, c in cells])}
    )
    assert values["AJI"] == values["AP@0.5"] == values["AP-pooled"] == 50.0
    assert values["RQ"] == pytest.approx(100 * 2 / 3)  # TP 2, FN 2


def test_overlapping_truth_shows_the_smaller_on_top(tmp_path: Path) -> None:
    size = (6, 8)
    large, small = box(*size, 0, 0, 6, 8), box(*size, 2, 2, 4, 4)
    # In either order of the file, the label map is the small cell on the large one.
    for k, cells in enumerate(([large, small], [small, large])):
        (tmp_path / str(k)).mkdir()
        name = data_set(tmp_path / str(k), [(*size, [(mask, 0) for mask in cells])])
        found = {1: (*size, [(small, 0.9, 0), (large, 0.8, 0)])}
        assert evaluated(LabelMapEvaluator(name), found)["AP@0.9"] == 100.0
        # The large one on top hides the small prediction: one pair of IoU 44 / 48, one missed.
        found = {1: (*size, [(small, 0.8, 0), (large, 0.9, 0)])}
        values = evaluated(LabelMapEvaluator(name), found)
        assert values["SQ"] == pytest.approx(100 * 44 / 48)
        assert values["AP@0.9"] == 50.0


def test_classes_are_ignored_or_chosen(tmp_path: Path) -> None:
    size = (6, 8)
    first, second = box(*size, 0, 0, 2, 8), box(*size, 4, 0, 6, 4)
    name = data_set(tmp_path, [(*size, [(first, 0), (second, 1)])], names=("cell", "nucleus"))
    found = {1: (*size, [(first, 0.9, 1), (second, 0.9, 1)])}
    assert evaluated(LabelMapEvaluator(name), found)["AP"] == 100.0
    # Of class 1, the second is right and the first wrong; of class 0, nothing was found.
    assert evaluated(LabelMapEvaluator(name, classes=(1,)), found)["AP"] == 50.0
    assert evaluated(LabelMapEvaluator(name, classes=(0,)), found)["AP"] == 0.0
    assert evaluated(LabelMapEvaluator(name, classes=(0, 1)), found)["AP"] == 100.0


def test_nothing_in_the_whole_set_is_nan(tmp_path: Path) -> None:
    name = data_set(tmp_path, [(4, 3, [])])
    values = evaluated(LabelMapEvaluator(name), {1: (4, 3, [])})
    assert all(math.isnan(value) for value in values.values())


def test_empty_masks_are_no_instances(tmp_path: Path) -> None:
    nothing, cell = np.zeros((4, 3), dtype=bool), box(4, 3, 0, 0, 2, 2)
    name = data_set(tmp_path, [(4, 3, [(nothing, 0), (cell, 0)])])
    values = evaluated(LabelMapEvaluator(name), {1: (4, 3, [(nothing, 0.9, 0), (cell, 0.8, 0)])})
    assert values["PQ"] == values["AP"] == 100.0


def test_more_instances_than_a_byte_counts(tmp_path: Path) -> None:
    """pycocotools' area() is wrong or fails for over 255 masks at a time."""
    size = (40, 30)
    cells = [box(*size, 2 * y, 2 * x, 2 * y + 1, 2 * x + 1) for y in range(20) for x in range(15)]
    name = data_set(tmp_path, [(*size, [(mask, 0) for mask in cells])])
    found = {1: (*size, [(mask, 0.9, 0) for mask in cells[:-30]])}
    values = evaluated(LabelMapEvaluator(name), found)
    assert values["AP"] == values["AJI"] == pytest.approx(100 * 270 / 300)
    contingency = contingency_of_masks([rle(m) for m in cells], [rle(m) for m in cells])
    np.testing.assert_array_equal(contingency.shared, np.eye(300))


def test_predictions_of_another_frame(tmp_path: Path) -> None:
    name = data_set(tmp_path, [(4, 3, [])])
    with pytest.raises(ValueError, match=r"image 1 have height x width 3x4.*4x3"):
        evaluated(LabelMapEvaluator(name), {1: (3, 4, [])})


def test_a_model_without_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    instances = Instances((4, 3))
    instances.pred_boxes = Boxes(torch.zeros(1, 4))
    instances.scores, instances.pred_classes = torch.ones(1), torch.zeros(1).long()
    evaluator = LabelMapEvaluator(data_set(tmp_path, [(4, 3, [])]))
    evaluator.process([{"image_id": 1}], [{"instances": instances}])
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate() == {}
    assert "label_map needs masks" in caplog.text
