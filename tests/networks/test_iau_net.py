"""IAU-net's own parts: focal Tversky loss, gates and deformable layer, by hand and by limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import DeformConv2d

from iaunet_d2.networks import (
    AttentionUNet,
    TimmPyramid,
    focal_tversky_loss,
    fold_batch_norms,
)
from iaunet_d2.networks.attention_gate import LiteralGate, OktayGate, build_gate
from iaunet_d2.networks.iau_net import DeformableConv, ResidualUnit
from iaunet_d2.networks.tversky import tversky_index


def probabilities_of(classes, num_classes):
    """Certain probabilities (B, C, H, W) of the classes (B, H, W)."""
    return F.one_hot(classes, num_classes).movedim(-1, 1).float()


@pytest.fixture
def classes():
    return torch.arange(2 * 6 * 8).view(2, 6, 8) % 3


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_everything(classes):
    assert focal_tversky_loss(probabilities_of(classes, 3), classes) < 1e-5
    wrong = probabilities_of((classes + 1) % 3, 3)
    assert focal_tversky_loss(wrong, classes) == pytest.approx(1, abs=1e-5)


def test_a_value_by_hand():
    # One object class over four pixels: TP = .9 + .6, FN = .1 + .4, FP = .2 + 0.
    p = torch.tensor([0.9, 0.6, 0.2, 0.0]).view(1, 1, 2, 2)
    g = torch.tensor([1, 1, 0, 0]).view(1, 2, 2)
    index = 1.5 / (1.5 + 0.3 * 0.2 + 0.7 * 0.5)
    assert tversky_index(p, g[:, None] == 1, 0.3).item() == pytest.approx(index, rel=1e-5)
    loss = focal_tversky_loss(torch.cat([1 - p, p], dim=1), g)
    assert loss.item() == pytest.approx((1 - index) ** 0.75, rel=1e-5)
    # alpha is the weight of false positives.
    index = 1.5 / (1.5 + 0.8 * 0.2 + 0.2 * 0.5)
    assert tversky_index(p, g[:, None] == 1, 0.8).item() == pytest.approx(index, rel=1e-5)


def test_sums_are_over_the_batch_and_means_over_the_classes(classes):
    p = torch.rand(2, 3, 6, 8).softmax(1)
    one_image = torch.cat(list(p), dim=2)[None]  # the two images side by side
    expected = focal_tversky_loss(one_image, torch.cat(list(classes), dim=1)[None])
    torch.testing.assert_close(focal_tversky_loss(p, classes), expected)
    per_class = [
        focal_tversky_loss(torch.stack([1 - p[:, c], p[:, c]], dim=1), (classes == c).long())
        for c in (1, 2)  # the background, 0, has no part
    ]
    torch.testing.assert_close(expected, sum(per_class) / 2)


def test_with_equal_weights_and_no_focus_it_is_the_dice_loss(classes):
    p = torch.rand(2, 3, 6, 8).softmax(1)
    g = probabilities_of(classes, 3)
    dice = 2 * (p * g).sum((0, 2, 3)) / (p.sum((0, 2, 3)) + g.sum((0, 2, 3)))
    loss = focal_tversky_loss(p, classes, alpha=0.5, gamma=1)
    torch.testing.assert_close(loss, 1 - dice[1:].mean())


def test_a_larger_gamma_punishes_more(classes):
    p = torch.rand(2, 3, 6, 8).softmax(1)
    losses = [focal_tversky_loss(p, classes, gamma=g).item() for g in (0.5, 1, 4 / 3, 2, 3)]
    assert losses == sorted(losses) and len(set(losses)) == 5


@pytest.mark.parametrize("found", ["perfect", "nothing there", "all of it wrong"])
def test_the_gradient_is_finite_at_the_ends(classes, found):
    if found == "nothing there":
        classes = torch.zeros_like(classes)
    p = probabilities_of(classes if found != "all of it wrong" else (classes + 1) % 3, 3)
    p.requires_grad_()
    loss = focal_tversky_loss(p, classes)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(p.grad).all()


def test_the_literal_gate_is_equation_2():
    gate = LiteralGate(4)
    x, g = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 5, 6)
    decoder, skip = gate(x, g)
    wx, wg = gate.of_decoder, gate.of_skip
    inner = torch.einsum("oi,bihw->bohw", wx.weight[:, :, 0, 0], x)
    inner = inner + torch.einsum("oi,bihw->bohw", wg.weight[:, :, 0, 0], g)
    expected = (1 + (inner + wx.bias[:, None, None]).sigmoid()) * x
    torch.testing.assert_close(decoder, expected)
    assert skip is g and wg.bias is None


@pytest.mark.parametrize("scale", [0.1, 10.0, 1e3])
def test_factors_of_the_gates_stay_in_their_range(scale):
    x, g = scale * torch.randn(2, 4, 5, 6), scale * torch.randn(2, 4, 5, 6)
    literal, oktay = LiteralGate(4).factor(x, g), OktayGate(4).factor(x, g)
    assert literal.shape == x.shape and literal.min() >= 1 and literal.max() <= 2
    assert oktay.shape == (2, 1, 5, 6) and oktay.min() >= 0 and oktay.max() <= 1


def test_oktay_s_gate_by_hand_acts_on_the_skip():
    gate = OktayGate(2)
    with torch.no_grad():
        gate.of_decoder.weight.copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
        gate.of_skip.weight.copy_(torch.tensor([2.0, 0.0]).view(1, 2, 1, 1))
        gate.of_decoder.bias.fill_(0.5)
        gate.psi.weight.fill_(-3.0)
        gate.psi.bias.fill_(1.0)
    x = torch.tensor([[3.0, 0.0], [1.0, 5.0]]).view(1, 2, 1, 2)  # decoder: (3, 1) and (0, 5)
    g = torch.tensor([[1.0, 0.5], [7.0, 8.0]]).view(1, 2, 1, 2)  # skip: (1, 7) and (0.5, 8)
    # 3 - 1 + 2 + .5 = 4.5 and -5 + 1 + .5 < 0; times -3, plus 1.
    factors = [1 / (1 + math.exp(12.5)), 1 / (1 + math.exp(-1))]
    decoder, skip = gate(x, g)
    assert decoder is x
    torch.testing.assert_close(skip, g * torch.tensor(factors))


def test_a_gate_of_no_known_name():
    with pytest.raises(ValueError, match=r"'soft' is unknown.*'literal', 'oktay', 'none'"):
        build_gate("soft", 4)
    x, g = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    assert build_gate("none", 4)(x, g) == (x, g)


def test_at_first_the_deformable_layer_is_a_plain_one():
    network = AttentionUNet(1, 2, (4, 8))
    layer = network.decoder[-1].unit.body[3]
    assert isinstance(layer, DeformableConv)
    assert not any(p.any() for p in layer.offsets.parameters())
    features = torch.randn(2, 4, 7, 9)
    plain = F.conv2d(features, layer.conv.weight, padding=1)
    torch.testing.assert_close(layer(features), plain)
    last = torch.channels_last  # the layout that models are trained in
    layer.to(memory_format=last)
    torch.testing.assert_close(layer(features.contiguous(memory_format=last)), plain)
    # Only there, and only on request.
    assert sum(isinstance(m, DeformConv2d) for m in network.modules()) == 1
    without = AttentionUNet(1, 2, (4, 8), deformable=False)
    assert not any(isinstance(m, DeformConv2d) for m in without.modules())


def test_offsets_move_what_is_read():
    layer = DeformableConv(2, 3)
    with torch.no_grad():
        layer.offsets.bias.zero_()
        layer.offsets.weight.zero_()
        layer.offsets.bias[0::2] = 1.0  # every tap reads one row further down
        features = torch.randn(1, 2, 8, 6)
        plain = F.conv2d(features, layer.conv.weight, padding=1)
        torch.testing.assert_close(layer(features)[..., :-1, :], plain[..., 1:, :])
    layer(features).square().sum().backward()
    assert layer.offsets.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_offsets_that_are_no_numbers_are_not_read_at(broken):
    layer = DeformableConv(2, 3)

    def finite(module, arguments):  # with others the kernel ends the process
        assert torch.isfinite(arguments[1]).all()

    layer.conv.register_forward_pre_hook(finite)
    features = torch.randn(1, 2, 8, 6)
    features[0, 1, 4, 3] = broken
    got = layer(features)
    assert not torch.isfinite(got[0, :, 3:6, 2:5]).any()  # a loss of it is no number, either
    assert torch.isfinite(got[0, :, 6:]).all()


def test_a_residual_unit_is_what_it_says():
    unit = ResidualUnit(3, 5).eval()
    features = torch.randn(2, 3, 6, 7)
    body = [m for m in unit.body if isinstance(m, nn.Conv2d)]
    assert [tuple(c.weight.shape) for c in body] == [(5, 3, 3, 3), (5, 5, 3, 3)]
    inner = F.conv2d(features, body[0].weight, padding=1).relu()
    expected = F.conv2d(inner, body[1].weight, padding=1) / math.sqrt(1 + 1e-5)
    # Norms start as the identity but for their epsilon.
    shortcut = F.conv2d(features, unit.shortcut[0].weight) / math.sqrt(1 + 1e-5)
    expected = expected / math.sqrt(1 + 1e-5) + shortcut
    torch.testing.assert_close(unit(features), expected.relu(), rtol=1e-4, atol=1e-5)
    assert isinstance(ResidualUnit(5, 5).shortcut, nn.Identity)


@pytest.mark.parametrize("gate", ["literal", "oktay", "none"])
def test_every_parameter_learns(gate):
    network = AttentionUNet(2, 3, (4, 6, 8), gate)
    with torch.no_grad():  # offsets of exactly 0 and 1 have gradients, too
        network.decoder[-1].unit.body[3].offsets.bias.uniform_(-0.4, 0.4)
    logits = network(torch.randn(2, 2, 16, 24))
    assert logits.shape == (2, 3, 16, 24)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_backbone_is_the_encoder_from_stride_two_on():
    torch.manual_seed(0)
    backbone = TimmPyramid("resnet10t", 2, strides=(2, 4, 8))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    network = AttentionUNet(2, 3, (4, 1, 1, 1), backbone=backbone)
    after = network.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    channels = [4, *backbone.channels]
    assert [level.upsample.in_channels for level in network.decoder] == channels[:0:-1]
    assert [level.upsample.out_channels for level in network.decoder] == channels[-2::-1]
    seen = []
    backbone.register_forward_hook(lambda _, images, maps: seen.extend([*images, *maps.values()]))
    images = torch.randn(2, 2, 32, 48)
    logits = network(images)
    assert logits.shape == (2, 3, 32, 48) and seen[0] is images
    assert [m.shape[-1] for m in seen[1:]] == [24, 12, 6]
    logits.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    with pytest.raises(ValueError, match=r"no map at stride 16; .*\(2, 4, 8, 16\)"):
        AttentionUNet(2, 3, (4, 8, 8, 8, 8), backbone=backbone)


def test_a_backbone_without_stride_two_gets_a_convolution_of_the_image():
    backbone = TimmPyramid("resnet10t", 2, strides=(4, 8))
    network = AttentionUNet(2, 3, (4, 1, 1, 1), backbone=backbone)
    assert network.maps.channels == [64, *backbone.channels]
    assert network(torch.randn(2, 2, 32, 48)).shape == (2, 3, 32, 48)
    whole = AttentionUNet(2, 3, (4, 1, 1), backbone=TimmPyramid("resnet10t", 2, strides=(2, 4)))
    assert not any(name.startswith("maps") for name in whole.state_dict())


def test_half_precision_keeps_the_offsets():
    network = AttentionUNet(1, 2, (4, 8)).eval()
    images = torch.randn(1, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(images)
    torch.testing.assert_close(logits.float(), network(images), rtol=0.1, atol=0.1)


def test_folded_norms_give_the_same():
    network = AttentionUNet(1, 2, (4, 8))
    for _ in range(3):
        network(torch.randn(4, 1, 16, 16))
    network.eval()
    images = torch.randn(1, 1, 16, 16)
    before = network(images)
    # Three units of two; the shortcuts of three; the one after the deformable layer stays.
    assert fold_batch_norms(network, images) == 8
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-5)


def test_sizes_that_do_not_fit():
    network = AttentionUNet(1, 2, (4, 8, 8))
    with pytest.raises(ValueError, match=r"18 x 16 pixels.*multiples of 4"):
        network(torch.zeros(1, 1, 18, 16))
    with pytest.raises(ValueError, match="two levels or more"):
        AttentionUNet(1, 2, (4,))
