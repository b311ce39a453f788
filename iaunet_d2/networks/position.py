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
        raise ValueError(
            f"MODEL.IAUNET.HIDDEN_DIM is {dim}; the position encoding needs a multiple of 4"
        )
    half = dim // 2
    exponent = 2 * torch.div(torch.arange(half, device=device), 2, rounding_mode="floor") / half
    period = temperature**exponent
    y = _angles(height, period).unsqueeze(1).expand(height, width, half)
    x = _angles(width, period).unsqueeze(0).expand(height, width, half)
    return torch.cat([y, x], dim=-1).reshape(height * width, dim)


def _angles(length: int, period: Tensor) -> Tensor:
    """Positions 1..length, normalised by the last, at every period: (length, half)."""
    index = torch.arange(1, length + 1, device=period.device, dtype=torch.float32)
    angle = (index / (length + 1e-6) * 2 * math.pi)[:, None] / period
    return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1)
