"""The U-Net of crops: the paper's counts, shapes, and a batch of one crop."""

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from iaunet_d2.networks import CropUNet, CropUNetSettings
from iaunet_d2.networks.crop_unet import CropNorm

TINY = CropUNetSettings(width=4, aspp_width=4, aspp_rates=(1, 2), aux_width=4)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


class Main(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, crops):
        return self.network(crops).main


def test_parameters_and_gmacs_are_the_paper_s():
    network = CropUNet().eval()
    assert parameters(network) / 1e6 == pytest.approx(29.06, rel=0.001)
    assert (parameters(network) - parameters(network.aux_head)) / 1e6 == pytest.approx(
        28.99, rel=0.001
    )
    analysis = FlopCountAnalysis(Main(network), torch.zeros(1, 3, 64, 64))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        gmacs = analysis.tracer_warnings("none").total() / 1e9
    assert gmacs == pytest.approx(3.185, rel=0.005)


def test_parameters_by_hand():
    # Convolutions 9 a b + 2 b of the norm; ups: 1x1 a b + 2 b.
    def conv(a, b, k=9):
        return k * a * b + 2 * b

    w = [4, 8, 16, 32, 64]
    expected = sum(conv(a, b) + conv(b, b) for a, b in zip([3, *w], w, strict=False))
    expected += sum(conv(2 * b, b, 1) + conv(2 * b, b) + conv(b, b) for b in w[:-1])
    expected += conv(4, 4, 1) * 2 + conv(4, 4) + conv(12, 4) + 4 * 2 + 2  # ASPP
    expected += conv(8, 4) + 4 * 2 + 2  # auxiliary head
    assert parameters(CropUNet(TINY)) == expected


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("side", [16, 32, 48])
def test_shapes(count, side):
    network = CropUNet(TINY).eval()
    crops = torch.rand(count, 3, side, side)
    logits = network(crops, with_aux=True)
    assert logits.main.shape == (count, 2, side, side)
    assert logits.aux is not None and logits.aux.shape == (count, 2, side // 2, side // 2)
    assert network(crops).aux is None


def test_without_the_auxiliary_head():
    network = CropUNet(CropUNetSettings(width=4, aux_width=0)).eval()
    assert network(torch.rand(1, 3, 16, 16), with_aux=True).aux is None


def test_a_side_that_does_not_halve_four_times_is_told():
    with pytest.raises(ValueError, match=r"20 x 20.*divisible by 16"):
        CropUNet(TINY)(torch.rand(1, 3, 20, 20))


def test_one_crop_trains():
    network = CropUNet(TINY).train()
    before = {n: b.clone() for n, b in network.named_buffers() if "running" in n}
    logits = network(torch.rand(1, 3, 32, 32), with_aux=True)
    (logits.main.sum() + logits.aux.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    after = dict(network.named_buffers())
    unchanged = [n for n, b in before.items() if torch.equal(b, after[n])]
    assert {n.rpartition(".")[0] for n in unchanged} == {"head.pooled.1"}


def test_the_pooled_norm_is_batch_norm_as_soon_as_there_is_a_variance():
    torch.manual_seed(0)
    ours, theirs = CropNorm(3), nn.BatchNorm2d(3)
    x = torch.rand(2, 3, 1, 1)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)
    # A single value: (x - running mean) / sqrt(running variance + eps).
    mean, var = ours.running_mean.clone(), ours.running_var.clone()
    got = ours(x[:1])
    torch.testing.assert_close(got[0, :, 0, 0], (x[0, :, 0, 0] - mean) / (var + 1e-5).sqrt())
    assert torch.equal(ours.running_mean, mean)


def test_the_finest_skip_connection_reaches_the_output_by_itself():
    torch.manual_seed(0)
    network = CropUNet(TINY).eval()
    with torch.no_grad():
        network.decoder[-1].reduce[0].weight.zero_()  # nothing comes from below
        one, other = network(torch.rand(2, 3, 32, 32)).main
        below = network.decoder[-1].convs[0][0].weight
        below[:, :4].zero_()  # nor from the skip, which is concatenated first
        alone, same = network(torch.rand(2, 3, 32, 32)).main
    assert (one - other).abs().max() > 1e-6
    assert torch.equal(alone, same)
