"""Sliding windows and scales: what goes in comes out, at every size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from iaunet_d2.networks.sliding_window import (
    mirror_pad,
    multi_scale,
    padded_side,
    resized,
    sliding_window,
    starts,
)


class Recorder:
    """The identity, which remembers what it was called with."""

    def __init__(self):
        self.shapes = []

    def __call__(self, crops):
        self.shapes.append(tuple(crops.shape))
        return crops


@pytest.mark.parametrize(
    "size", [(64, 64), (65, 64), (200, 131), (1, 1), (1, 90), (30, 250), (63, 300)]
)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
def test_the_identity_gives_the_image(size, overlap):
    image = torch.randn(2, *size)
    network = Recorder()
    got = sliding_window(network, image, 64, overlap, 3)
    assert torch.allclose(got, image, atol=1e-6)
    assert all(h == w == 64 for _, _, h, w in network.shapes)
    assert max(shape[0] for shape in network.shapes) <= 3


def test_a_constant_network_gives_constants_of_its_channels():
    def network(crops):
        return (
            torch.tensor([1.0, 5.0, -2.0]).view(1, 3, 1, 1).expand(len(crops), 3, *crops.shape[-2:])
        )

    got = sliding_window(network, torch.randn(1, 150, 97), 64, 0.5, 4)
    assert got.shape == (3, 150, 97)
    assert torch.allclose(got, torch.tensor([1.0, 5.0, -2.0]).view(3, 1, 1).expand_as(got))


def test_overlapping_windows_are_averaged():
    # Each window gives its number: 0 and 1, side by side with 32 columns in common.
    def network(crops):
        return torch.arange(len(crops)).float().view(-1, 1, 1, 1).expand(-1, 1, *crops.shape[-2:])

    got = sliding_window(network, torch.zeros(1, 64, 96), 64, 0.5, 2)[0]
    assert (got[:, :32] == 0).all() and (got[:, 32:64] == 0.5).all() and (got[:, 64:] == 1).all()


def test_windows_of_a_step_end_with_the_image():
    assert starts(512, 512, 384) == [0]
    assert starts(513, 512, 384) == [0, 1]
    assert starts(896, 512, 384) == [0, 384]
    assert starts(1300, 512, 384) == [0, 384, 768, 788]


@pytest.mark.parametrize(("length", "window", "step"), [(700, 64, 48), (64, 64, 1), (191, 64, 64)])
def test_windows_cover_every_pixel(length, window, step):
    covered = np.zeros(length, bool)
    for start in starts(length, window, step):
        assert 0 <= start <= length - window
        covered[start : start + window] = True
    assert covered.all()


def test_a_small_image_makes_the_window_smaller():
    network = Recorder()
    sliding_window(network, torch.randn(1, 70, 100), 512, 0.25, 4)
    assert network.shapes == [(1, 1, 96, 128)]
    assert padded_side(1, 32, 64) == 64 and padded_side(64, 32, 64) == 64
    assert padded_side(65, 32, 64) == 96


def test_padding_mirrors_without_repeating_the_edge():
    image = torch.arange(12.0).view(1, 3, 4)
    want = F.pad(image[None], (0, 3, 0, 2), mode="reflect")[0]
    assert torch.equal(mirror_pad(image, 5, 7), want)
    assert torch.equal(mirror_pad(image, 3, 4), image)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (4, 2)])
def test_padding_of_images_too_small_to_mirror_once_is_numpys(size):
    image = np.random.default_rng(0).random(size)
    want = np.pad(image, ((0, 20 - size[0]), (0, 17 - size[1])), mode="reflect")
    assert np.array_equal(mirror_pad(torch.from_numpy(image), 20, 17).numpy(), want)


@pytest.mark.parametrize(
    ("window", "overlap", "batch"), [(70, 0.25, 4), (32, 0.25, 4), (64, 1.0, 4), (64, 0.2, 0)]
)
def test_windows_that_make_no_sense_are_refused(window, overlap, batch):
    with pytest.raises(ValueError, match=f"windows of {window} px"):
        sliding_window(Recorder(), torch.zeros(1, 64, 64), window, overlap, batch)


def test_the_scales_outputs_are_resized_back_and_averaged():
    image = torch.randn(1, 20, 30)
    seen = []

    def network(scaled):
        seen.append(tuple(scaled.shape[-2:]))
        return scaled * len(seen)

    got = multi_scale(network, image, (1.0, 1.25, 1.5))
    assert seen == [(20, 30), (25, 38), (30, 45)]
    parts = [image]
    for k, size in ((2, (25, 38)), (3, (30, 45))):
        up = F.interpolate(image[None], size=size, mode="bilinear", align_corners=True)
        back = F.interpolate(up * k, size=(20, 30), mode="bilinear", align_corners=True)
        parts.append(back[0])
    assert torch.allclose(got, sum(parts) / 3, atol=1e-6)


def test_corners_are_aligned():
    ramp = torch.linspace(0, 1, 5).expand(1, 5, 5)
    assert torch.allclose(resized(ramp, (9, 9)), torch.linspace(0, 1, 9).expand(1, 9, 9))


def test_constants_survive_scales_and_one_pixel_too():
    for size in ((1, 1), (7, 1), (13, 21)):
        got = multi_scale(lambda x: x, torch.full((2, *size), 3.0), (1.0, 1.25, 1.5))
        assert got.shape == (2, *size) and torch.allclose(got, torch.tensor(3.0))


def test_a_large_image_is_seen_at_the_first_scale_alone():
    for most, count in ((200, 2), (199, 1)):
        network = Recorder()
        multi_scale(network, torch.zeros(1, 10, 20), (1.0, 1.5), most)
        assert len(network.shapes) == count


@pytest.mark.parametrize("scales", [(), (1.0, 0.0)])
def test_scales_that_make_no_sense_are_refused(scales):
    with pytest.raises(ValueError, match="scales"):
        multi_scale(Recorder(), torch.zeros(1, 8, 8), scales)
