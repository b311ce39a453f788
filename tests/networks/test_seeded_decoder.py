"""Seeded queries: local attention by brute force, places that move along, losses by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from iaunet_d2.networks import (
    MapShape,
    Match,
    SeededCriterion,
    SeededDecoder,
    SeedTarget,
    Target,
    mask_logits,
)
from iaunet_d2.networks.local_attention import LocalAttention
from iaunet_d2.networks.points import points_around
from iaunet_d2.networks.position import sine_encoding_of_points
from iaunet_d2.networks.seeded_criterion import boxes_around, heat_loss, mask_quality, outside
from iaunet_d2.networks.seeded_decoder import Seeds

SHAPES = {
    **{f"level{i}": MapShape(16, 32 >> i) for i in range(3)},
    "mask_features": MapShape(12, 4),
}


def decoder(**changes):
    torch.manual_seed(0)
    sizes = {"hidden_dim": 16, "num_heads": 2, "ffn_dim": 32, "side": 3, "train_queries": 6}
    return SeededDecoder(input_shape=SHAPES, **{**sizes, **changes})


def maps(height=64, width=96, batch=2):
    torch.manual_seed(1)
    levels = [torch.randn(batch, 16, height // s, width // s) for s in (32, 16, 8)]
    return levels, torch.randn(batch, 12, height // 4, width // 4)


def seeds_at(places, height=16, width=24, size=2):
    heat = torch.zeros(height, width)
    for x, y in places:
        heat[int(y) // 4, int(x) // 4] = 1
    return SeedTarget(heat, torch.tensor(places, dtype=torch.float32).view(-1, 1, 2))


def test_local_attention_by_brute_force():
    torch.manual_seed(0)
    attention = LocalAttention(8, 2, side=3)
    features, queries = torch.randn(1, 8, 5, 6), torch.randn(1, 2, 8)
    # In pixel (2, 1) of the map, and in the corner, around which five places lie outside.
    anchors = torch.tensor([[[2.5 * 16, 1.9 * 16], [0.5 * 16, 0.2 * 16]]])
    got = attention(queries, features, anchors, 16)
    for query, (column, row) in enumerate(((2, 1), (0, 0))):
        keys, values = [], []
        for dy, dx in ((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
            y, x = row + dy, column + dx
            if 0 <= y < 5 and 0 <= x < 6:
                pixel = attention.key_value(features[0, :, y, x])
                offset = torch.tensor([[x + 0.5, y + 0.5]]) - anchors[0, query] / 16
                code = sine_encoding_of_points((offset + 1.5) / 3, 8)[0]
                keys.append(pixel[:8] + attention.place(code))
                values.append(pixel[8:])
        q = attention.query(queries[0, query]).view(2, 4)
        k, v = torch.stack(keys).view(-1, 2, 4), torch.stack(values).view(-1, 2, 4)
        weights = (torch.einsum("hd,khd->hk", q, k) / 2).softmax(-1)
        mixed = torch.einsum("hk,khd->hd", weights, v).flatten()
        torch.testing.assert_close(got[0, query], attention.output(mixed), atol=1e-5, rtol=1e-4)


def test_a_cell_gives_the_same_query_wherever_it_lies():
    net = decoder().eval()
    levels, features = maps(256, 256, batch=1)
    shift = 64  # two pixels of the coarsest level
    inner = [x[..., 2 << i :, 2 << i :] for i, x in enumerate(levels)]
    cut = features[..., shift // 4 :, shift // 4 :]
    place = [(158.0, 174.0)]
    whole = net(levels, features, None, True, [seeds_at(place, 64, 64)])
    part = net(inner, cut, None, True, [seeds_at([(158.0 - shift, 174.0 - shift)], 48, 48)])
    for one, other in zip(whole, part, strict=True):
        masks = mask_logits(one.teacher_embeddings, net.extend(features))
        again = mask_logits(other.teacher_embeddings, net.extend(cut))
        torch.testing.assert_close(
            masks[..., shift // 2 :, shift // 2 :], again, atol=1e-3, rtol=1e-3
        )


def test_teachers_and_queries_do_not_see_each_other():
    net = decoder()
    levels, features = maps()
    given = [seeds_at([(20, 20), (60, 40)]), seeds_at([(50, 30)])]
    moved = [seeds_at([(70, 50), (10, 40)]), seeds_at([(80, 10)])]
    first, second = (net(levels, features, None, True, s)[-1] for s in (given, moved))
    torch.testing.assert_close(first.class_logits, second.class_logits)
    torch.testing.assert_close(first.mask_embeddings, second.mask_embeddings)
    assert not torch.allclose(first.teacher_embeddings, second.teacher_embeddings)
    assert first.seeds.taught.tolist() == [[0, 1], [0, -1]]
    assert first.teacher_embeddings.shape == (2, 2, 32 + 11)


def test_what_fills_the_batch_up_is_nothing_and_changes_nothing():
    net = decoder(threshold=0.5).eval()
    levels, features = maps()
    with torch.no_grad():
        net.selection.heat[-1].bias.fill_(0.05)
        both = net(levels, features, None, False)[-1]
        counts = both.seeds.valid.sum(1)
        assert counts[0] != counts[1]
        for image in range(2):
            alone = net(
                [x[image : image + 1] for x in levels],
                features[image : image + 1],
                None,
                False,
            )[-1]
            own = both.seeds.valid[image]
            assert alone.seeds.valid.all() and len(alone.class_logits[0]) == counts[image]
            torch.testing.assert_close(
                both.class_logits[image][own], alone.class_logits[0], atol=1e-5, rtol=1e-4
            )
            torch.testing.assert_close(
                both.mask_embeddings[image][own], alone.mask_embeddings[0], atol=1e-4, rtol=1e-4
            )
            rest = both.class_logits[image][~own].softmax(-1)
            assert (rest[:, -1] == 1).all() and not rest[:, :-1].any()


def test_there_are_as_many_queries_as_cells_whatever_it_was_trained_with():
    net = decoder(train_queries=6, max_queries=700).eval()
    levels, features = maps(480, 512, batch=1)
    spots = torch.full((1, 120, 128), -9.0)
    spots[:, 2::4, 2::4] = 9.0  # 30 x 32 of them

    class Planted(torch.nn.Module):
        def forward(self, features):
            return spots[:, None]

    net.selection.heat = Planted()
    found = net(levels, features, None, False)[-1]
    assert found.class_logits.shape[1] == 700 and found.seeds.valid.all()
    net.max_queries = 2000
    assert net(levels, features, None, False)[-1].class_logits.shape[1] == 960


def test_no_query_begins_in_padding():
    net = decoder(threshold=0.0).eval()
    levels, features = maps()
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, :, 40:] = True
    seeds = net(levels, features, padding, False)[-1].seeds
    assert (seeds.anchors[1][seeds.valid[1]][:, 0] < 40).all()
    assert (seeds.anchors[0][seeds.valid[0]][:, 0] > 40).any()


def test_queries_in_training_are_more_than_instances():
    net = decoder(train_queries=2)
    levels, features = maps(batch=1)
    places = [(8 * i + 2, 8 * j + 2) for i in range(12) for j in range(2)]
    seeds = net(levels, features, None, True, [seeds_at(places)])[-1].seeds
    assert seeds.anchors.shape[1] == 36


def square(x, y, side=12, height=64, width=96):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_outside_and_heat_by_hand():
    masks = torch.stack([square(10, 20), square(50, 20)])
    anchors = torch.tensor([[14.0, 22.0], [50.0, 31.5], [95.9, 63.9]])
    assert outside(anchors, masks).tolist() == [[0, 1], [1, 0], [1, 1]]
    heat = torch.tensor([[[0.0, math.log(3)], [-math.log(3), 0.0]]])
    wanted = SeedTarget(torch.tensor([[1.0, 0.75], [0.0, 0.0]]), torch.zeros(2, 1, 2))
    seeds = Seeds(torch.zeros(1, 1, 2), torch.ones(1, 1) > 0, heat, [wanted], torch.zeros(1, 0))
    # p is 1/2, 3/4, 1/4, 1/2; what is right costs nothing, the rest is -log times the square.
    expected = (2 * math.log(2) / 4 + math.log(4 / 3) / 16) / 2
    targets = [Target(torch.zeros(2, dtype=torch.int64), masks)]
    assert heat_loss(seeds, targets).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("counts", [(2, 1), (1, 0), (0, 0)])
@pytest.mark.parametrize("teachers", [0, 1, 2])
def test_losses_reach_every_parameter(counts, teachers):
    net, criterion = decoder(), SeededCriterion(num_points=64, matcher_points=64)
    levels, features = maps()
    masks = [torch.stack([square(8 + 30 * i, 20) for i in range(2)])[:n] for n in counts]
    targets = [
        Target(torch.zeros(n, dtype=torch.int64), m) for n, m in zip(counts, masks, strict=True)
    ]
    seeds = [
        SeedTarget(
            torch.zeros(16, 24),
            torch.tensor([[14.0 + 30 * i, 26.0] for i in range(n)])
            .view(n, 1, 2)
            .repeat(1, teachers, 1),
        )
        for n in counts
    ]
    predictions = net(levels, features, None, True, seeds)
    losses = criterion(predictions, net.extend(features), targets)
    taught = teachers > 0 and sum(counts) > 0
    assert ("loss_teacher_mask" in losses) == taught and "loss_heat" in losses
    assert all(torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_a_query_takes_the_instance_that_it_begins_in():
    net, criterion = decoder(), SeededCriterion(num_points=64, matcher_points=64)
    levels, features = maps(batch=1)
    prediction = net(levels, features, None, True, [seeds_at([(14, 26)])])[-1]
    features = net.extend(features)
    masks = torch.stack([square(8, 20), square(50, 40)])
    target = Target(torch.zeros(2, dtype=torch.int64), masks)
    seeds = prediction.seeds
    seeds.anchors[0, 0], seeds.anchors[0, 1] = torch.tensor([55.0, 45.0]), torch.tensor([9.0, 21.0])
    seeds.anchors[0, 2:] = 1.0
    match = criterion.match(
        prediction.class_logits[None], prediction.mask_embeddings[None], features, [target], seeds
    )[0]
    assert match.targets.tolist() == [[0, 1]] and match.queries.tolist() == [[1, 0]]


def test_windows_stay_exact_in_half_precision():
    net = decoder().eval()
    levels, features = maps(batch=1)
    with torch.autocast("cpu", torch.bfloat16):
        extended = net.extend(features.bfloat16())
        last = net(levels, features.bfloat16(), None, True, [seeds_at([(20, 20)])])[-1]
    assert extended.dtype == last.mask_embeddings.dtype == torch.float32
    coefficients = last.teacher_embeddings[..., 32:]
    exact = net(levels, features, None, True, [seeds_at([(20, 20)])])[-1]
    x, y = torch.tensor([18.0, 22.0]) / 32, torch.tensor([20.0, 20.0]) / 32
    place = torch.stack([x, y, x * x, x * y, y * y])
    at = torch.cat([place, place, torch.ones(1, 2)])  # untrained, a pixel votes for itself
    logits, expected = (c[0, 0] @ at for c in (coefficients, exact.teacher_embeddings[..., 32:]))
    torch.testing.assert_close(logits, expected, atol=0.05, rtol=0.05)
    assert not F.relu(-logits).any()  # both places are inside


def test_the_quality_loss_by_hand():
    criterion = SeededCriterion(class_loss="quality")
    seeds = Seeds(
        torch.zeros(1, 3, 2),
        torch.tensor([[True, True, False]]),
        torch.zeros(1, 1, 1),
        None,
        torch.zeros(1, 0),
    )
    # Probabilities 3/4 and 1/4; the third fills up.
    logits = torch.tensor([[[[math.log(3), 0.0], [-math.log(3), 0.0], [9.0, 0.0]]]])
    match = Match(torch.tensor([[0]]), torch.tensor([[0]]))
    target = Target(torch.zeros(1, dtype=torch.int64), torch.ones(1, 4, 4, dtype=torch.bool))
    quality = [torch.tensor([[0.5]])]
    got = criterion._quality_loss(logits, quality, [match], [target], seeds)
    matched = -(math.log(0.75) + math.log(0.25)) / 2 * 0.25**2
    other = -math.log(0.75) * 0.25**2
    assert got.tolist() == [pytest.approx(matched + other, rel=1e-5)]


def test_mask_quality_is_the_iou():
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, :, :4] = True
    target = Target(torch.zeros(1, dtype=torch.int64), masks)
    features = torch.full((1, 1, 4, 4), -1.0)
    features[..., 1:3] = 1  # columns 2 to 5 of 8: a third of the union
    match = Match(torch.tensor([[0]]), torch.tensor([[0]]))
    got = mask_quality(torch.ones(1, 1, 1, 1), features, [match], [target])
    assert got[0].tolist() == [[pytest.approx(1 / 3)]]


def test_points_lie_around_the_instance():
    masks = torch.zeros(3, 100, 200, dtype=torch.bool)
    masks[0, 40:60, 20:60] = True
    masks[1, :, 190:] = True
    boxes = boxes_around(masks)  # a quarter and 8 pixels: 18 and 13; cut at the border; nothing
    expected = torch.tensor(
        [[2 / 200, 0.27, 78 / 200, 0.73], [179.5 / 200, 0, 1, 1], [0, 0, 1, 1.0]]
    )
    torch.testing.assert_close(boxes, expected)
    torch.manual_seed(0)
    logits = torch.full((3, 25, 50), 5.0)
    logits[:, :, 10] = 0.1  # uncertain in this column alone
    points = points_around(logits, boxes, 100, 3.0, 0.5)
    assert points.shape == (3, 100, 2)
    near = points[0, :75]  # all but the last quarter lie in the box
    assert ((near >= expected[0, :2]) & (near <= expected[0, 2:])).all()
    assert (near[:10, 0] * 50 - 10.5).abs().max() < 5 and points[0, 75:, 0].max() > 0.5


@pytest.mark.parametrize("options", [{"class_loss": "quality"}, {"local_points": True}])
def test_other_losses_reach_every_parameter(options):
    net, criterion = decoder(), SeededCriterion(num_points=64, matcher_points=64, **options)
    levels, features = maps(batch=1)
    target = Target(torch.zeros(1, dtype=torch.int64), square(8, 20)[None])
    predictions = net(levels, features, None, True, [seeds_at([(14, 26)])])
    losses = criterion(predictions, net.extend(features), [target])
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
