"""COCO's average precision, against pycocotools' curves and by hand."""

import copy
import math
from typing import Any

import numpy as np
import pytest
from coco_scenes import (
    annotation,
    file_of,
    mean_precision,
    pycocotools_curves,
    result,
    scene,
)
from mask_scenes import box, pixels, random_masks, rle
from pycocotools import mask as mask_util

from iaunet_d2.data.segmentation import segmentation_rle
from iaunet_d2.evaluation import coco_matches
from iaunet_d2.evaluation.coco_ap import (
    LIVECELL_AREAS,
    CocoTruth,
    average,
    coco_scores,
    per_image_scores,
    summary,
)
from iaunet_d2.evaluation.rle import rle_areas, shared_pixels

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def same_curves(found: Any, expected: Any) -> None:
    for name in ("precision", "recall", "scores"):
        own, other = getattr(found, name), expected.eval[name]
        assert own.shape == other.shape
        assert np.abs(own - other).max() < 1e-9, name


@pytest.mark.parametrize("use_categories", [True, False])
@pytest.mark.parametrize("task", ["segm", "bbox"])
def test_curves_are_those_of_pycocotools(
    task: str, use_categories: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, results = scene(1, [60, 0, 1, 140])
    limits = [1, 10, 150]
    expected = pycocotools_curves(content, results, task, limits, None, use_categories)
    for at_once in (10**9, 3000, 1):
        monkeypatch.setattr(coco_matches, "PAIRS_AT_ONCE", at_once)
        found = coco_scores(content, results, task, limits, use_categories=use_categories)
        same_curves(found, expected)
    assert found.category_ids == ((2, 9) if use_categories else ())
    assert found.max_dets == (1, 10, 150)
    assert np.allclose(found.iou_thresholds, np.arange(0.5, 1, 0.05))
    assert np.allclose(found.recall_thresholds, np.arange(101) / 100)


@pytest.mark.parametrize("task", ["segm", "bbox"])
def test_summary_is_that_of_pycocotools_at_100(task: str) -> None:
    content, results = scene(2, [30, 50])
    expected = pycocotools_curves(content, results, task, [1, 10, 100])
    expected.summarize()
    found = summary(coco_scores(content, results, task, [100, 1, 10]))
    assert list(found) == list(NAMES)
    assert 5 < found["AP"] < 95 and found["APl"] >= 0
    assert list(found.values()) == pytest.approx((100 * expected.stats[:6]).tolist(), abs=1e-6)


def test_some_images_only() -> None:
    content, results = scene(3, [20, 20, 20])
    expected = pycocotools_curves(content, results, "segm", [5, 10, 100], image_ids=[37, 34])
    found = coco_scores(content, results, "segm", [5, 10, 100], image_ids=[37, 34])
    same_curves(found, expected)


def test_400_objects_count_at_the_limit_asked_for() -> None:
    """All found: a limit of 100 reaches recall 0.25, that is 26 of COCO's 101 recalls."""
    masks = [box(180, 180, 9 * (k // 20), 9 * (k % 20), 9 * (k // 20) + 8, 9 * (k % 20) + 8)
             for k in range(400)]  # fmt: skip
    content = file_of([annotation(1, 1, mask) for mask in masks], {1: (180, 180)})
    results = [result(1, 1, mask, 1 - k / 1000) for k, mask in enumerate(masks)]
    for task in ("segm", "bbox"):
        scores = coco_scores(content, results, task, [100, 400])
        assert summary(scores, 0)["AP"] == pytest.approx(100 * 26 / 101)
        assert summary(scores)["AP"] == summary(scores, 1)["AP"] == 100
        assert scores.recall[:, 0, 0].tolist() == [[0.25, 1.0]] * 10


def test_livecells_areas_without_classes() -> None:
    content, results = scene(4, [80, 50])
    bounds = [(0, 1e10), (0, 324), (324, 961), (961, 1e10)]
    expected = pycocotools_curves(content, results, "segm", [100, 500, 2000], bounds, False)
    found = coco_scores(content, results, "segm", [100, 500, 2000], LIVECELL_AREAS, False)
    same_curves(found, expected)
    assert LIVECELL_AREAS.bounds == tuple(bounds)
    # A square of 18 x 18 = 324 is small and medium; found under another class, it is found.
    square = box(50, 50, 4, 4, 22, 22)
    content = file_of([annotation(1, 1, square)], {1: (50, 50)}, (1, 2))
    metrics = summary(
        coco_scores(content, [result(1, 2, square, 0.5)], "segm", [9], LIVECELL_AREAS, False)
    )
    assert (metrics["AP"], metrics["APs"], metrics["APm"]) == (100, 100, 100)
    assert math.isnan(metrics["APl"])
    assert summary(coco_scores(content, [result(1, 2, square, 0.5)], "segm", [9]))["AP"] == 0


def test_the_mask_tells_the_size() -> None:
    """A ring of 40 x 40, one pixel wide: 156 pixels are small, its box of 1600 is medium."""
    ring = box(60, 60, 5, 5, 45, 45) & ~box(60, 60, 6, 6, 44, 44)
    content = file_of([annotation(1, 1, ring)], {1: (60, 60)})
    found = [result(1, 1, ring, 0.5), result(1, 1, np.roll(ring, 12, 0), 0.9)]
    metrics = summary(coco_scores(content, found, "segm", [100]))
    assert (metrics["AP"], metrics["APs"]) == (pytest.approx(50), pytest.approx(50))
    assert math.isnan(metrics["APm"])


def test_nothing_predicted_and_nothing_there() -> None:
    square = box(20, 20, 2, 2, 9, 9)
    content = file_of([annotation(1, 1, square)], {1: (20, 20), 2: (20, 20)}, (1, 7))
    assert summary(coco_scores(content, [], "segm", [100]))["AP"] == 0
    scores = coco_scores(content, [result(2, 1, square, 0.5)], "segm", [100], image_ids=[2])
    assert all(math.isnan(value) for value in summary(scores).values())
    assert (scores.precision == -1).all()
    # A class without objects does not count.
    scores = coco_scores(content, [result(1, 1, square, 0.5)], "bbox", [100])
    assert summary(scores)["AP"] == 100 and (scores.precision[:, :, 1] == -1).all()
    assert math.isnan(summary(coco_scores(content, [], "segm", [100], image_ids=[]))["AP"])


def test_ids_that_are_no_numbers_and_the_annotation_number_0() -> None:
    content, results = scene(5, [12, 9])
    expected = coco_scores(content, results, "segm", [100])
    names = {image["id"]: f"image {image['id']:03}" for image in content["images"]}
    for image in content["images"]:
        image["id"] = names[image["id"]]
    for number, item in enumerate(content["annotations"]):
        item.update(id=number, image_id=names[item["image_id"]])
    for item in results:
        item["image_id"] = names[item["image_id"]]
    found = coco_scores(content, results, "segm", [100])
    assert np.array_equal(found.precision, expected.precision)


def test_what_is_given_stays_as_it_is() -> None:
    content, results = scene(6, [12, 9])
    before = copy.deepcopy((content, results))
    truth = CocoTruth(content)
    for task in ("segm", "bbox"):
        truth.scores(results, task, [100])
    assert (content, results) == before


def test_areas_that_the_file_lacks_and_those_given() -> None:
    small, large = box(120, 120, 0, 0, 10, 10), box(120, 120, 15, 15, 115, 115)
    objects = [annotation(1, 1, small), annotation(1, 1, large)]
    for item in objects:
        del item["area"]
    truth = CocoTruth(file_of(objects, {1: (120, 120)}))
    found = [result(1, 1, small, 0.5)]
    for task in ("segm", "bbox"):
        metrics = summary(truth.scores(found, task, [100]))
        assert (metrics["APs"], metrics["APl"]) == (100, 0)
        assert math.isnan(metrics["APm"])
    given = truth.with_areas({1: [2000.0, 2000.0]})
    metrics = summary(given.scores([{**found[0], "area": 2000.0}], "segm", [100]))
    assert metrics["APm"] == pytest.approx(100 * 51 / 101) and math.isnan(metrics["APs"])
    assert summary(truth.scores(found, "segm", [100]))["APs"] == 100


def test_boxes_and_areas_that_the_file_lacks() -> None:
    """EVICAN's files have neither; other tools write null."""
    content, results = scene(5, [20, 9])
    whole = [summary(coco_scores(content, results, task, [100])) for task in ("bbox", "segm")]
    for gap in ({}, {"bbox": None, "area": None}):
        bare = [
            {key: value for key, value in item.items() if key not in ("bbox", "area")} | gap
            for item in content["annotations"]
        ]
        for task, expected in zip(("bbox", "segm"), whole, strict=True):
            found = summary(coco_scores({**content, "annotations": bare}, results, task, [100]))
            assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_annotations_of_images_that_are_not_listed_do_not_count() -> None:
    square = box(20, 20, 2, 2, 9, 9)
    content = file_of([annotation(1, 1, square), annotation(5, 1, square)], {1: (20, 20)})
    assert summary(coco_scores(content, [result(1, 1, square, 0.5)], "segm", [9]))["AP"] == 100


def test_each_image_alone() -> None:
    content, results = scene(7, [40, 0, 1, 90])
    found = per_image_scores(content, results, "segm", 60)
    assert list(found) == [image["id"] for image in content["images"]]
    for image_id, (ap, ap50) in found.items():
        alone = pycocotools_curves(
            content, results, "segm", [1, 10, 60], image_ids=[image_id]
        ).eval["precision"][..., 0, -1]
        expected = (mean_precision(alone), mean_precision(alone[0]))
        assert (ap, ap50) == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert math.isnan(found[37][0]) and 0 < found[40][0] < 100
    assert list(per_image_scores(content, results, "bbox", 60, image_ids=[31, 40])) == [31, 40]


def test_predictions_that_cannot_be_compared() -> None:
    square = box(20, 20, 2, 2, 9, 9)
    content = file_of([annotation(1, 1, square)], {1: (20, 20)})
    with pytest.raises(ValueError, match="image 8, which the annotation file does not list"):
        coco_scores(content, [result(8, 1, square, 0.5)], "segm", [100])
    with pytest.raises(ValueError, match="1 predictions of image 1 have no segmentation"):
        coco_scores(
            content,
            [{"image_id": 1, "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}],
            "segm",
            [9],
        )
    with pytest.raises(ValueError, match="segm and bbox, got 'keypoints'"):
        coco_scores(content, [], "keypoints", [100])


def test_average() -> None:
    assert average(np.array([0.5, -1, 1])) == 75
    assert math.isnan(average(np.array([-1.0])))


# Run lengths


def test_areas_of_more_masks_than_pycocotools_counts() -> None:
    masks = [box(9, 40, 1, 2, 4, 3 + k % 30) for k in range(600)]
    assert rle_areas([rle(m) for m in masks]).tolist() == [int(m.sum()) for m in masks]
    assert rle_areas([]).shape == (0,)


def test_shared_pixels_by_counting() -> None:
    rng = np.random.default_rng(0)
    first, second = random_masks(rng, 17, 23, 20), random_masks(rng, 17, 23, 13)
    second.append(np.zeros((17, 23), dtype=bool))
    shared, iou = shared_pixels([rle(m) for m in first], [rle(m) for m in second])
    for i, one in enumerate(map(pixels, first)):
        for j, other in enumerate(map(pixels, second)):
            assert shared[i, j] == len(one & other)
            assert iou[i, j] == pytest.approx(len(one & other) / len(one | other))
    assert shared.any() and not shared.all()
    assert shared_pixels([], [rle(first[0])])[0].shape == (0, 1)


def test_every_form_of_a_segmentation() -> None:
    mask = box(12, 15, 3, 4, 9, 11)
    compressed = rle(mask)
    runs = np.flatnonzero(np.diff(np.r_[0, mask.T.ravel().astype(int), 0]))
    counts = np.diff([0, *runs, mask.size]).tolist()
    polygon = [4, 3, 11, 3, 11, 9, 4, 9]
    forms: list[Any] = [
        compressed,
        {"size": [12, 15], "counts": compressed["counts"].decode()},
        {"size": [12, 15], "counts": counts},
        [polygon],
        [[4, 3, 8, 3, 8, 9, 4, 9], [8, 3, 11, 3, 11, 9, 8, 9]],
    ]
    for form in forms:
        assert np.array_equal(mask_util.decode(segmentation_rle(form, 12, 15)), mask), form
    for nothing in (None, []):
        assert mask_util.decode(segmentation_rle(nothing, 12, 15)).sum() == 0
