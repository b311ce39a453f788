"""Sine position encoding of a feature map (Mask2Former, DETR)."""

import math

import torch
from torch import Tensor


def sine_position_encoding(
    height: int,
    width: int,
    dim: int,
    device: torch.device | str = "cpu",
    temperature: float = 10000.0,
) -> Tensor:
    """Encode each position's y and x, normalised to (0, 2 pi], by interleaved sines and cosines.

    Args:
        height, width: size of the map.
        dim: channels, half of them for y, then half for x; divisible by 4.

    Returns:
        (H*W, dim), row-major, the same for every image of that size.

    Raises:
        ValueError: ``dim`` is not divisible by 4.
    """
    if dim % 4:
        raise ValueError(f"HIDDEN_DIM is {dim}; the position encoding needs a multiple of 4")
    # Rows and columns are numbered from 1.
    rows, columns = (torch.arange(n, device=device) + 1 for n in (height, width))
    y = sine_encoding(rows / (height + 1e-6), dim // 2, temperature)
    x = sine_encoding(columns / (width + 1e-6), dim // 2, temperature)
    y = y.unsqueeze(1).expand(height, width, dim // 2)
    x = x.unsqueeze(0).expand(height, width, dim // 2)
    return torch.cat([y, x], dim=-1).reshape(height * width, dim)


def sine_encoding_of_points(points: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """The encoding of :func:`sine_position_encoding` at any points.

    Args:
        points: (N, 2), x and y in [0, 1] over the map.
        dim: channels, divisible by 4.

    Returns:
        (N, dim).
    """
    x, y = points.unbind(1)
    half = dim // 2
    return torch.cat([sine_encoding(y, half, temperature), sine_encoding(x, half, temperature)], -1)


def sine_encoding(places: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Encode places (...) in (0, 1] by sines and cosines of every period in turn: (..., dim)."""
    exponent = 2 * torch.div(torch.arange(dim, device=places.device), 2, rounding_mode="floor")
    angle = (places.float() * 2 * math.pi)[..., None] / temperature ** (exponent / dim)
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)
