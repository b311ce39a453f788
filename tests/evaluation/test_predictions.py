"""Predictions as they are kept: sorted, as run lengths, of all processes."""

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from mask_scenes import box

from iaunet_d2.evaluation import predictions as module
from iaunet_d2.evaluation.predictions import ImagePredictions, PredictionStore, image_predictions

MASKS = np.stack([box(12, 17, 1, 2, 5, 9), box(12, 17, 0, 0, 12, 17), box(12, 17, 3, 3, 3, 3)])


def instances(scores: tuple[float, ...] = (0.25, 0.75, 0.5), masks: bool = True) -> Instances:
    found = Instances((12, 17))
    found.scores = torch.tensor(scores)
    found.pred_classes = torch.arange(len(scores))
    found.pred_boxes = Boxes(torch.arange(4.0 * len(scores)).reshape(-1, 4))
    if masks:
        found.pred_masks = torch.from_numpy(MASKS[: len(scores)])
    return found


def test_the_best_comes_first() -> None:
    found = image_predictions(instances())
    assert found.scores.tolist() == [0.75, 0.5, 0.25] and found.scores.dtype == np.float64
    assert found.classes.tolist() == [1, 2, 0]
    assert found.boxes.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]]
    assert np.array_equal(found.masks(), MASKS[[1, 2, 0]])
    assert (found.height, found.width, len(found)) == (12, 17, 3)
    assert [rle["size"] for rle in found.rles()] == [[12, 17]] * 3


def test_equal_scores_stay_in_order() -> None:
    assert image_predictions(instances((0.5, 0.5, 0.5))).classes.tolist() == [0, 1, 2]


def test_none_and_no_masks() -> None:
    empty = image_predictions(instances(()))
    assert len(empty) == 0 and empty.counts == ()
    assert empty.masks().shape == (0, 12, 17) and empty.boxes.shape == (0, 4)
    boxes_only = image_predictions(instances(masks=False))
    assert boxes_only.counts is None and boxes_only.rles() == []
    assert boxes_only.above(0.5).counts is None


def test_a_choice() -> None:
    found = image_predictions(instances())
    assert found.above(0.5).classes.tolist() == [1, 2]
    assert found.take(np.array([2, 0])).classes.tolist() == [0, 1]
    kept = found.take(np.array([False, False, True]))
    assert np.array_equal(kept.masks(), MASKS[[0]])
    assert len(found.above(0.9)) == 0 and found.above(0.9).masks().shape == (0, 12, 17)


def test_evaluators_that_share_a_store_encode_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Any] = []

    def count(found: Instances) -> ImagePredictions:
        encoded.append(found)
        return image_predictions(found)

    monkeypatch.setattr(module, "image_predictions", count)
    store = PredictionStore()
    for _ in range(3):
        store.add([{"image_id": 7}, {"image_id": 8}], [{"instances": instances()}, {"losses": 1}])
    assert len(encoded) == 1
    assert list(store.gathered() or ()) == [7]
    store.reset()
    assert store.gathered() == {}


def test_those_of_all_processes_meet_in_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = PredictionStore(), PredictionStore()
    store.add([{"image_id": 1}], [{"instances": instances()}])
    other.add([{"image_id": 2}], [{"instances": instances(())}])
    gathers: list[Any] = []

    def gather(data: Any, dst: int = 0) -> list[Any]:
        gathers.append(data)
        return [data, {k: found.result() for k, found in other._own.items()}]

    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    monkeypatch.setattr(comm, "gather", gather)
    assert {k: len(v) for k, v in (store.gathered() or {}).items()} == {1: 3, 2: 0}
    assert set(store.gathered() or ()) == {1, 2} and len(gathers) == 1  # not sent a second time
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert store.gathered() is None
    store.reset()
    store.gathered()
    assert len(gathers) == 2
