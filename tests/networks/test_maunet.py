"""MAUNet's network: its blocks against operations written out, its two decoders, its encoders."""

import pytest
import torch
import torch.nn.functional as F

from iaunet_d2.networks import MAUNetEnsemble, MAUNetwork, TimmPyramid, mean_output, outputs_of
from iaunet_d2.networks.maunet import Decoder, ResidualBlock, UpBlock


def network(strides=(2, 4, 8), **changes):
    torch.manual_seed(changes.pop("seed", 0))
    settings = {"width": 4, **changes}
    backbone = TimmPyramid("resnet18", settings.get("in_channels", 3), strides=strides)
    return MAUNetwork(backbone, last_stride=strides[-1], **settings)


def normed(x):
    mean = x.mean(dim=(2, 3), keepdim=True)
    return (x - mean) / (x.var(dim=(2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()


@pytest.mark.parametrize(("inside", "outside"), [(3, 5), (5, 5)])
def test_a_residual_block_is_the_formula(inside, outside):
    block = ResidualBlock(inside, outside)
    x = torch.randn(2, inside, 7, 9)
    first = F.leaky_relu(normed(F.conv2d(x, block.conv1.weight, padding=1)), 0.01)
    second = normed(F.conv2d(first, block.conv2.weight, padding=1))
    skip = x if inside == outside else normed(F.conv2d(x, block.shortcut[0].weight))
    assert torch.allclose(block(x), F.leaky_relu(second + skip, 0.01), atol=1e-5)
    # No scale, no shift, no bias.
    shapes = [tuple(p.shape) for p in block.parameters()]
    convs = [(outside, inside, 3, 3), (outside, outside, 3, 3)]
    assert shapes == (convs if inside == outside else [*convs, (outside, inside, 1, 1)])


def test_an_up_block_puts_the_skip_behind_the_raised_map():
    block = UpBlock(6, 3)
    x, skip = torch.randn(1, 6, 4, 5), torch.randn(1, 3, 8, 10)
    raised = F.conv_transpose2d(x, block.up.weight, stride=2)
    assert block.up.bias is None
    assert torch.equal(block(x, skip), block.block(torch.cat([raised, skip], 1)))


def test_a_decoder_goes_through_the_widths_backwards():
    decoder = Decoder([24, 24, 48, 96])
    assert [(b.up.in_channels, b.up.out_channels) for b in decoder.blocks] == [
        (96, 48),
        (48, 24),
        (24, 24),
    ]
    skips = [torch.randn(1, w, 32 // 2**i, 16 // 2**i) for i, w in enumerate([24, 24, 48, 96])]
    assert decoder(skips).shape == (1, 24, 32, 16)


def test_widths_double_from_stride_four_on():
    blocks = network((2, 4, 8, 16, 32), width=24).skips
    assert [b.conv1.out_channels for b in blocks] == [24, 24, 48, 96, 192, 384]
    assert [b.conv1.in_channels for b in blocks] == [3, 64, 64, 128, 256, 512]


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("size", [(64, 96), (32, 128)])
def test_output_has_the_image_s_size_and_a_channel_for_the_proxy(classes, size):
    output = network(num_classes=classes, in_channels=2)(torch.randn(2, 2, *size))
    assert output.class_logits.shape == (2, classes + 3, *size)
    assert output.distance.shape == (2, *size)
    assert output.joined().shape == (2, classes + 4, *size)
    assert torch.equal(output.take(slice(1, 2)).joined(), output.joined()[1:])


def test_the_decoders_see_the_same_maps_and_share_no_weights():
    model, images = network().eval(), torch.randn(1, 3, 64, 64)
    before = model(images)
    with torch.no_grad():
        for p in model.class_decoder.parameters():
            p.mul_(-1)
    after = model(images)
    assert torch.equal(before.distance, after.distance)
    assert not torch.allclose(before.class_logits, after.class_logits)
    with torch.no_grad():
        model.skips[0].conv1.weight.mul_(-1)
    changed = model(images)
    assert not torch.allclose(after.distance, changed.distance)
    assert not torch.allclose(after.class_logits, changed.class_logits)


def test_an_ensemble_is_the_mean_of_its_members_logits():
    members = [network(seed=1).eval(), network((2, 4), seed=2).eval()]
    ensemble, images = MAUNetEnsemble(members), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        one, two = (member(images).joined() for member in members)
        assert len(outputs_of(ensemble, images)) == 2
        assert torch.allclose(mean_output(ensemble, images), (one + two) / 2)
        assert torch.equal(mean_output(members[0], images), one)


def values(maps):
    return list(maps.values())


def test_a_backbone_from_the_stem_on_without_its_last_stage():
    backbone = TimmPyramid("resnet18", strides=(2, 4, 8, 16)).eval()
    assert backbone.channels == [64, 64, 128, 256]
    maps = values(backbone(torch.randn(1, 3, 32, 64)))
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 32), (8, 16), (4, 8), (2, 4)]
    assert (maps[0] >= 0).all()  # after the activation
    names = {name.split(".")[1] for name in backbone.state_dict()}
    assert names == {"conv1", "bn1", "layer1", "layer2", "layer3"}
    # The stem's is not the whole network's at another stride.
    whole = TimmPyramid("resnet18").eval()
    shared = {k: v for k, v in whole.state_dict().items() if k in backbone.state_dict()}
    assert len(shared) == len(backbone.state_dict())
    backbone.load_state_dict(shared)
    x = torch.randn(1, 3, 64, 64)
    pairs = zip(values(backbone(x))[1:], values(whole(x))[:3], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_an_encoder_without_stride_two_is_refused_with_its_key():
    with pytest.raises(ValueError, match=r"MODEL\.MAUNET\.ENCODERS 'swin_tiny.*\(2, 4, 8\)"):
        TimmPyramid("swin_tiny_patch4_window7_224", strides=(2, 4, 8), key="MODEL.MAUNET.ENCODERS")
    with pytest.raises(ValueError, match=r"MODEL\.MAUNET\.ENCODERS 'resnet5O' is no model"):
        TimmPyramid("resnet5O", strides=(2, 4), key="MODEL.MAUNET.ENCODERS")
