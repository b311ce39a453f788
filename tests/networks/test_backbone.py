"""timm backbones: strides, channels, any size divisible by 32, weights."""

import pytest
import torch

from iaunet_d2.networks import BackboneWeightsError, TimmPyramid


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", [64, 128, 256, 512]),
        ("swin_tiny_patch4_window7_224", [96, 192, 384, 768]),
    ],
)
@pytest.mark.parametrize("size", [(64, 96), (160, 32)])
def test_maps_at_four_strides(name, channels, size):
    backbone = TimmPyramid(name, in_channels=2)
    maps = backbone(torch.randn(1, 2, *size))
    assert backbone.channels == channels
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        name: (1, c, size[0] // s, size[1] // s)
        for name, c, s in zip(
            ("res2", "res3", "res4", "res5"), channels, (4, 8, 16, 32), strict=True
        )
    }
    shapes = [(s.channels, s.stride) for s in backbone.output_shape().values()]
    assert shapes == list(zip(channels, (4, 8, 16, 32), strict=True))


@pytest.mark.parametrize(("last", "stages"), [(8, 3), (16, 5), (32, 7)])
def test_stages_beyond_the_last_stride_are_not_built(last, stages):
    """Of EfficientNet-Lite0's seven stages two have stride 16, and two stride 32."""
    strides = tuple(s for s in (4, 8, 16, 32) if s <= last)
    backbone = TimmPyramid("tf_efficientnet_lite0", strides=strides)
    assert len(backbone.body.blocks) == stages
    sum(m.sum() for m in backbone(torch.randn(1, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_another_pyramid_is_refused_with_the_key():
    with pytest.raises(ValueError, match=r"MODEL\.TIMM\.NAME 'vit_tiny_patch16_224'"):
        TimmPyramid("vit_tiny_patch16_224")


def test_local_checkpoint_round_trip(tmp_path):
    source = TimmPyramid("resnet18")
    file = tmp_path / "resnet18.pth"
    state = {k: v for k, v in source.body.state_dict().items()}
    torch.save({**state, "fc.weight": torch.zeros(1000, 512)}, file)  # the classifier is left over
    loaded = TimmPyramid("resnet18", checkpoint=str(file))
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), source.parameters(), strict=True)
    )


def test_checkpoint_that_does_not_fit_or_does_not_exist(tmp_path):
    file = tmp_path / "other.pth"
    torch.save(TimmPyramid("resnet18").body.state_dict(), file)
    with pytest.raises(BackboneWeightsError, match=r"other\.pth.*does not fit"):
        TimmPyramid("resnet50", checkpoint=str(file))
    with pytest.raises(BackboneWeightsError, match="does not exist"):
        TimmPyramid("resnet18", checkpoint=str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(BackboneWeightsError, match=r"text\.pth.*cannot be read"):
        TimmPyramid("resnet18", checkpoint=str(tmp_path / "text.pth"))


def test_no_network_says_which_keys_to_set(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(
        BackboneWeightsError, match=r"MODEL\.TIMM\.PRETRAINED False.*MODEL\.TIMM\.CHECKPOINT"
    ):
        TimmPyramid("resnet18", pretrained=True)


def test_unknown_model_names_near_ones():
    with pytest.raises(ValueError, match=r"MODEL\.TIMM\.NAME 'resnet5O'.*near: .*resnet50"):
        TimmPyramid("resnet5O")
