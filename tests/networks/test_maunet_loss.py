"""MAUNet's losses against values worked by hand, torchvision and limits."""

import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from iaunet_d2.networks.maunet import MAUNetOutput
from iaunet_d2.networks.maunet_loss import (
    consistency_loss,
    focal_loss,
    focal_loss_as_published,
    log_probabilities,
    masked_mean,
    one_hot,
    soft_dice_loss,
    supervised_losses,
    weighted_l1_loss,
)

CERTAIN = 40.0  # a logit whose softmax is 1 in single precision


def all_valid(batch, height, width):
    return torch.ones(batch, 1, height, width)


def certain_logits(classes, count):
    """Logits of a network, with a proxy, that is certain of the classes (B, H, W)."""
    logits = one_hot(classes, count) * CERTAIN
    return torch.cat([logits, torch.full_like(logits[:, :1], -CERTAIN)], dim=1)


def test_the_proxy_is_in_the_softmax_and_left_out_after_it():
    logits = torch.randn(2, 4, 3, 5)
    got = log_probabilities(logits).exp()
    assert got.shape == (2, 3, 3, 5)
    assert torch.allclose(got, logits.softmax(1)[:, :3])
    assert torch.allclose(got.sum(1), 1 - logits.softmax(1)[:, 3])


def test_without_the_proxy_it_is_the_softmax_over_the_real_classes():
    logits = torch.randn(1, 4, 2, 2)
    logits[:, 3] = -1e9
    assert torch.allclose(log_probabilities(logits).exp(), logits[:, :3].softmax(1))


def test_a_growing_proxy_takes_the_probability_of_all_real_classes():
    logits = torch.tensor([1.0, 0.5, -0.5, 0.0]).view(1, 4, 1, 1)
    sums = []
    for proxy in (-5.0, 0.0, 5.0, 50.0):
        logits[:, 3] = proxy
        p = log_probabilities(logits).exp()
        sums.append(p.sum().item())
        assert p.flatten().argmax() == 0  # the order of the others stays
    assert sums == sorted(sums, reverse=True)
    assert sums[0] > 0.99 and sums[-1] < 1e-6


def test_the_proxy_is_in_no_target_and_learns_all_the_same():
    logits = torch.zeros(1, 4, 2, 2, requires_grad=True)
    output = MAUNetOutput(logits, torch.zeros(1, 2, 2))
    classes = torch.tensor([[[0, 1], [2, 1]]])
    losses = supervised_losses(output, classes, torch.zeros(1, 2, 2), all_valid(1, 2, 2))
    (losses["loss_dice"] + losses["loss_focal"]).backward()
    # The proxy is right nowhere: its logit is pushed down everywhere.
    assert (logits.grad[:, 3] > 0).all()


def test_dice_by_hand():
    # Two classes, three pixels, of which the last is padding.
    p = torch.tensor([[0.9, 0.4, 0.0], [0.1, 0.6, 1.0]]).view(1, 2, 1, 3)
    t = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 2, 1, 3)
    valid = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 1, 3)
    first = 1 - 2 * 0.9 / (1.3 + 1)
    second = 1 - 2 * 0.6 / (0.7 + 1)
    assert soft_dice_loss(p, t, valid).item() == pytest.approx((first + second) / 2, abs=1e-5)
    # A class that neither has is perfect; one that is predicted in vain costs all.
    nothing = torch.zeros(1, 1, 1, 3)
    assert soft_dice_loss(nothing, nothing, valid).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice_loss(nothing + 1, nothing, valid).item() == pytest.approx(1, abs=1e-4)


def test_focal_by_hand():
    p = torch.tensor([0.8, 0.3]).view(1, 2, 1, 1)
    t = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    want = (0.2**2 * -math.log(0.8) + 0.3**2 * -math.log(0.7)) / 2
    got = focal_loss(p.log(), t, all_valid(1, 1, 1))
    assert got.item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_is_torchvisions_of_the_logits_of_the_probabilities(gamma):
    p = torch.rand(2, 3, 4, 5) * 0.98 + 0.01
    t = (torch.rand(2, 3, 4, 5) > 0.5).float()
    want = sigmoid_focal_loss(p.logit(), t, alpha=-1, gamma=gamma, reduction="mean")
    got = focal_loss(p.log(), t, all_valid(2, 4, 5), gamma)
    assert got.item() == pytest.approx(want.item(), rel=1e-4)


def test_the_published_focal_loss_has_a_floor_and_the_proper_one_has_none():
    classes = torch.tensor([[[0, 1, 2]]])
    targets = one_hot(classes, 3)
    valid = all_valid(1, 1, 3)
    # sigmoid(1) for the right class, sigmoid(0) for the two others.
    right = (1 - 1 / (1 + math.exp(-1))) ** 2 * math.log(1 + math.exp(-1))
    floor = (right + 2 * 0.25 * math.log(2)) / 3
    assert focal_loss_as_published(targets, targets, valid).item() == pytest.approx(floor)
    assert floor == pytest.approx(0.123, abs=5e-4)
    certain = log_probabilities(certain_logits(classes, 3))
    assert focal_loss(certain, targets, valid).item() == pytest.approx(0, abs=1e-6)


def test_a_certain_mistake_costs_much_and_is_finite():
    logits = certain_logits(torch.ones(1, 2, 2, dtype=torch.int64), 3).requires_grad_()
    targets = one_hot(torch.zeros(1, 2, 2, dtype=torch.int64), 3)
    loss = focal_loss(log_probabilities(logits), targets, all_valid(1, 2, 2))
    loss.backward()
    assert 10 < loss.item() < 40 and torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 0] < 0).all()  # towards the right class


def test_weighted_l1_by_hand():
    target = torch.tensor([[[0.0, 0.0, 0.0, 0.5, 1.0, 0.9]]])
    predicted = torch.tensor([[[0.3, 0.0, 0.0, 0.4, 1.2, 0.0]]])
    valid = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]).view(1, 1, 1, 6)
    # 3 pixels of background miss 0.3 together, 2 of the foreground 0.1 + 0.2.
    want = 0.3 / 3.001 + 0.3 / 2.001
    assert weighted_l1_loss(predicted, target, valid).item() == pytest.approx(want, rel=1e-5)


def test_weighted_l1_gives_few_foreground_pixels_the_weight_of_many():
    target = torch.zeros(1, 10, 10)
    target[0, 0, 0] = 1.0
    missed = weighted_l1_loss(torch.zeros(1, 10, 10), target, all_valid(1, 10, 10))
    everywhere = weighted_l1_loss(target + 1.0 * (target == 0), target, all_valid(1, 10, 10))
    assert missed.item() == pytest.approx(everywhere.item(), rel=2e-3)


def test_weighted_l1_without_foreground_is_the_background_s():
    got = weighted_l1_loss(torch.full((2, 3, 3), 0.5), torch.zeros(2, 3, 3), all_valid(2, 3, 3))
    assert got.item() == pytest.approx(0.5, rel=1e-3)


def test_masked_mean_counts_valid_pixels_of_every_channel():
    values = torch.arange(8.0).view(1, 2, 1, 4)
    valid = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 1, 1, 4)
    assert masked_mean(values, valid).item() == (0 + 3 + 4 + 7) / 4
    assert masked_mean(values, valid * 0).item() == 0


def test_consistency_by_hand():
    # One pixel, two classes and the proxy: probabilities 0.7 0.2 0.1 and 0.3 0.6 0.1.
    first = MAUNetOutput(
        torch.tensor([0.7, 0.2, 0.1]).log().view(1, 3, 1, 1), torch.tensor([[[0.9]]])
    )
    second = MAUNetOutput(
        torch.tensor([0.3, 0.6, 0.1]).log().view(1, 3, 1, 1), torch.tensor([[[0.4]]])
    )
    # The second decides for class 1, the first for class 0.
    want = -math.log(0.2) - math.log(0.3) + 0.5**2
    got = consistency_loss(first, second, all_valid(1, 1, 1))
    assert got.item() == pytest.approx(want, rel=1e-5)


def test_consistency_of_identical_certain_networks_is_zero():
    logits = certain_logits(torch.tensor([[[0, 1], [2, 1]]]), 3)
    output = MAUNetOutput(logits, torch.rand(1, 2, 2))
    assert consistency_loss(output, output, all_valid(1, 2, 2)).item() == pytest.approx(0, abs=1e-6)


def test_consistency_decides_among_real_classes_and_does_not_teach_the_teacher():
    # Both prefer the proxy; the decision is class 1.
    logits = [torch.tensor([0.0, 1.0, 5.0]).view(1, 3, 1, 1).requires_grad_() for _ in range(2)]
    first, second = (MAUNetOutput(one, torch.zeros(1, 1, 1)) for one in logits)
    loss = consistency_loss(first, second, all_valid(1, 1, 1))
    want = -2 * math.log(math.exp(1) / (1 + math.exp(1) + math.exp(5)))
    assert loss.item() == pytest.approx(want, rel=1e-5)
    loss.backward()
    # p - one_hot, of its own cross-entropy alone.
    p = logits[0].detach().softmax(1)
    p[0, 1] -= 1
    assert torch.allclose(logits[0].grad, p, atol=1e-6)


def test_perfect_prediction_and_padding():
    classes = torch.tensor([[[0, 1, 2, 1]]])
    distance = torch.tensor([[[0.0, 0.5, 0.7, 1.0]]])
    logits = certain_logits(classes, 3)
    logits[..., 3] = certain_logits(torch.zeros_like(classes), 3)[..., 3]  # wrong, and padding
    valid = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(1, 1, 1, 4)
    predicted = distance.clone()
    predicted[..., 3] = 9
    losses = supervised_losses(MAUNetOutput(logits, predicted), classes, distance, valid)
    assert set(losses) == {"loss_dice", "loss_focal", "loss_distance"}
    assert all(value.item() == pytest.approx(0, abs=1e-5) for value in losses.values())


def test_a_batch_of_none_has_losses_of_zero_with_gradients():
    logits = torch.randn(0, 4, 2, 2, requires_grad=True)
    losses = supervised_losses(
        MAUNetOutput(logits, torch.zeros(0, 2, 2)),
        torch.zeros(0, 2, 2, dtype=torch.int64),
        torch.zeros(0, 2, 2),
        torch.ones(0, 1, 2, 2),
    )
    assert [value.item() for value in losses.values()] == [0, 0, 0]
    sum(losses.values()).backward()
    assert logits.grad is not None
