"""IAUNet v1: activation maps, the asymmetry of the dual path, support queries, padding, shapes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from iaunet_d2.networks import DualPathDecoder, DualPixelDecoder, IAUNetV1Network
from iaunet_d2.networks.dual_path import DualPathBlock
from iaunet_d2.networks.iaunet_v1 import FeatureBranch
from iaunet_d2.networks.instance_activation import (
    InstanceActivation,
    activation_maps,
    weighted_means,
)
from iaunet_d2.networks.maps import map_shapes
from iaunet_d2.networks.query_decoder import Memory

CHANNELS = (4, 6, 8, 10)


class Backbone(nn.Module):
    """Maps of four widths at strides 4 to 32."""

    def output_shape(self):
        return map_shapes(CHANNELS, (4, 8, 16, 32))

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(3, c, s, stride=s) for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
        )

    def forward(self, images):
        maps = [conv(images) for conv in self.convs]
        return dict(zip(self.output_shape(), maps, strict=True))


class Fixed(nn.Module):
    """Takes the place of a part: gives the same whatever comes in."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, *_):
        return self.value


def test_softmax_runs_over_the_pixels_of_each_map():
    logits = torch.log(torch.tensor([[[1.0, 3.0, 4.0], [5.0, 5.0, 10.0]]]))
    expected = [[0.125, 0.375, 0.5], [0.25, 0.25, 0.5]]
    assert activation_maps(logits)[0].numpy() == pytest.approx(np.array(expected), rel=1e-6)
    many = activation_maps(torch.randn(2, 7, 35) * 9)
    torch.testing.assert_close(many.sum(-1), torch.ones(2, 7))


def test_padding_has_no_share_of_a_map():
    logits = torch.log(torch.tensor([[[1.0, 3.0, 4.0], [5.0, 5.0, 10.0]]]))
    allowed = torch.tensor([[[True, True, False]]])
    expected = [[0.25, 0.75, 0], [0.5, 0.5, 0]]
    assert activation_maps(logits, allowed)[0].numpy() == pytest.approx(np.array(expected))


def test_a_query_is_the_weighted_average_of_pixels():
    maps = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])
    pixels = torch.tensor([[[4.0, 0.0, 8.0], [0.0, 4.0, -8.0]]])  # two pixels of three channels
    assert weighted_means(maps, pixels).tolist() == [[[1, 3, -4], [4, 0, 8]]]


def test_a_layer_by_hand():
    """Only the centre of the convolution is set: a map's logit is a product of its own pixel."""
    layer = InstanceActivation(3, 2)
    taps = torch.tensor([[1.0, 0, 0], [0, -2.0, 0.5]])
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.weight[:, :, 1, 1] = taps
    features = torch.randn(2, 3, 2, 5)
    queries, maps = layer(features)
    assert queries.shape == (2, 2, 3) and maps.shape == (2, 2, 2, 5)
    for b in range(2):
        pixels = features[b].flatten(1).T.double().numpy()  # (10, 3)
        for n in range(2):
            weights = np.exp(pixels @ taps[n].double().numpy())
            weights /= weights.sum()
            assert maps[b, n].flatten().detach().numpy() == pytest.approx(weights, rel=1e-5)
            expected = (weights[:, None] * pixels).sum(0)
            assert queries[b, n].detach().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_fine_maps_stay_exact_under_autocast():
    layer = InstanceActivation(4, 3)
    features = 100 + torch.rand(1, 4, 128, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        queries, maps = layer(features)
    assert queries.dtype == maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(1, 3))
    # Nearly uniform at the start: the average of all pixels, which half precision would not give.
    assert (queries - features.mean((2, 3))).abs().max() < 0.05


@pytest.fixture
def dual():
    """A block, and what it works on: 6 queries, 2 x 5 pixels."""
    block = DualPathBlock(8, 2, 16).eval()
    queries, position = torch.randn(2, 6, 8), torch.randn(6, 8)
    instance = Memory.of(torch.randn(2, 8, 2, 5), None)
    return block, queries, position, instance, torch.randn(2, 10, 8)


def changed(memory):
    return replace(memory, features=memory.features + torch.randn_like(memory.features))


def test_mask_features_change_no_query_and_instance_features_do(dual):
    block, queries, position, instance, mask = dual
    before = block(queries, position, instance, mask)
    other_mask = block(queries, position, instance, mask + torch.randn_like(mask))
    assert torch.equal(before[0], other_mask[0]) and torch.equal(before[1], other_mask[1])
    assert not torch.allclose(before[2], other_mask[2], atol=1e-2)
    other_instance = block(queries, position, changed(instance), mask)
    assert not torch.allclose(before[0], other_instance[0], atol=1e-2)
    assert not torch.allclose(before[1], other_instance[1], atol=1e-2)
    assert torch.equal(before[2], other_instance[2])


def test_queries_read_the_instance_features_after_their_update(dual):
    block, queries, position, instance, mask = dual
    got = block(queries, position, instance, mask)[0]
    updated = block.instance_path(instance.features, instance.position, queries, position)
    torch.testing.assert_close(got, block.query_path(queries, position, updated, instance.position))
    from_old = block.query_path(queries, position, instance.features, instance.position)
    assert not torch.allclose(got, from_old, atol=1e-2)
    # With an update that forgets the features, the features do not matter any more.
    block.instance_path = Fixed(updated)
    assert torch.equal(
        block(queries, position, changed(instance), mask)[0],
        block(queries, position, instance, mask)[0],
    )


def test_both_paths_read_the_queries_before_their_update(dual):
    block, queries, position, instance, mask = dual
    _, objects, pixels = block(queries, position, instance, mask)
    block.query_path = Fixed(torch.randn(2, 6, 8))
    again = block(queries, position, instance, mask)
    assert torch.equal(again[1], objects) and torch.equal(again[2], pixels)
    other = block(queries + torch.randn(2, 6, 8), position, instance, mask)
    assert not torch.allclose(other[1], objects, atol=1e-2)
    assert not torch.allclose(other[2], pixels, atol=1e-2)


def test_pixels_attend_to_queries_by_torchs_own_attention(dual):
    block, queries, position, instance, _ = dual
    path, own = block.instance_path, block.instance_path.cross_attention
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([own.query.weight, own.key.weight, own.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([own.query.bias, own.key.bias, own.value.bias]))
        theirs.out_proj.weight.copy_(own.output.weight)
        theirs.out_proj.bias.copy_(own.output.bias)
    change, _ = theirs(instance.features + instance.position, queries + position, queries)
    mixed = path.norms[0](instance.features + change)
    inner = torch.relu(mixed @ path.ffn[0].weight.T + path.ffn[0].bias)
    expected = path.norms[1](mixed + inner @ path.ffn[3].weight.T + path.ffn[3].bias)
    got = path(instance.features, instance.position, queries, position)
    torch.testing.assert_close(got, expected)


def decoder(levels=2, queries=3):
    return DualPathDecoder(8, queries, 2, levels, num_heads=2, ffn_dim=16).eval()


def test_n_queries_at_the_coarsest_level_and_2n_at_the_others():
    net, seen = decoder(levels=3), []
    for block in net.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    support = None
    for level, size in enumerate(((2, 3), (4, 6), (8, 12))):
        features = torch.randn(2, 8, *size)
        state = net.refine(level, features, features, support)
        support = state.queries
        assert support.shape == (2, 3, 8) and support.min() >= 0  # after a ReLU
        assert state.instance.shape == state.mask.shape == features.shape
        assert state.activations.shape == (2, 3, *size)
    assert seen == [3, 6, 6]
    prediction = net.predict(support)
    assert prediction.class_logits.shape == (2, 3, 3)
    assert prediction.mask_embeddings.shape == (2, 3, 8)


def test_the_new_queries_are_kept_and_the_support_ones_dropped():
    net, features = decoder(), torch.randn(1, 8, 4, 6)
    support = torch.randn(1, 3, 8)
    new = net.activations[1](features)[0]

    class Passing(nn.Module):
        def forward(self, queries, position, instance, mask):
            torch.testing.assert_close(queries, torch.cat([new, support], dim=1))
            wide = torch.cat([net.query_positions.weight[3:], net.support_positions.weight])
            assert torch.equal(position, wide)  # level 1's own, then those of support
            return queries, instance.features, mask

    real, net.blocks[1] = net.blocks[1], Passing()
    kept = net.refine(1, features, features, support).queries
    torch.testing.assert_close(kept, net.outputs[1](new))
    net.blocks[1] = real
    one = net.refine(1, features, features, support).queries
    other = net.refine(1, features, features, support + 1 + torch.randn(1, 3, 8)).queries
    assert not torch.allclose(one, other, atol=1e-3)  # support has a say all the same


def test_features_keep_their_places_through_a_level():
    """A level gives (C, h, w) back as it came, which a wrong order of H and W would not."""
    net = decoder()
    net.blocks[0] = Unchanged()
    features = torch.arange(48.0).view(1, 8, 2, 3)
    state = net.refine(0, features, 2 * features)
    assert torch.equal(state.instance, features) and torch.equal(state.mask, 2 * features)


class Unchanged(nn.Module):
    def forward(self, queries, position, instance, mask):
        return queries, instance.features, mask


def test_padded_pixels_change_no_query():
    net = decoder()
    instance, mask = torch.randn(1, 8, 4, 12), torch.randn(1, 8, 4, 12)
    padding = torch.zeros(1, 32, 96, dtype=torch.bool)
    padding[:, :, 48:] = True  # the right half
    other = instance.clone()
    other[..., 7:] += 100 * torch.randn(1, 8, 4, 5)  # out of the convolution's reach
    before, after = (
        net.refine(1, x, mask, torch.ones(1, 3, 8), padding) for x in (instance, other)
    )
    torch.testing.assert_close(before.queries, after.queries)
    assert not before.activations[..., 6:].any()
    torch.testing.assert_close(before.activations.sum((2, 3)), torch.ones(1, 3))
    unmasked = [net.refine(1, x, mask, torch.ones(1, 3, 8)).queries for x in (instance, other)]
    assert not torch.allclose(*unmasked, atol=1e-3)


def test_full_skips_keep_the_backbones_widths():
    net = DualPixelDecoder(CHANNELS, dim=16)
    widths = [level.shortcut.out_channels for level in net.levels]
    entering = [level.shortcut.in_channels for level in net.levels]
    assert widths == [8, 6, 4, 4]
    assert entering == [10 + 2, 8 + 2 + 8, 6 + 2 + 6, 4 + 2 + 4]
    assert [b.block[0].in_channels for b in net.mask_branches] == [8, 6 + 16, 4 + 16, 4 + 16]
    with_coordinates = [b.block[0].in_channels for b in net.instance_branches]
    assert with_coordinates == [10, 8 + 16, 6 + 16, 6 + 16]
    plain = DualPixelDecoder(CHANNELS, dim=16, se_reduction=0, coord_conv=False)
    assert plain.instance_branches[0].block[0].in_channels == 8
    assert isinstance(plain.levels[0].se, nn.Identity)


def test_a_branch_concatenates_coordinates_main_and_coarser_features():
    branch = FeatureBranch(1, 1, coarsest=False, coord_conv=True)
    main = torch.full((1, 1, 2, 3), 5.0)
    coarser = torch.full((1, 1, 1, 1), 7.0)
    entered = []
    branch.block[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    branch(main, coarser)
    x, y, own, raised = entered[0][0]
    assert x.tolist() == [[-1, 0, 1]] * 2 and y.tolist() == [[-1] * 3, [1] * 3]
    assert (own == 5).all() and (raised == 7).all()


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 32)])
def test_the_network_on_images_of_any_shape(size):
    net = IAUNetV1Network(Backbone(), DualPixelDecoder(CHANNELS, 8), decoder(levels=4))
    out = net(torch.randn(2, 3, *size))
    height, width = size
    assert [tuple(a.shape) for a in out.activations] == [
        (2, 3, height // s, width // s) for s in (32, 16, 8, 4)
    ]
    for maps in out.activations:
        torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 3))
    assert len(out.predictions) == 1 and out.masks().shape == (2, 3, height // 4, width // 4)
    (out.masks().sum() + out.predictions[0].class_logits.sum()).backward()
    assert all(p.grad is not None for p in net.parameters())
