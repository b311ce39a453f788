"""The metric of the Sartorius competition, against hand-worked cases and plain-Python counting."""

import math
from pathlib import Path

import numpy as np
import pytest
from mask_scenes import (
    Found,
    Instance,
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

from iaunet_d2.evaluation.sartorius import THRESHOLDS, SartoriusEvaluator

SIZE = (6, 20)
KINDS = ("shsy5y", "astro", "cort")


def measured(
    folder: Path,
    truth: list[list[Instance]],
    found: dict[int, list[Found]],
    names: tuple[str, ...] = ("cell",),
    size: tuple[int, int] = SIZE,
) -> dict[str, float]:
    name = data_set(folder, [(*size, instances) for instances in truth], names)
    return evaluated(SartoriusEvaluator(name), {k: (*size, f) for k, f in found.items()})


def test_thresholds() -> None:
    assert len(THRESHOLDS) == 10
    np.testing.assert_allclose(THRESHOLDS, np.arange(0.5, 1, 0.05))


def test_image_by_hand(tmp_path: Path) -> None:
    # Two cells of 20 pixels. One is predicted with 16 of them: IoU 0.8, over 0.5 to 0.75 (6
    # thresholds). The other with 10 of them: 0.5, over none. One more is wrong.
    cells = [box(*SIZE, 0, 0, 1, 20), box(*SIZE, 2, 0, 3, 20)]
    found = [box(*SIZE, 0, 0, 1, 16), box(*SIZE, 2, 0, 3, 10), box(*SIZE, 5, 5, 6, 7)]
    values = measured(tmp_path, [[(m, 0) for m in cells]], {1: [(m, 0.9, 0) for m in found]})
    # 6 thresholds of 1 / (1 + 2 + 1), 4 of 0.
    assert values == pytest.approx({"mP": 100 * 6 * 0.25 / 10, "mP-pooled": 100 * 6 * 0.25 / 10})


def test_mean_over_images_and_pooled(tmp_path: Path) -> None:
    one, two = box(*SIZE, 0, 0, 1, 20), box(*SIZE, 2, 0, 3, 20)
    third = box(*SIZE, 4, 0, 5, 20)
    truth = [[(one, 0)], [(one, 0), (two, 0), (third, 0)], [(one, 0)], [], []]
    found = {
        1: [(one, 0.9, 0)],  # 1
        2: [(one, 0.9, 0), (two, 0.49, 0)],  # 1 / 3, the second is below the score
        # Image 3 has no predictions: 0. Image 4 neither, and no cell: left out.
        5: [],  # left out as well
    }
    values = measured(tmp_path, truth, found)
    assert values["mP"] == pytest.approx(100 * (1 + 1 / 3 + 0) / 3)
    assert values["mP-pooled"] == pytest.approx(100 * 2 / 5)


def test_a_wrong_prediction_in_an_empty_image(tmp_path: Path) -> None:
    values = measured(tmp_path, [[]], {1: [(box(*SIZE, 0, 0, 2, 2), 0.9, 0)]})
    assert values == {"mP": 0, "mP-pooled": 0}


def test_nothing_at_all(tmp_path: Path) -> None:
    values = measured(tmp_path, [[]], {1: []})
    assert all(math.isnan(value) for value in values.values())


def test_pixels_in_two_predictions_go_to_the_best_scored(tmp_path: Path) -> None:
    # Cells of columns 0-9 and 10-19. The second prediction reaches over columns 6-19: 14 pixels.
    cells = [box(*SIZE, 0, 0, 1, 10), box(*SIZE, 0, 10, 1, 20)]
    wide = box(*SIZE, 0, 6, 1, 20)
    truth = [[(mask, 0) for mask in cells]]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    below = measured(tmp_path / "a", truth, {1: [(cells[0], 0.9, 0), (wide, 0.8, 0)]})
    assert below["mP"] == pytest.approx(100)
    # On top, it is 10 / 14 = 0.714 of the second (5 thresholds), and leaves 6 / 10 of the first
    # (not over 0.6: 2 thresholds). 2 thresholds of 1, 3 of 1 / 3, 5 of 0.
    above = measured(tmp_path / "b", truth, {1: [(cells[0], 0.8, 0), (wide, 0.9, 0)]})
    assert above["mP"] == pytest.approx(100 * (2 + 3 / 3) / 10)


def test_predictions_with_nothing_left_do_not_count(tmp_path: Path) -> None:
    cell = box(*SIZE, 0, 0, 2, 10)
    inside = box(*SIZE, 0, 2, 1, 4)
    found = [(cell, 0.9, 0), (cell, 0.8, 0), (inside, 0.7, 0)]
    assert measured(tmp_path, [[(cell, 0)]], {1: found})["mP"] == 100


def test_true_instances_may_overlap(tmp_path: Path) -> None:
    # A cell of 20 pixels lies wholly on one of 60: both are there whole.
    large, small = box(*SIZE, 0, 0, 3, 20), box(*SIZE, 1, 0, 2, 20)
    truth = [[(small, 0), (large, 0)]]
    # The large prediction keeps 40 of 60 (over 0.5, 0.55, 0.6, 0.65): 4 thresholds of 1, 6 of 1/3.
    values = measured(tmp_path, truth, {1: [(small, 0.9, 0), (large, 0.8, 0)]})
    assert values["mP"] == pytest.approx(100 * (4 + 6 / 3) / 10)


def test_duplicate_true_instances_need_a_prediction_each(tmp_path: Path) -> None:
    cell = box(*SIZE, 0, 0, 2, 10)
    values = measured(tmp_path, [[(cell, 0), (cell, 0)]], {1: [(cell, 0.9, 0)]})
    assert values["mP"] == 50  # one hit, one missed


def test_one_pixel_at_the_frame(tmp_path: Path) -> None:
    dot = box(*SIZE, 5, 19, 6, 20)
    assert measured(tmp_path, [[(dot, 0)]], {1: [(dot, 0.9, 0)]})["mP"] == 100


def test_classes_are_ignored_and_told_apart_by_image(tmp_path: Path) -> None:
    rows = [box(*SIZE, k, 0, k + 1, 20) for k in range(3)]
    truth = [
        [(rows[0], 2), (rows[1], 2), (rows[2], 1)],  # mostly cort; one of three found
        [(rows[0], 1)],  # astro, found under another class
        [(rows[0], 1)],  # astro, missed
        [],  # of no kind
    ]
    found = {1: [(rows[2], 0.9, 0)], 2: [(rows[0], 0.9, 0)], 4: [(rows[0], 0.9, 0)]}
    values = measured(tmp_path, truth, found, KINDS)
    assert values["mP"] == pytest.approx(100 * (1 / 3 + 1 + 0 + 0) / 4)
    assert values["mP-cort"] == pytest.approx(100 / 3)
    assert values["mP-astro"] == pytest.approx(50)
    assert math.isnan(values["mP-shsy5y"])


@pytest.mark.parametrize("seed", range(6))
def test_random_scenes_by_counting_pixels(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (15, 22)
    scenes = []
    for _ in range(3):
        masks = random_masks(rng, *size, 6)
        near = shaken(rng, masks, 0.1)
        scenes.append((masks, near, rng.permutation(len(near)) / 100 + 0.6))
    values = measured(
        tmp_path,
        [[(m, 0) for m in masks] for masks, _, _ in scenes],
        {
            k + 1: [(m, s, 0) for m, s in zip(near, scores.tolist(), strict=True)]
            for k, (_, near, scores) in enumerate(scenes)
        },
        size=size,
    )
    counts = np.zeros((3, 10, 3))
    for k, (masks, near, scores) in enumerate(scenes):
        truth, predicted = [pixels(m) for m in masks], painted(near, scores.tolist())
        for t in range(10):
            over = [[iou(a, b) > 0.5 + 0.05 * t + 1e-9 for b in predicted] for a in truth]
            hits = most_pairs(over)
            counts[k, t] = hits, len(predicted) - hits, len(truth) - hits
    assert counts[..., 0].sum() > 0
    precision = counts[..., 0] / counts.sum(-1)
    assert values["mP"] == pytest.approx(100 * precision.mean())
    pooled = counts.sum(0)
    assert values["mP-pooled"] == pytest.approx(100 * (pooled[:, 0] / pooled.sum(-1)).mean())
