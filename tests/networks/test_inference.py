"""Rescoring, resizing and suppression, hand-worked."""

from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from iaunet_d2.networks import QueryPrediction, ScoredMasks, mask_nms, rescored_instances
from iaunet_d2.networks.inference import _Raising
from iaunet_d2.networks.scored_masks import tight_crops


def predict(class_logits, masks):
    """A prediction whose masks have exactly the given logits (Q, h, w)."""
    queries = len(masks)
    return QueryPrediction(class_logits[None], torch.eye(queries)[None]), masks[None]


def run(class_logits, masks, padded=(8, 12), image=None, output=None, **changed):
    prediction, features = predict(class_logits, masks)
    changed = {"max_instances": 100, **changed}
    return rescored_instances(
        prediction, 0, features, padded, image or padded, output or padded, **changed
    )


def test_score_is_class_probability_times_mean_foreground_probability():
    masks = torch.full((2, 8, 12), -30.0)
    masks[0, 2:5, 3:7] = 2.0
    masks[1] = -1.0  # no pixel above the threshold
    class_logits = torch.log(torch.tensor([[0.8, 0.2], [0.6, 0.4]]))
    found = run(class_logits, masks)
    assert found.scores.tolist() == pytest.approx([0.8 * torch.sigmoid(torch.tensor(2.0)).item()])
    assert found.dense().shape == (1, 8, 12) and found.dense().sum().item() == 12
    assert found.dense()[0, 2:5, 3:7].all()


def test_one_query_may_give_several_classes_and_k_is_clamped():
    masks = torch.full((2, 8, 12), 30.0)
    class_logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]))
    found = run(class_logits, masks)  # 4 pairs, 100 wanted
    assert found.scores.tolist() == pytest.approx([0.6, 0.5, 0.3, 0.1], abs=1e-6)
    assert found.classes.tolist() == [1, 0, 1, 0]
    assert len(run(class_logits, masks, max_instances=2).scores) == 2
    assert len(run(class_logits, masks, score_threshold=0.4).scores) == 2


def test_padding_is_cropped_before_resizing():
    masks = torch.full((1, 8, 12), 30.0)
    masks[0, 6:] = -30.0  # the padding
    found = run(torch.tensor([[9.0, 0.0]]), masks, image=(6, 12), output=(12, 24))
    assert found.dense().shape == (1, 12, 24) and found.dense().all()


def test_nothing_above_the_threshold():
    found = run(torch.tensor([[-9.0, 9.0]]), torch.zeros(1, 8, 12), output=(5, 7))
    assert found.dense().shape == (0, 5, 7) and found.scores.shape == (0,)


def test_chunks_change_nothing(monkeypatch):
    masks, class_logits = torch.randn(7, 4, 6), torch.randn(7, 3)
    whole = run(class_logits, masks, output=(9, 11))
    monkeypatch.setattr("iaunet_d2.networks.inference.CPU_CHUNK_PIXELS", 20)
    parts = run(class_logits, masks, output=(9, 11))
    assert torch.equal(whole.dense(), parts.dense())
    torch.testing.assert_close(whole.scores, parts.scores)


def test_mask_nms_keeps_other_classes_and_low_overlap():
    masks = torch.zeros(4, 4, 10, dtype=torch.bool)
    masks[0, :, :5] = True
    masks[1, :, :6] = True  # IoU with 0: 20 / 24 = 0.83
    masks[2, :, :5] = True  # the same as 0, another class
    masks[3, :, 4:] = True  # IoU with 0: 4 / 40
    crops, corners = tight_crops(list(masks), [(0, 0)] * 4)
    found = ScoredMasks(crops, corners, torch.ones(4), torch.tensor([0, 0, 1, 0]), (4, 10))
    assert mask_nms(found, 0.8) == [0, 2, 3]
    assert mask_nms(found, 0.84) == [0, 1, 2, 3]
    # A suppressed mask suppresses nothing: 1 goes because of 0, and 3 is compared with 0 alone.
    assert mask_nms(found.take([]), 0.8) == []


@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.1, 0.3, 0.5, 0.8]))
@settings(deadline=None, max_examples=60)
def test_mask_nms_is_the_greedy_one_over_sets_of_pixels(seed, threshold):
    rng = np.random.default_rng(seed)
    masks = np.zeros((8, 12, 15), dtype=bool)
    for mask in masks:
        top, left = rng.integers(0, 8), rng.integers(0, 10)
        mask[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = True
        mask &= rng.random(mask.shape) < 0.9
    classes = rng.integers(0, 2, 8)
    kept = []
    for i in range(8):
        rivals = [j for j in kept if classes[j] == classes[i]]
        ious = [(masks[i] & masks[j]).sum() / max((masks[i] | masks[j]).sum(), 1) for j in rivals]
        if not any(iou > threshold for iou in ious):
            kept.append(i)
    crops, corners = tight_crops([torch.from_numpy(m) for m in masks], [(0, 0)] * 8)
    found = ScoredMasks(crops, corners, torch.ones(8), torch.from_numpy(classes), (12, 15))
    assert mask_nms(found, threshold) == kept


@given(
    seed=st.integers(0, 10_000),
    image=st.sampled_from([(24, 32), (22, 30), (9, 32), (24, 5)]),
    output=st.sampled_from([None, (24, 32), (20, 27), (41, 60), (13, 19), (7, 80)]),
    threshold=st.sampled_from([0.3, 0.5, 0.7]),
)
@settings(deadline=None, max_examples=150)
def test_raising_regions_equals_raising_whole_frames(seed, image, output, threshold):
    """Also for masks in the padding alone, and with a logit that is no number."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 6, 8, generator=generator) * 3 - 4
    logits[4] = -5.0  # without a pixel
    logits[3] = -9.0
    logits[3, seed % 6, 7 - seed % 3] = 6.0
    logits[2, 3, 3] = float("nan")
    raising = _Raising((24, 32), image, output or image, threshold)
    found = []
    for device in ("cpu", "other"):
        function = raising._regions if device == "cpu" else raising._frames
        with mock.patch.object(_Raising, "_regions", lambda self, x, f=function: f(x)):
            found.append(raising.masks(torch.arange(5), lambda queries: logits[queries]))
    (crops, corners, means), (other_crops, other_corners, other_means) = found
    assert torch.equal(corners, other_corners)
    assert all(torch.equal(a, b) for a, b in zip(crops, other_crops, strict=True))
    torch.testing.assert_close(means, other_means, atol=1e-5, rtol=1e-5)
    # Against torch's own resizing of whole frames, step by step.
    numbers = logits.nan_to_num(nan=-1e4)
    raised = F.interpolate(numbers[None], size=(24, 32), mode="bilinear").sigmoid()
    raised = raised[:, :, : image[0], : image[1]]
    expected = F.interpolate(raised, size=output or image, mode="bilinear")[0] > threshold
    masks = ScoredMasks(crops, corners, means, torch.zeros(5), output or image)
    assert torch.equal(masks.dense(), expected)


def test_boxes_and_frames_of_crops():
    masks = torch.zeros(3, 7, 9, dtype=torch.bool)
    masks[0, 2, 3] = True
    masks[1, :, 8] = True
    masks[2] = True
    crops, corners = tight_crops(list(masks), [(0, 0)] * 3)
    found = ScoredMasks(crops, corners, torch.ones(3), torch.zeros(3), (7, 9))
    assert found.boxes().tolist() == [[3, 2, 4, 3], [8, 0, 9, 7], [0, 0, 9, 7]]
    assert torch.equal(found.dense(), masks)
    assert torch.equal(found.take([2, 0]).dense(), masks[[2, 0]])
    assert found.take([]).boxes().shape == (0, 4)
