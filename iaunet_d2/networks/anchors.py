"""Places of queries in the image, and windows around them."""

import torch
from torch import Tensor

from .points import grid_points

# A window lowers the logits by 2 at a fifth of the image's side from its centre.
FIRST_SHARPNESS = 50.0


def with_coordinates(mask_features: Tensor) -> Tensor:
    """Append x, y, x² + y² and 1, x and y from 0 to 1: (B, C, H, W) to (B, C + 4, H, W), float32.

    Half precision would lose narrow windows, which are small differences of these.
    """
    batch, _, height, width = mask_features.shape
    points = grid_points(height, width, mask_features.device).T.unflatten(1, (height, width))
    own = [points, points.square().sum(0, keepdim=True), torch.ones_like(points[:1])]
    channels = torch.cat(own).expand(batch, -1, -1, -1)
    return torch.cat([mask_features.float(), channels], dim=1)


def window_coefficients(predicted: Tensor, anchors: Tensor) -> Tensor:
    """Coefficients whose product with :func:`with_coordinates` is ``-a |p - c|²``.

    Args:
        predicted: (B, Q, 3): shift of the centre c from the anchor, as a share of the image's
            sides, and the logarithm of the sharpness a relative to its first value.
        anchors: (Q, 2).

    Returns:
        (B, Q, 4).
    """
    centre = anchors + predicted[..., :2].float()
    sharpness = FIRST_SHARPNESS * predicted[..., 2:].float().clamp(-5, 5).exp()
    constant = -sharpness * centre.square().sum(-1, keepdim=True)
    return torch.cat([2 * sharpness * centre, -sharpness, constant], dim=-1)


def spread_points(count: int) -> Tensor:
    """Places that fill a square evenly, whatever their number: (count, 2), x and y in [0, 1].

    The additive recurrence with the plastic number (Roberts, "The unreasonable effectiveness of
    quasirandom sequences", 2018).
    """
    plastic = 1.324717957244746
    step = torch.tensor([1 / plastic, 1 / plastic**2], dtype=torch.float64)
    return ((0.5 + torch.arange(1, count + 1)[:, None] * step) % 1).float()
