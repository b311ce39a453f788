"""Elliptical windows: masks that are local from the first step on.

A mask's logit at a place p is ``e F(p) + b - (p - c)' A (p - c)``, with ``A = L L'`` and c a shift
from the query's anchor. All of it is linear in the channels ``[F, x, y, x², xy, y², 1]``, so that
matching, losses and inference stay one product. CondInst (Tian et al., ECCV 2020) gives its dynamic
mask heads relative coordinates, SMCA (Gao et al., ICCV 2021) attention a Gaussian window; a
learned ellipse on the mask's logits is neither.
"""

import torch
from torch import Tensor

UNIT = 32.0
"""Places are in units of this many pixels of the network's input, in an image of any size."""

SHARPNESS = 8**0.5
"""Of both axes at the start: with the bias 1, a disc of 11 pixels."""

COEFFICIENTS = 6


def with_places(mask_features: Tensor, stride: int = 4) -> Tensor:
    """Append x, y, x², xy, y² and 1: (B, C, H, W) to (B, C + 6, H, W), float32.

    Half precision would lose small ellipses, which are differences of these.
    """
    batch, _, height, width = mask_features.shape
    x = (torch.arange(width, device=mask_features.device) + 0.5) * stride / UNIT
    y = (torch.arange(height, device=mask_features.device) + 0.5) * stride / UNIT
    x, y = x.expand(height, width), y[:, None].expand(height, width)
    places = torch.stack([x, y, x * x, x * y, y * y, torch.ones_like(x)])
    return torch.cat([mask_features.float(), places.expand(batch, -1, -1, -1)], dim=1)


def ellipse_coefficients(predicted: Tensor, anchors: Tensor) -> Tensor:
    """Return the coefficients whose product with :func:`with_places` is the window.

    Args:
        predicted: (..., 6): shift of the centre in units, logarithms of both axes' sharpness, the
            skew, and the bias less 1.
        anchors: (..., 2), x and y in pixels.

    Returns:
        (..., 6), float32.
    """
    predicted = predicted.float()
    centre = anchors.float() / UNIT + predicted[..., :2]
    first, second = (SHARPNESS * predicted[..., 2:4].clamp(-4, 4).exp()).unbind(-1)
    skew = SHARPNESS * predicted[..., 4]
    # A = L L' with L = [[first, 0], [skew, second]]
    xx, xy, yy = first * first, first * skew, skew * skew + second * second
    cx, cy = centre.unbind(-1)
    linear_x, linear_y = 2 * (xx * cx + xy * cy), 2 * (xy * cx + yy * cy)
    constant = 1 + predicted[..., 5] - (xx * cx * cx + 2 * xy * cx * cy + yy * cy * cy)
    return torch.stack([linear_x, linear_y, -xx, -2 * xy, -yy, constant], dim=-1)
