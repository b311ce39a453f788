"""Point sampling against hand-worked values and against torch's own interpolation."""

import pytest
import torch
import torch.nn.functional as F

from iaunet_d2.networks import sample_points, uncertain_points


def test_pixel_centres_give_the_pixels_and_outside_is_zero():
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    centres = torch.tensor([[[0.5 / 3, 0.25], [2.5 / 3, 0.75], [1 / 3, 0.5]]])
    # The last point lies between four pixels: (0 + 1 + 3 + 4) / 4.
    assert sample_points(maps, centres)[0, 0].tolist() == pytest.approx([0.0, 5.0, 2.0], abs=1e-6)
    assert sample_points(maps + 9, torch.tensor([[[-1.0, -1.0]]])).item() == 0


def test_a_grid_of_points_equals_interpolate():
    maps = torch.randn(2, 3, 5, 7)
    y, x = torch.meshgrid(
        (torch.arange(10) + 0.5) / 10, (torch.arange(14) + 0.5) / 14, indexing="ij"
    )
    points = torch.stack([x, y], -1).view(1, -1, 2).expand(2, -1, -1)
    inner = sample_points(maps, points).view(2, 3, 10, 14)[..., 1:-1, 1:-1]
    expected = F.interpolate(maps, size=(10, 14), mode="bilinear", align_corners=False)
    torch.testing.assert_close(inner, expected[..., 1:-1, 1:-1])


def test_most_points_lie_where_the_mask_is_uncertain():
    columns = torch.linspace(-10, 10, 64).expand(2, 64, 64)  # uncertain in the middle columns
    logits = torch.stack([columns, columns.transpose(1, 2)], dim=1)  # and in the middle rows
    points = uncertain_points(logits, 400, 3.0, 0.75)
    assert points.shape == (2, 2, 400, 2) and points.min() >= 0 and points.max() <= 1
    distance = torch.stack([points[:, 0, :, 0], points[:, 1, :, 1]], dim=1).sub(0.5).abs()
    # 300 of 1,200 uniform candidates nearest to the middle lie within about 1/8 of it; the other
    # 100 are uniform.
    assert distance[:, :, :300].max() < 0.2
    assert distance[:, :, 300:].max() > 0.3
