"""Pixel decoder and query decoder: shapes, switches, padding, and attention against torch's own."""

import itertools
import math

import pytest
import torch
from torch import nn

from iaunet_d2.networks import (
    LevelQueryDecoder,
    MapShape,
    MissingStrideError,
    PyramidPixelDecoder,
    UNetPixelDecoder,
    sine_position_encoding,
)
from iaunet_d2.networks.anchors import spread_points, window_coefficients, with_coordinates
from iaunet_d2.networks.attention import Attention
from iaunet_d2.networks.layers import coordinate_channels
from iaunet_d2.networks.position import sine_encoding_of_points
from iaunet_d2.networks.query_decoder import mask_logits

# Names and order are the backbone's own business: maps are found by their strides.
SHAPES = {
    "coarse": MapShape(10, 32),
    "p2": MapShape(4, 4),
    "stem": MapShape(3, 2),
    "p4": MapShape(8, 16),
    "p3": MapShape(6, 8),
}


def maps(height=64, width=96, batch=2):
    return {
        name: torch.randn(batch, s.channels, height // s.stride, width // s.stride)
        for name, s in SHAPES.items()
    }


def levels_shape(dim=16, levels=3, mask_dim=16):
    shapes = {f"level{i}": MapShape(dim, 4 << (levels - i)) for i in range(levels)}
    return {**shapes, "mask_features": MapShape(mask_dim, 4)}


def query_decoder(num_queries=5, num_classes=1, levels=3, **options):
    sizes = {"hidden_dim": 16, "num_heads": 4, "ffn_dim": 32, **options}
    return LevelQueryDecoder(
        input_shape=levels_shape(levels=levels),
        num_queries=num_queries,
        num_classes=num_classes,
        **sizes,
    )


def test_coordinates_of_a_map_that_is_not_square():
    grid = coordinate_channels(torch.zeros(1, 3, 2, 5))
    assert grid[0, 0].tolist() == [[-1, -0.5, 0, 0.5, 1]] * 2  # x
    assert grid[0, 1].tolist() == [[-1] * 5, [1] * 5]  # y


SWITCHES = [
    {},
    {"mask_branch": False},
    {"coord_conv": False},
    {"se_reduction": 0},
    {"skip": "add"},
    {"skip": "add", "coord_conv": False, "residual": "identity"},
    {"residual": "identity"},
    {"separable": False},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_pixel_decoder_shapes_and_gradients(switches):
    decoder = UNetPixelDecoder(input_shape=SHAPES, hidden_dim=16, **switches)
    check_pixel_decoder(decoder)


def test_a_pyramid_as_pixel_decoder():
    check_pixel_decoder(PyramidPixelDecoder(input_shape=SHAPES, hidden_dim=16))


def check_pixel_decoder(decoder):
    assert decoder.output_shape() == levels_shape()
    inputs = {name: m.requires_grad_() for name, m in maps().items()}
    levels, mask_features = decoder(inputs)
    assert [tuple(x.shape) for x in levels] == [(2, 16, 2, 3), (2, 16, 4, 6), (2, 16, 8, 12)]
    assert mask_features.shape == (2, 16, 16, 24)
    (mask_features.sum() + sum(x.sum() for x in levels)).backward()
    assert all(p.grad is not None for p in decoder.parameters())
    assert all((m.grad is not None) == (name != "stem") for name, m in inputs.items())


def test_a_missing_stride_is_named_with_those_that_there_are():
    shapes = {name: shape for name, shape in SHAPES.items() if name != "p3"}
    with pytest.raises(MissingStrideError, match=r"no map at stride 8.*coarse at 32, p2 at 4"):
        UNetPixelDecoder(input_shape=shapes)


@pytest.mark.parametrize("wrong", [{"skip": "sum"}, {"residual": "none"}])
def test_unknown_switch_names_the_key(wrong):
    with pytest.raises(ValueError, match=f"MODEL.IAUNET.{next(iter(wrong)).upper()}"):
        UNetPixelDecoder(input_shape=SHAPES, hidden_dim=16, **wrong)


def test_position_encoding_by_formula():
    encoding = sine_position_encoding(3, 5, 8)
    assert encoding.shape == (15, 8)
    y, x = 2, 4  # the last position: normalised to 2 pi (almost)
    for offset, index, length in ((0, y, 3), (4, x, 5)):
        angle = (index + 1) / (length + 1e-6) * 2 * math.pi
        expected = [math.sin(angle), math.cos(angle), math.sin(angle / 100), math.cos(angle / 100)]
        got = encoding[y * 5 + x, offset : offset + 4].tolist()
        assert got == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match="HIDDEN_DIM"):
        sine_position_encoding(3, 5, 6)


def test_attention_equals_torch_multihead_attention():
    ours, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat([ours.query.weight, ours.key.weight, ours.value.weight])
        )
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    q, k, v = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    expected, _ = theirs(q, k, v, key_padding_mask=padding)
    torch.testing.assert_close(ours(q, k, v, ~padding[:, None, None]), expected)


def decode(decoder, levels, padding=None):
    return decoder(levels, torch.randn(levels[0].shape[0], 16, 16, 24), padding)


@pytest.mark.parametrize("masked", [False, True])
def test_padded_positions_change_nothing(masked):
    torch.manual_seed(1)
    decoder = query_decoder(5, 2, masked_attention=masked).eval()
    levels = [torch.randn(1, 16, *s) for s in ((2, 3), (4, 6), (8, 12))]
    features = torch.randn(1, 16, 16, 24)
    padding = torch.zeros(1, 64, 96, dtype=torch.bool)
    padding[:, :, 32:] = True  # two thirds of the width
    before = decoder(levels, features, padding)[-1]
    changed = [x.clone() for x in levels]
    for x in changed:
        x[..., x.shape[-1] // 3 :] += 100
    after = decoder(changed, features, padding)[-1]
    torch.testing.assert_close(before.class_logits, after.class_logits)
    unmasked = decoder(changed, features, None)[-1]
    assert not torch.allclose(before.mask_embeddings, unmasked.mask_embeddings)


def test_order_of_blocks_and_number_of_predictions():
    sequential = query_decoder(blocks_per_level=2)
    cycle = query_decoder(blocks_per_level=2, block_order="cycle")
    assert sequential.level_of_block == [0, 0, 1, 1, 2, 2]
    assert cycle.level_of_block == [0, 1, 2, 0, 1, 2]
    levels = [torch.randn(2, 16, *s) for s in ((2, 3), (4, 6), (8, 12))]
    assert len(decode(sequential, levels)) == 6
    assert len(sequential(levels, torch.randn(2, 16, 16, 24), every_block=False)) == 1
    with pytest.raises(ValueError, match="BLOCK_ORDER"):
        query_decoder(block_order="random")


def test_masked_attention_looks_only_inside_the_own_mask():
    level, features = torch.randn(1, 16, 4, 6), torch.randn(1, 16, 16, 24)
    small = nn.functional.interpolate(features, size=(4, 6), mode="bilinear", align_corners=False)
    # One query alone, since self-attention would mix several.
    single = query_decoder(1, levels=1, blocks_per_level=1, masked_attention=True)
    single.eval()
    embedding = single.predict(single.query_features.weight[None]).mask_embeddings
    inside = torch.einsum("bqc,bchw->bqhw", embedding, small)[0, 0] > 0
    assert inside.any() and not inside.all()
    torch.testing.assert_close(
        single([level + 50 * ~inside], features)[-1].mask_embeddings,
        single([level], features)[-1].mask_embeddings,
    )
    assert not torch.allclose(
        single([level + 50 * inside], features)[-1].mask_embeddings,
        single([level], features)[-1].mask_embeddings,
    )


def test_points_are_encoded_as_the_pixels_of_a_map():
    height, width, dim = 5, 7, 16
    rows, columns = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    points = torch.stack([(columns + 1) / (7 + 1e-6), (rows + 1) / (5 + 1e-6)], -1).view(-1, 2)
    encoded = sine_encoding_of_points(points, dim)
    torch.testing.assert_close(encoded, sine_position_encoding(height, width, dim))


@pytest.mark.parametrize("count", [1, 30, 100])
def test_first_places_of_queries_fill_the_image_evenly(count):
    points = spread_points(count)
    assert points.shape == (count, 2) and points.min() >= 0 and points.max() < 1
    distances = torch.cdist(points, points) + 9 * torch.eye(count)
    # A square lattice has the distance 1 / sqrt(n) between neighbours.
    assert count == 1 or distances.min() > 0.5 / count**0.5
    pixels = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    assert torch.cdist(pixels, points).min(1).values.max() < 1.3 / count**0.5


def test_queries_on_a_grid_begin_with_the_features_at_their_places():
    decoder = query_decoder(6, query_init="grid", num_heads=2)
    ramp = torch.arange(12.0).expand(2, 16, 12, 12).clone()  # the column's number everywhere
    ramp[1] *= 3
    queries, position = decoder._first_queries(ramp)
    own = queries - decoder.query_features.weight
    inner = decoder.anchors[:, 0].sub(0.5).abs() < 0.4  # further out, zeros outside are mixed in
    expected = decoder.anchors[:, 0] * 12 - 0.5
    assert inner.sum() >= 3
    torch.testing.assert_close(own[0, inner, 0], expected[inner], atol=1e-4, rtol=0)
    torch.testing.assert_close(own[1, inner, 5], 3 * expected[inner], atol=1e-4, rtol=0)
    assert position.shape == (6, 16)
    learned = query_decoder(6, num_heads=2)
    assert set(learned.state_dict()) == set(decoder.state_dict())
    with pytest.raises(ValueError, match="QUERY_INIT"):
        query_decoder(6, query_init="random")


def test_a_window_is_a_paraboloid_around_its_place():
    anchors = torch.tensor([[0.25, 0.5], [0.8, 0.1]])
    predicted = torch.tensor([[[0.0, 0.0, 0.0], [0.1, -0.2, math.log(2)]]])
    features = with_coordinates(torch.zeros(1, 3, 4, 10))
    assert features.shape == (1, 7, 4, 10) and not features[:, :3].any()
    window = torch.einsum(
        "bqc,bchw->bqhw", window_coefficients(predicted, anchors), features[:, 3:]
    )
    for (y, x), (q, cx, cy, a) in itertools.product(
        [(0, 0), (3, 9), (2, 4)], [(0, 0.25, 0.5, 50), (1, 0.9, -0.1, 100)]
    ):
        expected = -a * (((x + 0.5) / 10 - cx) ** 2 + ((y + 0.5) / 4 - cy) ** 2)
        assert window[0, q, y, x].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_masks_with_a_window_are_local_before_training(masked):
    decoder = query_decoder(9, masked_attention=masked, mask_window=True, num_heads=2)
    levels = [torch.randn(1, 16, s, s) for s in (2, 4, 8)]
    given = torch.randn(1, 16, 16, 16) * 0.1
    prediction, features = decoder(levels, given)[-1], decoder.extend(given)
    logits = mask_logits(prediction.mask_embeddings, features)[0]  # (Q, 16, 16)
    brightest = logits.flatten(1).argmax(1)
    found = torch.stack([brightest % 16 + 0.5, brightest // 16 + 0.5], 1) / 16
    assert (found - decoder.anchors).norm(dim=1).max() < 0.15
    logits.sum().backward()
    assert decoder.window_head.weight.grad.abs().sum() > 0


def test_levels_of_other_channels_are_projected():
    decoder = LevelQueryDecoder(
        input_shape=levels_shape(24, mask_dim=20), hidden_dim=16, num_heads=4, ffn_dim=32
    )
    levels = [torch.randn(2, 24, *s) for s in ((2, 3), (4, 6), (8, 12))]
    last = decoder(levels, torch.randn(2, 20, 16, 24))[-1]
    assert last.mask_embeddings.shape == (2, 100, 20)
    assert not any("projections" in name for name in query_decoder().state_dict())
