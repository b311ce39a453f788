"""Elliptical windows: masks that are local from the first step on.

A mask's logit at a place p is

    e F(p) + b - (p - c)' A (p - c) - (v(p) - d)' B (v(p) - d)

with ``A = L L'``, ``B = M M'``, and c and d shifts from the query's anchor. The second window is
around where the pixel *votes* that its cell is: v(p) is p and an offset that the network predicts
for each pixel. Pixels of one cell learn to vote alike, so that a narrow window parts cells that
touch, which an ellipse on places alone cannot if they are bent around one another.

All of it is linear in the channels ``[F, x, y, x², xy, y², u, v, u², uv, v², 1]`` with (u, v) the
vote, so that matching, losses and inference stay one product. CondInst (Tian et al., ECCV 2020)
gives its dynamic mask heads relative coordinates, SMCA (Gao et al., ICCV 2021) attention a Gaussian
window. Pixels that point to their instance's centre, and a margin of its own for each instance, are
from Neven et al. (CVPR 2019, https://arxiv.org/abs/1906.11109), who group pixels by them, each into
one instance; here they are a term of masks that may overlap.
"""

import torch
from torch import Tensor

UNIT = 32.0
"""Places are in units of this many pixels of the network's input, in an image of any size."""

SHARPNESS = 8**0.5
"""Of both axes of the window on places at the start: with the bias 1, a disc of 11 pixels."""

VOTE_SHARPNESS = 1.0
"""The same of the window on votes."""

ELLIPSE = 5
"""Coefficients of an ellipse, but for the constant."""

COEFFICIENTS = 2 * ELLIPSE + 1


def with_places(mask_features: Tensor, votes: Tensor, stride: int = 4) -> Tensor:
    """Append places, votes, their products, and 1: (B, C, H, W) to (B, C + 11, H, W), float32.

    Half precision would lose small ellipses, which are differences of these.

    Args:
        mask_features: (B, C, H, W).
        votes: offsets (B, 2, H, W) from each pixel to where its cell is, x and y in units.
        stride: of the maps, pixels.
    """
    batch, _, height, width = mask_features.shape
    x = (torch.arange(width, device=mask_features.device) + 0.5) * stride / UNIT
    y = (torch.arange(height, device=mask_features.device) + 0.5) * stride / UNIT
    place = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    place = place.expand(batch, -1, -1, -1)
    moved = place + votes.float()
    channels = [mask_features.float()]
    for first, second in (place.split(1, dim=1), moved.split(1, dim=1)):
        channels += [first, second, first * first, first * second, second * second]
    return torch.cat([*channels, torch.ones_like(channels[-1])], dim=1)


def window_terms(predicted: Tensor, anchors: Tensor) -> Tensor:
    """Return the coefficients whose product with :func:`with_places` is both windows.

    Args:
        predicted: (..., 11): of the window on places, then of that on votes, the shift of the
            centre in units, logarithms of both axes' sharpness, and the skew; and the bias less 1.
        anchors: (..., 2), x and y in pixels.

    Returns:
        (..., 11), float32.
    """
    predicted, anchors = predicted.float(), anchors.float() / UNIT
    places = ellipse_terms(predicted[..., :ELLIPSE], anchors, SHARPNESS)
    votes = ellipse_terms(predicted[..., ELLIPSE:-1], anchors, VOTE_SHARPNESS)
    constant = 1 + predicted[..., -1:] + places[..., -1:] + votes[..., -1:]
    return torch.cat([places[..., :-1], votes[..., :-1], constant], dim=-1)


def ellipse_terms(predicted: Tensor, anchors: Tensor, sharpness: float) -> Tensor:
    """Return the coefficients (..., 6) of x, y, x², xy, y² and 1 in ``-(p - c)' L L' (p - c)``.

    Args:
        predicted: (..., 5), of one window, see :func:`window_terms`.
        anchors: (..., 2), in units.
        sharpness: of both axes where nothing is predicted.
    """
    centre = anchors + predicted[..., :2]
    first, second = (sharpness * predicted[..., 2:4].clamp(-4, 4).exp()).unbind(-1)
    skew = sharpness * predicted[..., 4]
    # A = L L' with L = [[first, 0], [skew, second]]
    xx, xy, yy = first * first, first * skew, skew * skew + second * second
    cx, cy = centre.unbind(-1)
    linear_x, linear_y = 2 * (xx * cx + xy * cy), 2 * (xy * cx + yy * cy)
    constant = -(xx * cx * cx + 2 * xy * cx * cy + yy * cy * cy)
    return torch.stack([linear_x, linear_y, -xx, -2 * xy, -yy, constant], dim=-1)
