"""The metrics of ISBI 2014, against hand-worked cases and plain-Python counting."""

import math
from pathlib import Path

import numpy as np
import pytest
from mask_scenes import Found, Instance, box, data_set, evaluated, pixels, random_masks, shaken

from iaunet_d2.evaluation.isbi2014 import ISBI2014Evaluator, class_number, deviation

NAMES = ("nucleus", "cytoplasm")
NUCLEUS, CYTOPLASM = 0, 1
SIZE = (10, 12)


def measured(
    folder: Path, truth: list[list[Instance]], found: list[list[Found]], size: tuple = SIZE
) -> dict[str, float]:
    name = data_set(folder, [(*size, instances) for instances in truth], NAMES)
    return evaluated(
        ISBI2014Evaluator(name), {k + 1: (*size, predicted) for k, predicted in enumerate(found)}
    )


def test_cells_by_hand(tmp_path: Path) -> None:
    # Overlapping cells of 20 and 30 pixels, and one of 10, in 120 pixels.
    truth = [box(*SIZE, 0, 0, 4, 5), box(*SIZE, 2, 2, 8, 7), box(*SIZE, 8, 0, 10, 5)]
    # 16 of the first: Dice 32 / 36. All of the second and 6 more: 60 / 66. 4 of the third: 8 / 14.
    found = [box(*SIZE, 0, 0, 4, 4), box(*SIZE, 2, 2, 8, 8), box(*SIZE, 8, 0, 10, 2)]
    values = measured(
        tmp_path,
        [[(mask, CYTOPLASM) for mask in truth]],
        [[(mask, 0.9 - 0.1 * k, CYTOPLASM) for k, mask in enumerate(found)]],
    )
    first, second = 100 * 32 / 36, 100 * 60 / 66
    assert values["DC"] == pytest.approx((first + second) / 2)
    assert values["DC-std"] == pytest.approx((second - first) / 2)
    assert values["FNo"] == pytest.approx(100 / 3)
    assert values["TPp"] == pytest.approx((80 + 100) / 2)
    assert values["TPp-std"] == pytest.approx(10)
    # Nothing beside the first; 6 of the 90 pixels beside the second.
    assert values["FPp"] == pytest.approx(100 * (0 + 6 / 90) / 2)
    assert values["FPp-std"] == pytest.approx(100 * (6 / 90) / 2)
    assert math.isnan(values["nuclei-precision"]) and math.isnan(values["nuclei-Dice"])


def test_nuclei_by_hand(tmp_path: Path) -> None:
    # Four nuclei of 5 pixels. Predicted: 4 of 5; 3 of 5, exactly the share that is not enough; one
    # and 3 pixels more (5 / 8 = 0.625, found); and one and 4 more (5 / 9 = 0.556, not found).
    truth = [box(*SIZE, 2 * k, 0, 2 * k + 1, 5) for k in range(4)]
    ends = (4, 3, 8, 9)
    found = [box(*SIZE, 2 * k, 0, 2 * k + 1, right) for k, right in enumerate(ends)]
    # One of 3 pixels, and 2 more: 3 / 5 of the prediction is not enough either.
    truth.append(box(*SIZE, 8, 0, 9, 3))
    found.append(box(*SIZE, 8, 0, 9, 5))
    found.append(box(*SIZE, 9, 9, 10, 12))
    values = measured(
        tmp_path,
        [[(mask, NUCLEUS) for mask in truth]],
        [[(mask, 0.9, NUCLEUS) for mask in found]],
    )
    assert values["nuclei-precision"] == pytest.approx(100 * 2 / 6)
    assert values["nuclei-recall"] == pytest.approx(100 * 2 / 5)
    assert values["nuclei-pixel-precision"] == pytest.approx(100 * (1 + 5 / 8) / 2)
    assert values["nuclei-pixel-recall"] == pytest.approx(100 * (4 / 5 + 1) / 2)
    assert values["nuclei-Dice"] == pytest.approx(100 * (8 / 9 + 10 / 13) / 2)
    assert math.isnan(values["FNo"]) and math.isnan(values["DC"]) and math.isnan(values["DC-std"])


def test_dice_of_exactly_seven_tenths_is_not_good(tmp_path: Path) -> None:
    # 10 pixels each, 7 of them shared: 14 / 20.
    truth, found = box(*SIZE, 0, 0, 1, 10), box(*SIZE, 0, 0, 1, 7) | box(*SIZE, 1, 0, 2, 3)
    values = measured(tmp_path, [[(truth, CYTOPLASM)]], [[(found, 0.9, CYTOPLASM)]])
    assert values["FNo"] == 100 and math.isnan(values["DC"]) and math.isnan(values["FPp"])


def test_one_prediction_serves_one_cell(tmp_path: Path) -> None:
    cell = box(*SIZE, 1, 1, 6, 6)
    both = [(cell, CYTOPLASM), (cell, CYTOPLASM)]
    values = measured(tmp_path, [both], [[(cell, 0.9, CYTOPLASM)]])
    assert (values["FNo"], values["DC"]) == (50, 100)


def test_duplicate_predictions(tmp_path: Path) -> None:
    """Of cells they cost nothing (the challenge has no measure for it); of nuclei, precision."""
    cell = box(*SIZE, 1, 1, 6, 6)
    for number in (CYTOPLASM, NUCLEUS):
        (tmp_path / str(number)).mkdir()
        values = measured(tmp_path / str(number), [[(cell, number)]], [[(cell, 0.9, number)] * 3])
        if number == CYTOPLASM:
            assert (values["FNo"], values["DC"], values["TPp"], values["FPp"]) == (0, 100, 100, 0)
        else:
            assert values["nuclei-precision"] == pytest.approx(100 / 3)
            assert values["nuclei-recall"] == 100


def test_the_highest_dice_binds_first(tmp_path: Path) -> None:
    # Cells and predictions of 10 pixels in one row. Dice of the first cell (columns 2-11) with the
    # predictions 3-12 and 0-9: 0.9 and 0.8; of the second (5-14): 0.8 and 0.5. The 0.9 binds, and
    # nothing over 0.7 is left for the second cell, though 0.8 and 0.8 would serve both.
    size = (2, 20)
    cells = [box(*size, 0, 2, 1, 12), box(*size, 0, 5, 1, 15)]
    found = [box(*size, 0, 0, 1, 10), box(*size, 0, 3, 1, 13)]
    values = measured(
        tmp_path,
        [[(mask, CYTOPLASM) for mask in cells]],
        [[(mask, 0.9, CYTOPLASM) for mask in found]],
        size,
    )
    assert (values["FNo"], values["DC"]) == pytest.approx((50, 90))


def test_classes_are_kept_apart_and_scores_below_left_out(tmp_path: Path) -> None:
    cell, nucleus = box(*SIZE, 0, 0, 6, 6), box(*SIZE, 2, 2, 4, 4)
    truth = [[(cell, CYTOPLASM), (nucleus, NUCLEUS)]]
    found = [(cell, 0.9, NUCLEUS), (nucleus, 0.9, CYTOPLASM), (cell, 0.4, CYTOPLASM)]
    values = measured(tmp_path, truth, [found])
    assert values["FNo"] == 100
    assert values["nuclei-precision"] == values["nuclei-recall"] == 0


def test_shares_are_of_the_whole_set(tmp_path: Path) -> None:
    """Images: three cells found, one missed, and one image without any record."""
    three = [box(*SIZE, 0, 4 * k, 3, 4 * k + 3) for k in range(3)]
    truth = [[(mask, CYTOPLASM) for mask in three], [(three[0], CYTOPLASM)], []]
    values = measured(tmp_path, truth, [[(mask, 0.9, CYTOPLASM) for mask in three]])
    assert (values["FNo"], values["DC"]) == (25, 100)


def test_a_cell_that_fills_the_image(tmp_path: Path) -> None:
    """There is no background to spill into."""
    cell = np.ones(SIZE, dtype=bool)
    values = measured(tmp_path, [[(cell, CYTOPLASM)]], [[(cell, 0.9, CYTOPLASM)]])
    assert (values["DC"], values["TPp"], values["FNo"]) == (100, 100, 0)
    assert math.isnan(values["FPp"]) and math.isnan(values["FPp-std"])


def test_one_pixel(tmp_path: Path) -> None:
    dot = box(*SIZE, 9, 11, 10, 12)
    truth = [[(dot, CYTOPLASM), (dot, NUCLEUS)]]
    values = measured(tmp_path, truth, [[(dot, 0.9, CYTOPLASM), (dot, 0.9, NUCLEUS)]])
    assert (values["DC"], values["nuclei-Dice"], values["FNo"]) == (100, 100, 0)


def test_empty_masks_are_no_cells(tmp_path: Path) -> None:
    nothing, cell = np.zeros(SIZE, dtype=bool), box(*SIZE, 0, 0, 3, 3)
    both = [(mask, number) for mask in (nothing, cell) for number in (NUCLEUS, CYTOPLASM)]
    values = measured(tmp_path, [both], [[(mask, 0.9, number) for mask, number in both]])
    assert (values["FNo"], values["nuclei-precision"], values["nuclei-recall"]) == (0, 100, 100)


def test_nothing_at_all(tmp_path: Path) -> None:
    values = measured(tmp_path, [[]], [[]])
    assert len(values) == 12 and all(math.isnan(value) for value in values.values())


@pytest.mark.parametrize("seed", range(5))
def test_random_scenes_by_counting_pixels(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (16, 21)
    cells = random_masks(rng, *size, 8)
    found = shaken(rng, cells) + shaken(rng, cells, lost=0.7)
    values = measured(
        tmp_path,
        [[(mask, number) for mask in cells for number in (NUCLEUS, CYTOPLASM)]],
        [[(mask, 0.9, number) for mask in found for number in (NUCLEUS, CYTOPLASM)]],
        size,
    )
    truth, predicted = [pixels(m) for m in cells], [pixels(m) for m in found]
    dice = {
        (i, j): 2 * len(a & b) / (len(a) + len(b))
        for i, a in enumerate(truth)
        for j, b in enumerate(predicted)
    }
    good = take_highest({pair: d for pair, d in dice.items() if d > 0.7})
    assert good
    assert values["DC"] == pytest.approx(100 * sum(dice[p] for p in good) / len(good))
    assert values["FNo"] == pytest.approx(100 * (1 - len(good) / len(truth)))
    spilt = [len(predicted[j] - truth[i]) / (16 * 21 - len(truth[i])) for i, j in good]
    assert values["FPp"] == pytest.approx(100 * sum(spilt) / len(good))
    right = {}
    for (i, j), value in dice.items():
        shared = len(truth[i] & predicted[j])
        if shared / len(truth[i]) > 0.6 and shared / len(predicted[j]) > 0.6:
            right[i, j] = value
    pairs = take_highest(right)
    assert values["nuclei-precision"] == pytest.approx(100 * len(pairs) / len(predicted))
    assert values["nuclei-recall"] == pytest.approx(100 * len(pairs) / len(truth))
    assert values["nuclei-Dice"] == pytest.approx(100 * sum(dice[p] for p in pairs) / len(pairs))


def take_highest(values: dict[tuple[int, int], float]) -> list[tuple[int, int]]:
    pairs = []
    while values:
        best = max(values, key=lambda pair: values[pair])
        pairs.append(best)
        values = {p: v for p, v in values.items() if p[0] != best[0] and p[1] != best[1]}
    return pairs


def test_class_names() -> None:
    assert class_number(["Cytoplasm", "Nucleus"], "nucleus") == 1
    with pytest.raises(ValueError, match=r"class 'cytoplasm'.*classes cell, nucleus\. Rename"):
        class_number(["cell", "nucleus"], "cytoplasm")


def test_a_data_set_of_other_classes(tmp_path: Path) -> None:
    name = data_set(tmp_path, [(*SIZE, [])])
    with pytest.raises(ValueError, match="need a class 'nucleus'"):
        evaluated(ISBI2014Evaluator(name), {1: (*SIZE, [])})


def test_deviation() -> None:
    assert deviation([1.0, 3.0, math.nan]) == 1.0
    assert math.isnan(deviation([]))
