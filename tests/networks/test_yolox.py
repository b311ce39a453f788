"""YOLOX: published sizes, decoding and suppression by hand, precision, gradients."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from iaunet_d2.networks import YOLOX, BoxTarget, YOLOXSettings, fold_batch_norms
from iaunet_d2.networks.csp_darknet import Bottleneck, SpatialPyramidPooling, space_to_depth
from iaunet_d2.networks.yolox import decoded, grid_priors, suppressed
from iaunet_d2.networks.yolox_loss import box_deltas

SMALL = YOLOXSettings(num_classes=2, depth=0.33, width=0.125)
NO_BOX = BoxTarget(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
TWO_BOXES = BoxTarget(torch.tensor([0, 1]), torch.tensor([[4.0, 6, 40, 50], [50.0, 20, 90, 60]]))


def on_meta(settings):
    with torch.device("meta"):
        return YOLOX(settings)


def millions(network):
    return sum(p.numel() for p in network.parameters()) / 1e6


def gmacs(network, side):
    """For a square image: multiplications of the convolutions, and as fvcore counts a BatchNorm in
    evaluation mode, two per value. Nothing is computed.
    """
    norms = 0

    def count(module, inputs, output):
        nonlocal norms
        norms += 2 * output.numel()

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval().raw(torch.zeros(1, 3, side, side, device="meta"))
    return (counter.get_total_flops() / 2 + norms) / 1e9


@pytest.mark.parametrize(
    ("depth", "width", "parameters", "gflops"),
    [
        (0.33, 0.5, 9.0, 26.8),
        (0.67, 0.75, 25.3, 73.8),
        (1.0, 1.0, 54.2, 155.6),
        (1.33, 1.25, 99.07, 281.94),
    ],
)
def test_sizes_of_the_paper(depth, width, parameters, gflops):
    """The YOLOX paper's S, M, L and X: 80 classes at 640 x 640, two FLOPs per MAC."""
    network = on_meta(YOLOXSettings(num_classes=80, depth=depth, width=width))
    assert millions(network) == pytest.approx(parameters, rel=0.005)
    assert 2 * gmacs(network, 640) == pytest.approx(gflops, rel=0.005)


def test_the_detector_of_vsm():
    # Counted beforehand on another implementation of the same description.
    network = on_meta(YOLOXSettings())
    assert millions(network) == pytest.approx(99.00, abs=0.01)
    assert gmacs(network, 1536) == pytest.approx(810.8, rel=0.001)


def test_channels_and_blocks_follow_width_and_depth():
    network = on_meta(YOLOXSettings())
    assert network.backbone.channels == (320, 640, 1280)
    stages = [network.backbone.get_submodule(f"stage{s}")[-1].blocks for s in (4, 8, 16, 32)]
    assert [len(blocks) for blocks in stages] == [4, 12, 12, 4]
    assert [blocks[0].shortcut for blocks in stages] == [True, True, True, False]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert sum(conv.bias is not None for conv in convs) == 9  # the last of each head
    quick = on_meta(dataclasses.replace(SMALL, norm_momentum=0.2))
    assert {m.momentum for m in quick.modules() if isinstance(m, nn.BatchNorm2d)} == {0.2}


def test_priors_begin_as_unlikely():
    for head in YOLOX(SMALL).heads:
        for layer in (head.classes, head.objectness):
            assert layer.bias.detach().tolist() == pytest.approx([-math.log(99)] * len(layer.bias))


def test_space_to_depth_keeps_every_pixel():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    expected = [[[0, 2], [8, 10]], [[4, 6], [12, 14]], [[1, 3], [9, 11]], [[5, 7], [13, 15]]]
    assert space_to_depth(image)[0].tolist() == expected
    two = space_to_depth(torch.stack([image[0, 0], -image[0, 0]])[None])[0, :, 0, 0]
    assert two.tolist() == [0, 0, 4, -4, 1, -1, 5, -5]


@pytest.mark.parametrize("shortcut", [True, False])
def test_a_bottleneck_without_weight_is_its_shortcut(shortcut):
    block = Bottleneck(4, shortcut).eval()
    nn.init.zeros_(block.convs[1][0].weight)
    features = torch.randn(1, 4, 5, 7)
    torch.testing.assert_close(block(features), features * shortcut)


def test_pyramid_pooling_sees_windows_of_5_9_and_13():
    pooling = SpatialPyramidPooling(2).eval()
    pooling.enter, pooling.leave = nn.Identity(), nn.Identity()
    features = torch.zeros(1, 1, 21, 25)
    features[0, 0, 10, 12] = 1.0
    got = pooling(features)[0]
    assert got.sum(dim=(1, 2)).tolist() == [1, 25, 81, 169]
    assert [int(m.any(0).nonzero()[0]) for m in got] == [12, 10, 8, 6]


def test_priors_by_hand():
    got = grid_priors([(1, 2), (2, 1)], (8, 16))
    expected = [[4, 4, 8], [12, 4, 8], [8, 8, 16], [8, 24, 16]]
    assert got.tolist() == expected


def test_decoding_by_hand():
    priors = torch.tensor([[12.0, 20.0, 8.0], [16.0, 16.0, 32.0]])
    deltas = torch.tensor([[0.5, 0.5, math.log(2), 0.0], [-1.0, 0.25, 0.0, -math.log(4)]])
    # Corners of the cells are (8, 16) and (0, 0): centres (12, 20) and (-32, 8).
    expected = [[4.0, 16, 20, 24], [-48.0, 4, -16, 12]]
    torch.testing.assert_close(decoded(deltas, priors), torch.tensor(expected))


def test_deltas_of_a_box_decode_to_it():
    g = torch.Generator().manual_seed(0)
    priors = grid_priors([(4, 6), (2, 3)], (8, 16))
    corner = torch.rand(len(priors), 2, generator=g) * 40
    boxes = torch.cat([corner, corner + 0.5 + torch.rand(len(priors), 2, generator=g) * 50], dim=1)
    torch.testing.assert_close(decoded(box_deltas(boxes, priors), priors), boxes)


@pytest.mark.parametrize("value", [20.0, 6e4, math.inf])
def test_sides_stay_finite(value):
    deltas = torch.zeros(1, 4, requires_grad=True)
    big = deltas + torch.tensor([0.0, 0.0, value, value])
    box = decoded(big, torch.tensor([[16.0, 16.0, 32.0]]))
    area = (box[0, 2] - box[0, 0]) * (box[0, 3] - box[0, 1])
    area.backward()
    assert torch.isfinite(area) and torch.isfinite(deltas.grad).all()


A, B = [10.0, 10, 30, 30], [12.0, 10, 32, 30]  # IoU 18/22 = 0.82
C = [10.0, 10, 30, 22]  # IoU with A 12/20 = 0.6
SIZE = (40, 60)


def detected(boxes, scores, **changes):
    settings = dataclasses.replace(SMALL, **changes)
    return suppressed(torch.tensor(boxes), torch.tensor(scores), SIZE, settings)


def test_the_lower_of_two_alike_goes():
    got = detected([A, B, C], [[0.3, 0.0], [0.9, 0.0], [0.8, 0.0]])
    # A and B have IoU 0.82; B and C 18 * 12 / (400 + 240 - 216) = 0.51.
    assert got.boxes.tolist() == [B, C]
    assert got.scores.tolist() == pytest.approx([0.9, 0.8])
    assert got.labels.tolist() == [0, 0] and got.labels.dtype == torch.int64
    assert len(detected([A, C], [[0.9, 0.0], [0.8, 0.0]], nms_threshold=0.59).scores) == 1
    assert len(detected([A, C], [[0.9, 0.0], [0.8, 0.0]], nms_threshold=0.61).scores) == 2


def test_classes_do_not_suppress_each_other():
    got = detected([A, B], [[0.1, 0.3], [0.9, 0.2]])
    assert got.boxes.tolist() == [B, A] and got.labels.tolist() == [0, 1]


def test_threshold_and_limits():
    scores = [[0.01, 0.0], [0.0099, 0.0]]
    assert detected([A, C], scores).boxes.tolist() == [A]
    apart = [[0.0, 0, 5, 5], [10.0, 0, 15, 5], [20.0, 0, 25, 5]]
    three = [[0.2, 0.0], [0.0, 0.6], [0.4, 0.0]]
    assert detected(apart, three, max_detections=2).scores.tolist() == pytest.approx([0.6, 0.4])
    assert len(detected(apart, three, max_candidates=1).scores) == 1


def test_boxes_end_at_the_image_and_outside_there_are_none():
    boxes = [
        [-5.0, -5, 8, 8],
        [50.0, 30, 99, 99],
        [60.0, 0, 70, 9],
        [-9.0, 2, -1, 5],
        [3, 9, 3, 20],
    ]
    got = detected(boxes, [[0.9 - 0.1 * i, 0.0] for i in range(5)])
    assert got.boxes.tolist() == [[0, 0, 8, 8], [50, 30, 60, 40]]


def test_no_detection_has_the_same_form():
    got = detected([A], [[0.0, 0.0]])
    assert got.boxes.shape == (0, 4) and got.scores.shape == (0,) and got.labels.shape == (0,)
    assert got.labels.dtype == torch.int64


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = YOLOX(dataclasses.replace(SMALL, score_threshold=0.0, max_detections=20))
    for head in network.heads:  # so that predictions differ
        for layer in (head.classes, head.objectness, head.box):
            nn.init.normal_(layer.weight, std=0.3)
    network(torch.rand(4, 3, 64, 96))
    return network.eval()


def test_maps_and_detections_of_an_image_that_is_not_square(network):
    images = torch.rand(2, 3, 64, 96)
    assert [tuple(m.shape) for m in network.raw(images)] == [
        (2, 7, 8, 12),
        (2, 7, 4, 6),
        (2, 7, 2, 3),
    ]
    together = network.predict(images)[0].boxes
    for found, image, boxes in zip(network(images), images, together, strict=True):
        alone = network.predict(image[None])[0].boxes[0]
        torch.testing.assert_close(boxes, alone, rtol=1e-4, atol=1e-3)
        assert len(found.boxes) == 20 and not found.boxes.requires_grad
        assert (found.scores.diff() <= 0).all() and found.scores[0] > 0
        assert (found.boxes[:, :2] >= 0).all() and (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        assert (found.boxes[:, 2:] <= torch.tensor([96.0, 64.0])).all()


def test_a_prediction_comes_from_its_own_cell(network):
    """A map's numbers reach the prior at its place: row by row, level by level."""
    maps = network.raw(images := torch.rand(1, 3, 64, 96))
    predictions, priors = network.predict(images)
    at = priors.tolist().index([11 * 8 + 4, 5 * 8 + 4, 8])
    torch.testing.assert_close(predictions.deltas[0, at], maps[0][0, :4, 5, 11])
    at = priors.tolist().index([1 * 32 + 16, 1 * 32 + 16, 32])
    torch.testing.assert_close(predictions.objectness[0, at], maps[2][0, 4, 1, 1])
    torch.testing.assert_close(predictions.class_logits[0, at], maps[2][0, 5:, 1, 1])


def test_the_score_is_class_times_objectness(network):
    predictions, _ = network.predict(images := torch.rand(1, 3, 64, 96))
    each = predictions.class_logits[0].sigmoid() * predictions.objectness[0].sigmoid()[:, None]
    clipped = predictions.boxes[0].clamp(min=0).minimum(torch.tensor([96.0, 64.0, 96.0, 64.0]))
    seen = (clipped[:, 2:] > clipped[:, :2]).all(1)
    top = each[seen].flatten().argmax()
    found = network(images)[0]
    assert found.scores[0].item() == pytest.approx(each[seen].max().item())
    assert found.labels[0].item() == top.item() % 2
    torch.testing.assert_close(found.boxes[0], clipped[seen][top // 2])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("targets", [[NO_BOX, NO_BOX], [NO_BOX, TWO_BOXES]])
def test_every_parameter_has_a_gradient(training, targets):
    torch.manual_seed(0)
    network = YOLOX(dataclasses.replace(SMALL, l1_weight=1.0)).train(training)
    losses = network.losses(torch.rand(2, 3, 64, 96), targets)
    assert set(losses) == {"loss_box", "loss_obj", "loss_cls", "loss_l1"}
    sum(losses.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_under_autocast_boxes_and_losses_are_in_full_precision(network):
    images = torch.rand(2, 3, 64, 96)
    with torch.autocast("cpu", torch.bfloat16):
        assert network.raw(images)[0].dtype == torch.bfloat16
        found, losses = network(images), network.losses(images, [NO_BOX, TWO_BOXES])
    assert found[0].boxes.dtype == found[0].scores.dtype == torch.float32
    assert all(v.dtype == torch.float32 and torch.isfinite(v) for v in losses.values())


def test_batch_norms_fold_into_their_convolutions(network):
    images = torch.rand(1, 3, 64, 96)
    before, _ = network.predict(images)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert fold_batch_norms(network, images) == norms
    torch.testing.assert_close(network.predict(images)[0].boxes, before.boxes, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("size", [(64, 80), (48, 64)])
def test_sides_must_be_multiples_of_32(network, size):
    with pytest.raises(ValueError, match="multiples of 32"):
        network(torch.rand(1, 3, *size))


@pytest.mark.parametrize("changes", [{"num_classes": 0}, {"depth": 0.0}, {"width": 0.0}])
def test_impossible_settings_are_named(changes):
    with pytest.raises(ValueError, match="YOLOX"):
        YOLOX(dataclasses.replace(SMALL, **changes))
