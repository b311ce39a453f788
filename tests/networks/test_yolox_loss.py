"""The loss of YOLOX against numbers worked by hand."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from iaunet_d2.networks import BoxTarget, yolox_loss
from iaunet_d2.networks.yolox_loss import (
    PriorPredictions,
    YOLOXLoss,
    box_deltas,
    paired_iou,
)

PRIORS = torch.tensor([[4.0, 4.0, 8.0], [12.0, 4.0, 8.0]])
FAR = [100.0, 0.0, 108.0, 8.0]
NOTHING = BoxTarget(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
ONE = BoxTarget(torch.tensor([1]), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
LN2, LN3 = math.log(2), math.log(3)


def softplus(x):
    return math.log(1 + math.exp(x))


def predictions(images=1):
    """The first prior predicts the lower half of ONE's box, the second something far away."""
    boxes = torch.tensor([[[0.0, 4.0, 8.0, 8.0], FAR]] * images)
    deltas = torch.tensor([[[0.25, 0.5, 0.5, -0.25], [9.0] * 4]] * images)
    objectness = torch.tensor([[1.0, -2.0]] * images)
    class_logits = torch.tensor([[[LN3, -LN3], [5.0, 5.0]]] * images)
    return PriorPredictions(
        *(t.requires_grad_() for t in (deltas, boxes, objectness, class_logits))
    )


BOX = 5 * (1 - 0.5**2)
OBJECTNESS = softplus(-1.0) + softplus(-2.0)  # -log of sigmoid(1) and of 1 - sigmoid(-2)
# Probabilities 3/4 and 1/4 for 0 and for the IoU of 1/2.
CLASSES = -math.log(1 / 4) + -(0.5 * math.log(1 / 4) + 0.5 * math.log(3 / 4))
# The centre (4, 4) is half a stride from the corner, the side is one stride: log 1.
L1 = (0.5 - 0.25) + 0.0 + 0.5 + 0.25


def test_one_positive():
    got = YOLOXLoss(num_classes=2)(predictions(), PRIORS, [ONE])
    assert set(got) == {"loss_box", "loss_obj", "loss_cls"}
    assert got["loss_box"].item() == pytest.approx(BOX)
    assert got["loss_obj"].item() == pytest.approx(OBJECTNESS)
    assert got["loss_cls"].item() == pytest.approx(CLASSES)


def test_the_loss_on_centres_and_sides_comes_with_its_weight():
    loss = YOLOXLoss(num_classes=2)
    assert "loss_l1" not in loss(predictions(), PRIORS, [ONE])
    loss.l1_weight = 2.0  # during training
    got = loss(predictions(), PRIORS, [ONE])
    assert got["loss_l1"].item() == pytest.approx(2 * L1)
    assert got["loss_box"].item() == pytest.approx(BOX)


def test_sums_over_a_batch_are_divided_by_its_positives():
    got = YOLOXLoss(num_classes=2)(predictions(3), PRIORS, [ONE, NOTHING, ONE])
    empty = softplus(1.0) + softplus(-2.0)
    assert got["loss_box"].item() == pytest.approx(2 * BOX / 2)
    assert got["loss_obj"].item() == pytest.approx((2 * OBJECTNESS + empty) / 2)
    assert got["loss_cls"].item() == pytest.approx(2 * CLASSES / 2)


def test_positives_are_averaged_over_processes(monkeypatch):
    counts = []

    def four(count, device):
        counts.append(count)
        return torch.tensor(4.0)

    monkeypatch.setattr(yolox_loss, "mean_over_processes", four)
    got = YOLOXLoss(num_classes=2, l1_weight=1.0)(predictions(), PRIORS, [ONE])
    expected = {"loss_box": BOX, "loss_obj": OBJECTNESS, "loss_cls": CLASSES, "loss_l1": L1}
    assert counts == [1]
    assert {k: v.item() for k, v in got.items()} == pytest.approx(
        {k: v / 4 for k, v in expected.items()}
    )


def test_without_any_box_there_is_only_objectness():
    predicted = predictions(2)
    got = YOLOXLoss(num_classes=2, l1_weight=1.0)(predicted, PRIORS, [NOTHING, NOTHING])
    assert got["loss_obj"].item() == pytest.approx(2 * (softplus(1.0) + softplus(-2.0)))
    assert [got[name].item() for name in ("loss_box", "loss_cls", "loss_l1")] == [0.0] * 3
    sum(got.values()).backward()
    for of_none in (predicted.deltas, predicted.boxes, predicted.class_logits):
        assert of_none.grad is not None and not of_none.grad.any()
    assert predicted.objectness.grad.all()


def test_iou_is_a_target_of_the_classes_and_not_learnt_from_them():
    predicted = predictions()
    YOLOXLoss(num_classes=2)(predicted, PRIORS, [ONE])["loss_cls"].backward()
    assert predicted.boxes.grad is None or not predicted.boxes.grad.any()
    # sigmoid - target of the positive prior, nothing of the other.
    expected = torch.tensor([[[3 / 4 - 0, 1 / 4 - 1 / 2], [0.0, 0.0]]])
    torch.testing.assert_close(predicted.class_logits.grad, expected)


def test_the_box_loss_draws_the_box_towards_its_target():
    predicted = predictions()
    YOLOXLoss(num_classes=2)(predicted, PRIORS, [ONE])["loss_box"].backward()
    # With IoU 1/2 the loss changes by -5 d(IoU), and the IoU by -8/64 per pixel of the upper edge.
    # The other edges lie on the target's, where there is no one derivative.
    assert predicted.boxes.grad[0, 0, 1].item() == pytest.approx(5 * 8 / 64)
    assert not predicted.boxes.grad[0, 1].any()


def test_paired_iou_is_torchvision_s_diagonal():
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 200, 2, generator=g) * 10
    boxes = torch.cat([corner, corner + torch.rand(2, 200, 2, generator=g) * 8], dim=2)
    got = paired_iou(boxes[0], boxes[1])
    assert 20 < (got == 0).sum() < 180
    torch.testing.assert_close(got, box_iou(boxes[0], boxes[1]).diagonal())


def test_boxes_without_an_area_have_iou_0_and_finite_gradients():
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]], requires_grad=True)
    iou = paired_iou(point, point.detach())
    iou.sum().backward()
    assert iou.item() == 0.0 and torch.isfinite(point.grad).all()
    assert torch.isfinite(box_deltas(point.detach(), PRIORS[:1])).all()


def test_box_deltas_by_hand():
    # Cell (1, 0) of stride 8: centre (18, 10) lies 1.25 and 1.25 strides from its corner (8, 0).
    got = box_deltas(torch.tensor([[10.0, 8.0, 26.0, 12.0]]), PRIORS[1:])
    torch.testing.assert_close(got, torch.tensor([[1.25, 1.25, LN2, -LN2]]))


def test_the_centre_radius_reaches_the_assignment():
    predicted = predictions()
    tiny = BoxTarget(torch.tensor([0]), torch.tensor([[7.0, 3.0, 7.5, 3.5]]))
    found = [len(YOLOXLoss(2, r).match(predicted, PRIORS, [tiny])[0].priors) for r in (0.1, 2.5)]
    assert found == [0, 1]
