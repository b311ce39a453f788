"""Folding batch norms changes no value."""

import pytest
import timm
import torch
from torch import nn

from iaunet_d2.networks import fold_batch_norms


def shaken(network):
    """Batch norms with statistics and weights as after training."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
    return network.eval()


@pytest.mark.parametrize(
    "name, count", [("resnet18", 20), ("efficientnet_b0", 49), ("xception41p", None)]
)
@torch.no_grad()
def test_values_stay_and_norms_go(name, count):
    # resnet18: 1 + 8 blocks of 2 + 3 shortcuts; the second has its activations inside its norms,
    # the third also normalises maps that are used elsewhere.
    network = shaken(timm.create_model(name, pretrained=False, num_classes=5))
    images = torch.randn(2, 3, 64, 96)
    before = network(images)
    folded = fold_batch_norms(network, images[:1, :, :64, :64])
    assert folded > 10 if count is None else folded == count
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == (count is None)
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_does_not_follow_a_convolution_alone_stays():
    class Shared(nn.Module):
        """One convolution before two norms, one that is used twice, and norms elsewhere."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.twice = nn.Conv2d(3, 3, 1)
            self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(5))

        def forward(self, x):
            x = self.norms[3](x)
            x = self.norms[0](self.conv(x)) + self.norms[1](self.conv(x))
            x = self.twice(self.norms[2](x + 1))
            return x + self.norms[4](x)

    network = shaken(Shared())
    images = torch.randn(1, 3, 8, 8)
    before = network(images)
    assert fold_batch_norms(network, images) == 0
    torch.testing.assert_close(network(images), before)


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="eval"):
        fold_batch_norms(nn.BatchNorm2d(3), torch.zeros(1, 3, 4, 4))
