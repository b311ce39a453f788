"""Windows: what a mask's logits are around its query's anchor, whatever the image shows there.

A mask's logit at a place p is ``e F(p) + window(p)``, and the window is an ellipse, which makes
masks local from the first step on, and a few waves, which bend it:

    b - (p - c)' A (p - c) + sum_k u_k cos w_k (p - a) + v_k sin w_k (p - a)

with the anchor a, ``A = L L'`` and c a shift from the anchor. All of it is linear in the channels
``[F, x, y, x², xy, y², 1, cos w_k p, sin w_k p]``, so that matching, losses and inference stay one
product. CondInst (Tian et al., ECCV 2020) gives its dynamic mask heads relative coordinates, SMCA
(Gao et al., ICCV 2021) attention a Gaussian window; a learned ellipse on the mask's logits is
neither.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

UNIT = 32.0
"""Places are in units of this many pixels of the network's input, in an image of any size."""

SHARPNESS = 8**0.5
"""Of both axes at the start: with the bias 1, a disc of 11 pixels."""

ELLIPSE = 6
"""Coefficients of the ellipse."""

DIRECTIONS = 4
"""Of the waves of each length: to the right, down, and both diagonals."""


class Windows(nn.Module):
    """Turn what queries predict into coefficients of the channels of places.

    Args:
        wave_lengths: of the waves, in pixels of the network's input.

    Attributes:
        count: coefficients of a window, and channels of places.
    """

    wave_numbers: Tensor

    def __init__(self, wave_lengths: Sequence[float] = ()) -> None:
        super().__init__()
        angles = math.pi * torch.arange(DIRECTIONS) / DIRECTIONS
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        lengths = torch.tensor([float(length) for length in wave_lengths])
        waves = 2 * math.pi / lengths[:, None, None] * directions  # (lengths, DIRECTIONS, 2)
        self.register_buffer("wave_numbers", waves.flatten(0, 1), persistent=False)
        self.count = ELLIPSE + 2 * len(self.wave_numbers)

    def with_places(self, mask_features: Tensor, stride: int = 4) -> Tensor:
        """Append the channels of places: (B, C, H, W) to (B, C + count, H, W), float32.

        Half precision would lose small ellipses, which are differences of these.
        """
        batch, _, height, width = mask_features.shape
        device = mask_features.device
        x = (torch.arange(width, device=device) + 0.5) * stride
        y = (torch.arange(height, device=device) + 0.5) * stride
        phases = (
            self.wave_numbers[:, 0, None, None] * x
            + self.wave_numbers[:, 1, None, None] * (y[:, None])
        )
        x, y = x.expand(height, width) / UNIT, y[:, None].expand(height, width) / UNIT
        ellipse = torch.stack([x, y, x * x, x * y, y * y, torch.ones_like(x)])
        places = torch.cat([ellipse, phases.cos(), phases.sin()])
        return torch.cat([mask_features.float(), places.expand(batch, -1, -1, -1)], dim=1)

    def coefficients(self, predicted: Tensor, anchors: Tensor) -> Tensor:
        """Return the coefficients whose product with :meth:`with_places` is the window.

        Args:
            predicted: (..., count): of the ellipse the shift of the centre in units, logarithms of
                both axes' sharpness, the skew, and the bias less 1; then u and v of the waves.
            anchors: (..., 2), x and y in pixels.

        Returns:
            (..., count), float32.
        """
        predicted, anchors = predicted.float(), anchors.float()
        ellipse = ellipse_coefficients(predicted[..., :ELLIPSE], anchors)
        u, v = predicted[..., ELLIPSE:].chunk(2, dim=-1)
        # Not a matrix product, which autocast would round.
        phases = (anchors[..., None, :] * self.wave_numbers).sum(-1)
        cos, sin = phases.cos(), phases.sin()
        return torch.cat([ellipse, u * cos - v * sin, u * sin + v * cos], dim=-1)


def ellipse_coefficients(predicted: Tensor, anchors: Tensor) -> Tensor:
    """Return the coefficients of x, y, x², xy, y² and 1, in units: (..., 6).

    Args:
        predicted: (..., 6), see :meth:`Windows.coefficients`.
        anchors: (..., 2), x and y in pixels.
    """
    centre = anchors / UNIT + predicted[..., :2]
    first, second = (SHARPNESS * predicted[..., 2:4].clamp(-4, 4).exp()).unbind(-1)
    skew = SHARPNESS * predicted[..., 4]
    # A = L L' with L = [[first, 0], [skew, second]]
    xx, xy, yy = first * first, first * skew, skew * skew + second * second
    cx, cy = centre.unbind(-1)
    linear_x, linear_y = 2 * (xx * cx + xy * cy), 2 * (xy * cx + yy * cy)
    constant = 1 + predicted[..., 5] - (xx * cx * cx + 2 * xy * cx * cy + yy * cy * cy)
    return torch.stack([linear_x, linear_y, -xx, -2 * xy, -yy, constant], dim=-1)
