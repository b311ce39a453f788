"""Rescoring, resizing and suppression, hand-worked."""

import pytest
import torch

from iaunet_d2.networks import QueryPrediction, mask_nms, rescored_instances


def predict(class_logits, masks):
    """A prediction whose masks have exactly the given logits (Q, h, w)."""
    queries = len(masks)
    return QueryPrediction(class_logits[None], torch.eye(queries)[None]), masks[None]


def run(class_logits, masks, padded=(8, 12), image=None, output=None, **settings):
    prediction, features = predict(class_logits, masks)
    settings = {"max_instances": 100, **settings}
    return rescored_instances(
        prediction, 0, features, padded, image or padded, output or padded, **settings
    )


def test_score_is_class_probability_times_mean_foreground_probability():
    masks = torch.full((2, 8, 12), -30.0)
    masks[0, 2:5, 3:7] = 2.0
    masks[1] = -1.0  # no pixel above the threshold
    class_logits = torch.log(torch.tensor([[0.8, 0.2], [0.6, 0.4]]))
    found = run(class_logits, masks)
    assert found.scores.tolist() == pytest.approx([0.8 * torch.sigmoid(torch.tensor(2.0)).item()])
    assert found.masks.shape == (1, 8, 12) and found.masks.sum().item() == 12
    assert found.masks[0, 2:5, 3:7].all()


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
    assert found.masks.shape == (1, 12, 24) and found.masks.all()


def test_nothing_above_the_threshold():
    found = run(torch.tensor([[-9.0, 9.0]]), torch.zeros(1, 8, 12), output=(5, 7))
    assert found.masks.shape == (0, 5, 7) and found.scores.shape == (0,)


def test_chunks_change_nothing(monkeypatch):
    masks, class_logits = torch.randn(7, 4, 6), torch.randn(7, 3)
    whole = run(class_logits, masks, output=(9, 11))
    monkeypatch.setattr("iaunet_d2.networks.inference.CHUNK_PIXELS", 200)
    parts = run(class_logits, masks, output=(9, 11))
    assert torch.equal(whole.masks, parts.masks)
    torch.testing.assert_close(whole.scores, parts.scores)


def test_mask_nms_keeps_other_classes_and_low_overlap():
    masks = torch.zeros(4, 4, 10, dtype=torch.bool)
    masks[0, :, :5] = True
    masks[1, :, :6] = True  # IoU with 0: 20 / 24 = 0.83
    masks[2, :, :5] = True  # the same as 0, another class
    masks[3, :, 4:] = True  # IoU with 0: 4 / 40
    classes = torch.tensor([0, 0, 1, 0])
    assert mask_nms(masks, classes, 0.8).tolist() == [0, 2, 3]
    assert mask_nms(masks, classes, 0.84).tolist() == [0, 1, 2, 3]
    # A suppressed mask suppresses nothing: 1 goes because of 0, and 3 is compared with 0 alone.
    assert mask_nms(masks[:0], classes[:0], 0.8).tolist() == []
