"""Overlapping and separate instances: by hand, and by brute force over sets of pixels."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_scenes import annotation, feed, file_of, register, result
from mask_scenes import Pixels, box, iou, pixels, random_masks, rle, shaken

from iaunet_d2.evaluation.overlap import (
    OverlapEvaluator,
    match_in_order,
    overlapping_pairs,
)

SIDE = 40
CLASSES = (1, 4)


def square(top: int, left: int, side: int = 10) -> np.ndarray:
    return box(SIDE, SIDE, top, left, top + side, left + side)


def measured(
    folder: Path, objects: list[Any], found: list[Any], classes: tuple[int, ...] = (1,), **more: Any
) -> dict[str, float]:
    """The metrics of images of 40 x 40, as many as there are in ``objects``, at least one."""
    ids = sorted({o["image_id"] for o in objects} | {1})
    content = file_of(objects, dict.fromkeys(ids, (SIDE, SIDE)), classes)
    evaluator = OverlapEvaluator(register(folder, content), **more)
    results = feed(evaluator, content, found)
    assert list(results) == ["overlap"]
    return results["overlap"]


# By hand


def test_a_pair_and_one_alone(tmp_path: Path) -> None:
    """Two squares share 5 x 10 pixels; one of them is found, and the third, that is alone."""
    masks = [square(0, 0), square(0, 5), square(25, 25)]
    objects = [annotation(1, 1, m) for m in masks]
    found = [result(1, 1, masks[0], 0.9), result(1, 1, masks[2], 0.8)]
    metrics = measured(tmp_path, objects, found)
    assert metrics == pytest.approx(
        {
            "AP-overlapping": 100 * 51 / 101,
            "AP50-overlapping": 100 * 51 / 101,
            "AP-separate": 100,
            "AP50-separate": 100,
            "recovered": 0,
            "instances-overlapping": 100 * 2 / 3,
        }
    )
    found.append(result(1, 1, masks[1], 0.7))
    metrics = measured(tmp_path, objects, found)
    assert metrics["AP-overlapping"] == metrics["recovered"] == 100


def test_a_false_positive_counts_where_it_is(tmp_path: Path) -> None:
    """It comes first, so that precision at every recall is 1/2 in its group."""
    masks = [square(0, 0), square(0, 5), square(25, 25)]
    objects = [annotation(1, 1, m) for m in masks]
    right = [result(1, 1, m, 0.5) for m in masks]
    on_a_pair = result(1, 1, box(SIDE, SIDE, 0, 0, 2, 2), 0.9)
    metrics = measured(tmp_path, objects, [*right, on_a_pair])
    assert metrics["AP-overlapping"] == pytest.approx(_after_one_wrong(2))
    assert metrics["AP-separate"] == 100
    on_the_third = result(1, 1, box(SIDE, SIDE, 25, 25, 27, 27), 0.9)
    metrics = measured(tmp_path, objects, [*right, on_the_third])
    assert metrics["AP-overlapping"] == 100
    assert metrics["AP-separate"] == pytest.approx(_after_one_wrong(1))
    nowhere = result(1, 1, box(SIDE, SIDE, 15, 15, 19, 19), 0.9)
    metrics = measured(tmp_path, objects, [*right, nowhere])
    assert metrics["AP-overlapping"] == pytest.approx(_after_one_wrong(2))
    assert metrics["AP-separate"] == pytest.approx(_after_one_wrong(1))


def _after_one_wrong(right: int) -> float:
    """AP if one wrong prediction comes before ``right`` right ones: precision rises to the end."""
    return 100 * right / (right + 1)


def test_the_share_of_overlap_that_is_recovered(tmp_path: Path) -> None:
    """Both found; the second prediction lacks 2 of the 5 shared columns."""
    masks = [square(0, 0), square(0, 5)]
    objects = [annotation(1, 1, m) for m in masks]
    clipped = box(SIDE, SIDE, 0, 7, 10, 15)
    found = [result(1, 1, masks[0], 0.9), result(1, 1, clipped, 0.8)]
    assert measured(tmp_path, objects, found)["recovered"] == pytest.approx(60)
    # As a label map has it, no pixel is in two.
    parted = [result(1, 1, masks[0] & ~masks[1], 0.9), result(1, 1, masks[1], 0.8)]
    assert measured(tmp_path, objects, parted)["recovered"] == 0
    # Below the score threshold it is not there.
    assert measured(tmp_path, objects, found, score_threshold=0.85)["recovered"] == 0


def test_a_chain(tmp_path: Path) -> None:
    """Four in a row, each over the next by 2, 3 and 4 columns; the third is not found."""
    masks = [square(0, left) for left in (0, 8, 15, 21)]
    objects = [annotation(1, 1, m) for m in masks]
    metrics = measured(tmp_path, objects, [result(1, 1, masks[k], 0.9) for k in (0, 1, 3)])
    assert metrics["instances-overlapping"] == 100
    assert metrics["recovered"] == pytest.approx(100 * 20 / (20 + 30 + 40))
    assert math.isnan(metrics["AP-separate"])


def test_identical_masks(tmp_path: Path) -> None:
    """The same pixels twice: one prediction finds one of them, two find both."""
    objects = [annotation(1, 1, square(3, 3)), annotation(1, 1, square(3, 3))]
    one = measured(tmp_path, objects, [result(1, 1, square(3, 3), 0.9)])
    assert one["AP-overlapping"] == pytest.approx(100 * 51 / 101) and one["recovered"] == 0
    both = measured(tmp_path, objects, [result(1, 1, square(3, 3), 0.9)] * 2)
    assert both["AP-overlapping"] == both["recovered"] == 100


def test_so_many_pixels_make_an_overlap(tmp_path: Path) -> None:
    corner = [annotation(1, 1, square(0, 0)), annotation(1, 1, square(9, 9))]
    assert measured(tmp_path, corner, [])["instances-overlapping"] == 100
    metrics = measured(tmp_path, corner, [], min_pixels=2)
    assert metrics["instances-overlapping"] == 0 and math.isnan(metrics["recovered"])
    touching = [annotation(1, 1, square(0, 0)), annotation(1, 1, square(0, 10))]
    assert measured(tmp_path, touching, [])["instances-overlapping"] == 0
    with pytest.raises(ValueError, match="min_pixels=0"):
        OverlapEvaluator("any", min_pixels=0)


def test_crowds_make_no_overlap_and_forgive_what_lies_in_them(tmp_path: Path) -> None:
    objects = [annotation(1, 1, square(0, 0)), annotation(1, 1, square(0, 0, 20), iscrowd=1)]
    found = [result(1, 1, square(10, 10), 0.9), result(1, 1, square(0, 0), 0.8)]
    metrics = measured(tmp_path, objects, found)
    assert metrics["instances-overlapping"] == 0 and metrics["AP-separate"] == 100
    assert math.isnan(metrics["AP-overlapping"]) and math.isnan(metrics["recovered"])


def test_instances_of_two_classes_overlap(tmp_path: Path) -> None:
    """A nucleus in its cell. A prediction under the wrong class recovers nothing."""
    cell, nucleus = square(0, 0, 20), square(5, 5, 6)
    objects = [annotation(1, 1, cell), annotation(1, 4, nucleus)]
    found = [result(1, 1, cell, 0.9), result(1, 4, nucleus, 0.8)]
    metrics = measured(tmp_path, objects, found, CLASSES)
    assert metrics["AP-overlapping"] == metrics["recovered"] == 100
    found[1]["category_id"] = 1
    assert measured(tmp_path, objects, found, CLASSES)["recovered"] == 0
    without = measured(tmp_path, objects, found, CLASSES, use_categories=False)
    assert without["AP-overlapping"] == without["recovered"] == 100


def test_nothing_there_and_nothing_found(tmp_path: Path) -> None:
    nothing = measured(tmp_path, [], [result(1, 1, square(0, 0), 0.9)])
    assert all(math.isnan(value) for value in nothing.values())
    pair = [annotation(1, 1, square(0, 0)), annotation(1, 1, square(0, 5))]
    metrics = measured(tmp_path, pair, [])
    assert metrics["AP-overlapping"] == metrics["recovered"] == 0


def test_a_model_without_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = file_of([annotation(1, 1, square(0, 0))], {1: (SIDE, SIDE)})
    evaluator = OverlapEvaluator(register(tmp_path, content))
    assert feed(evaluator, content, [result(1, 1, square(0, 0), 0.9)], masks=False) == {}
    assert "overlaps need masks" in caplog.text


def test_matching_in_the_order_of_scores() -> None:
    """The first takes what the second would match better; ones under the threshold stay alone."""
    values = np.array([[0.6, 0.5, 0.0], [0.9, 0.0, 0.0], [0.55, 0.5, 0.49]])
    assert match_in_order(values, 0.5).tolist() == [0, 2, -1]
    assert match_in_order(np.zeros((0, 2)), 0.5).tolist() == [-1, -1]
    assert match_in_order(np.zeros((2, 0)), 0.5).tolist() == []


def test_pairs_of_many_instances() -> None:
    """900 squares of 2 x 2 in a grid of 3 with one pixel in common along each row."""
    masks = [box(90, 70, 3 * (k // 30), 2 * (k % 30), 3 * (k // 30) + 2, 2 * (k % 30) + 3)
             for k in range(900)]  # fmt: skip
    pairs, shared = overlapping_pairs([rle(m) for m in masks])
    assert len(pairs) == 30 * 29 and (pairs[:, 1] == pairs[:, 0] + 1).all() and (shared == 2).all()
    assert overlapping_pairs([])[0].shape == (0, 2)


# By brute force


def group_precision(
    images: list[tuple[list[Any], list[Any]]], group: bool, category: int, threshold: float
) -> np.ndarray | None:
    """Precision at 101 recalls; None without such instances. By COCO's rules, plainly.

    Args:
        images: objects (pixels, class, whether overlapping) and predictions (pixels, class, score).
        group: whether the overlapping ones are looked at.
        category: the class.
        threshold: of the IoU.
    """
    ranked: list[tuple[float, bool]] = []
    wanted = 0
    for objects, found in images:
        wanted += sum(o[1] == category and o[2] == group for o in objects)
        free = {k for k, o in enumerate(objects) if o[1] == category}
        for mine, _, score in sorted((f for f in found if f[1] == category), key=lambda f: -f[2]):
            for own in (True, False):
                fits = [
                    k
                    for k in sorted(free)
                    if (objects[k][2] == group) == own and iou(mine, objects[k][0]) >= threshold
                ]
                if fits:
                    best = max(fits, key=lambda k: (iou(mine, objects[k][0]), k))
                    free.remove(best)
                    if own:
                        ranked.append((score, True))
                    break
            else:
                near = [iou(mine, o[0]) for o in objects]
                if not near or max(near) == 0 or objects[near.index(max(near))][2] == group:
                    ranked.append((score, False))
    if not wanted:
        return None
    ranked.sort(key=lambda r: -r[0])
    hits = np.cumsum([r[1] for r in ranked]) if ranked else np.zeros(0)
    precision = hits / np.arange(1, len(hits) + 1)
    recall = hits / wanted
    return np.array(
        [max(precision[recall >= r / 100 - 1e-12], default=0.0) for r in range(101)], dtype=float
    )


def share_recovered(images: list[tuple[list[Any], list[Any]]], least: float) -> float:
    shared = recovered = 0
    for objects, found in images:
        partner: dict[int, Pixels] = {}
        for mine, category, score in sorted(found, key=lambda f: -f[2]):
            near = {
                k: iou(mine, o[0])
                for k, o in enumerate(objects)
                if o[1] == category and k not in partner
            }
            if score >= least and near and max(near.values()) >= 0.5:
                partner[max(near, key=lambda k: (near[k], -k))] = mine
        for k, one in enumerate(objects):
            for j in range(k):
                both = one[0] & objects[j][0]
                shared += len(both)
                if k in partner and j in partner:
                    recovered += len(both & partner[k] & partner[j])
    return 100 * recovered / shared


@pytest.mark.parametrize("seed", range(4))
def test_random_scenes_by_brute_force(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    objects, results, images = [], [], []
    for image_id in (3, 5, 8):
        masks = random_masks(rng, SIDE, SIDE, 9)
        masks = [m for k, m in enumerate(masks) if m.sum() > 4 and not (k == 3 and seed == 1)]
        kinds = [CLASSES[m.sum() % 2] for m in masks]
        objects += [annotation(image_id, c, m) for m, c in zip(masks, kinds, strict=True)]
        sets = [pixels(m) for m in masks]
        flags = [any(s & o for j, o in enumerate(sets) if j != k) for k, s in enumerate(sets)]
        near = shaken(rng, masks) + shaken(rng, masks, 0.6) + random_masks(rng, SIDE, SIDE, 3)
        near = [m for m in near if m.any()]
        said = [CLASSES[(m.sum() + (rng.random() < 0.1)) % 2] for m in near]
        scores = rng.permutation(len(near)) / 64 + image_id / 1000  # no two are equal
        results += [
            result(image_id, c, m, float(s)) for m, c, s in zip(near, said, scores, strict=True)
        ]
        images.append(
            (
                list(zip(sets, kinds, flags, strict=True)),
                [(pixels(m), c, s) for m, c, s in zip(near, said, scores, strict=True)],
            )
        )
    found = measured(tmp_path, objects, results, CLASSES, score_threshold=0.1)
    for name, group in (("overlapping", True), ("separate", False)):
        curves = [
            [group_precision(images, group, c, t / 100) for c in CLASSES] for t in range(50, 100, 5)
        ]
        known = [[c for c in row if c is not None] for row in curves]
        if not known[0]:
            assert math.isnan(found[f"AP-{name}"])
            continue
        assert found[f"AP-{name}"] == pytest.approx(100 * np.mean(known), abs=1e-9)
        assert found[f"AP50-{name}"] == pytest.approx(100 * np.mean(known[0]), abs=1e-9)
    flags = [o[2] for image, _ in images for o in image]
    assert found["instances-overlapping"] == pytest.approx(100 * np.mean(flags))
    assert found["recovered"] == pytest.approx(share_recovered(images, 0.1))
    assert found["recovered"] > 0 and found["AP50-overlapping"] > 5
