"""PointRend's branch: subdivision and places of points by hand, heads by what they must ignore."""

import pytest
import torch
import torch.nn.functional as F

from iaunet_d2.networks import PointMaskBranch, PointRendSettings, grid_points, subdivided
from iaunet_d2.networks.mask_branch import Positives
from iaunet_d2.networks.point_rend import PointHead, points_in_boxes

SMALL = PointRendSettings(num_classes=2, coarse_dim=16, point_dim=8, train_points=9)


def test_grid_points_are_pixel_centres_row_by_row():
    assert grid_points(2, 2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert grid_points(1, 2).tolist() == [[0.25, 0.5], [0.75, 0.5]]


def test_points_in_boxes():
    boxes = [torch.tensor([[10.0, 20, 30, 60]]), torch.zeros(0, 4), torch.tensor([[0.0, 0, 40, 8]])]
    points = torch.tensor([[[0.0, 0.0], [0.5, 0.25]], [[1.0, 1.0], [0.25, 0.5]]])
    # 10/100, 20/80; (10 + 10)/100, (20 + 10)/80
    first, none, last = points_in_boxes(boxes, points, (80, 100))
    torch.testing.assert_close(first, torch.tensor([[[0.1, 0.25], [0.2, 0.375]]]))
    torch.testing.assert_close(last, torch.tensor([[[0.4, 0.1], [0.1, 0.05]]]))
    assert none.shape == (0, 2, 2)


def test_one_step_predicts_the_least_certain_pixels_anew():
    logits = torch.tensor([[[4.0, -4.0], [4.0, -4.0]]])
    # Doubled, each row is 4, 2, -2, -4: the two inner columns are the eight nearest to 0.
    asked = []

    def predict(points):
        asked.append(points)
        return torch.full(points.shape[:2], 7.0)

    got = subdivided(logits, predict, 1, 8)
    assert got.tolist() == [[[4.0, 7.0, 7.0, -4.0]] * 4]
    assert sorted(asked[0][0, :, 0].tolist()) == [0.375] * 4 + [0.625] * 4
    # Predictions land where they were asked for.
    xs = subdivided(logits, lambda p: p[..., 0], 1, 16)
    assert torch.equal(xs[0], torch.tensor([[0.125, 0.375, 0.625, 0.875]]).expand(4, -1))
    ys = subdivided(logits, lambda p: p[..., 1], 1, 16)
    assert torch.equal(ys[0].T, torch.tensor([[0.125, 0.375, 0.625, 0.875]]).expand(4, -1))


def test_no_points_are_interpolation():
    logits = torch.randn(2, 7, 7)
    expected = logits[:, None]
    for _ in range(3):
        expected = F.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=False)
    got = subdivided(logits, lambda p: p.new_zeros(p.shape[:2]), 3, 0)
    torch.testing.assert_close(got, expected[:, 0])


def test_the_paper_s_five_steps_ask_four_times():
    # 7 -> 14 (the next step predicts all of 28 x 28 anyway) -> 28 -> 56 -> 112 -> 224
    asked = []

    def predict(points):
        asked.append(points.shape[1])
        return points.new_zeros(points.shape[:2])

    assert subdivided(torch.randn(1, 7, 7), predict, 5, 784).shape == (1, 224, 224)
    assert asked == [784] * 4


def test_the_point_head_reads_the_coarse_prediction_at_every_layer():
    head = PointHead(4, SMALL)
    shapes = [tuple(layer.weight.shape) for layer in (*head.hidden, head.predictor)]
    assert shapes == [(8, 6, 1), (8, 10, 1), (8, 10, 1), (2, 10, 1)]
    fine, coarse = torch.randn(3, 4, 5), torch.randn(3, 2, 5)
    out = head(fine, coarse)
    # Points are independent of each other.
    torch.testing.assert_close(head(fine[..., 2:3], coarse[..., 2:3]), out[..., 2:3])
    with torch.no_grad():
        for layer in head.hidden:
            layer.weight.zero_()
        head.predictor.weight.zero_()
        head.predictor.weight[:, -2:, 0] = torch.eye(2)
    torch.testing.assert_close(head(fine, coarse), coarse)


def test_loss_against_points_worked_out_anew():
    torch.manual_seed(3)
    branch = PointMaskBranch(4, SMALL)
    features = {"0": torch.randn(2, 4, 16, 24)}
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 10:40, 20:50], masks[1, 20:60, 30:90] = True, True
    boxes = torch.tensor([[18.0, 8, 52, 44], [28, 18, 92, 62], [30, 20, 90, 60]])
    positives = [
        Positives(boxes[:0], torch.zeros(0, dtype=torch.int64), masks[:0], torch.zeros(0).long()),
        Positives(boxes, torch.tensor([0, 1, 1]), masks, torch.tensor([0, 1, 1])),
    ]
    # With certain coarse logits and a head that repeats them, the loss is that of the coarse mask
    # at the points; a coarse mask that says "inside" everywhere costs 10 where the truth is out.
    with torch.no_grad():
        for head in (branch.coarse, branch.points):
            for p in head.parameters():
                p.zero_()
        branch.coarse.predictor.bias.fill_(10.0)
        branch.points.predictor.weight[:, -2:, 0] = torch.eye(2)
    losses = branch.losses(features, positives, (64, 96))
    # Coarse: the share of each box outside its instance.
    outside = 1 - torch.tensor([900 / (34 * 36), 2400 / (64 * 44), 1.0])
    assert losses["loss_mask"].item() == pytest.approx(10 * outside.mean().item(), abs=0.35)
    assert 0 < losses["loss_mask_point"].item() < 10
    full = torch.tensor([[20.0, 10, 50, 40]])
    positives[1] = Positives(full, torch.tensor([0]), masks, torch.tensor([0]))
    # A box that its instance fills costs nothing, but at points whose truth is interpolated at
    # the rim (half a pixel of 30) and at the coarse map's border, where sampling fades to 0.
    assert branch.losses(features, positives, (64, 96))["loss_mask"].item() < 0.2


def test_a_batch_without_positives_has_losses_of_zero_and_gradients():
    branch = PointMaskBranch(4, SMALL)
    none = Positives(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 64, 96, dtype=torch.bool),
        torch.zeros(0, dtype=torch.int64),
    )
    losses = branch.losses({"0": torch.randn(1, 4, 16, 24)}, [none], (64, 96))
    assert {name: x.item() for name, x in losses.items()} == {"loss_mask": 0, "loss_mask_point": 0}
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in branch.parameters())


def test_each_image_reads_its_own_features_and_chunks_change_nothing(monkeypatch):
    branch = PointMaskBranch(4, SMALL).eval()
    with torch.no_grad():
        for p in branch.parameters():
            p.normal_(std=0.2)
    features = {"0": torch.randn(2, 4, 16, 24)}
    boxes = [torch.tensor([[5.0, 5, 40, 40], [20, 10, 90, 60]]), torch.tensor([[5.0, 5, 40, 40]])]
    labels = [torch.tensor([1, 0]), torch.tensor([1])]
    first, second = branch.predict(features, boxes, labels, (64, 96))
    assert first.shape == (2, 224, 224) and second.shape == (1, 224, 224)
    assert not torch.allclose(first[0], second[0])
    swapped = {"0": features["0"].flip(0)}
    torch.testing.assert_close(
        branch.predict(swapped, boxes[::-1], labels[::-1], (64, 96))[1], first
    )
    monkeypatch.setattr("iaunet_d2.networks.point_rend.CHUNK_BOXES", 1)
    torch.testing.assert_close(branch.predict(features, boxes, labels, (64, 96))[0], first)
