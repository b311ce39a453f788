"""A network over an image of any size: overlapping windows, and several scales."""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Network = Callable[[Tensor], Tensor]
"""(B, C, H, W) -> (B, D, H, W)."""


def sliding_window(
    network: Network,
    image: Tensor,
    window: int = 512,
    overlap: float = 0.25,
    batch: int = 4,
    divisibility: int = 32,
    least: int = 64,
) -> Tensor:
    """Run a network on overlapping windows, and average where they overlap.

    Windows are square, the last of a row or column ends with the image. Where the image is smaller
    than a window, the window shrinks to the next multiple of ``divisibility`` (at least ``least``),
    and the image is mirrored at the right and the bottom to fill it. The authors fill a whole
    window of 512; mirrored to a smaller one, the statistics of instance normalisation are nearly
    the same, and the work is less.

    Args:
        network: keeps the size of its input.
        image: (C, H, W).
        window: side of the windows, divisible by ``divisibility``.
        overlap: share of a window's side that the next one covers again, below 1.
        batch: windows at once.
        divisibility, least: what sides the network takes.

    Returns:
        (D, H, W).

    Raises:
        ValueError: the window or the overlap makes no sense.
    """
    if window < least or window % divisibility or not 0 <= overlap < 1 or batch < 1:
        raise ValueError(
            f"windows of {window} px with an overlap of {overlap}, {batch} at once: the side must "
            f"be a multiple of {divisibility} and at least {least}, the overlap in [0, 1)"
        )
    height, width = int(image.shape[-2]), int(image.shape[-1])
    sides = [min(window, padded_side(side, divisibility, least)) for side in (height, width)]
    image = mirror_pad(image, max(height, sides[0]), max(width, sides[1]))
    step = max(1, int(window * (1 - overlap)))
    corners = [
        (top, left)
        for top in starts(image.shape[-2], sides[0], step)
        for left in starts(image.shape[-1], sides[1], step)
    ]
    total = counts = torch.zeros(0)
    for first in range(0, len(corners), batch):
        chosen = corners[first : first + batch]
        crops = [image[:, t : t + sides[0], le : le + sides[1]] for t, le in chosen]
        outputs = network(torch.stack(crops))
        if first == 0:
            total = outputs.new_zeros(outputs.shape[1], *image.shape[-2:])
            counts = outputs.new_zeros(image.shape[-2:])
        for output, (top, left) in zip(outputs, chosen, strict=True):
            total[:, top : top + sides[0], left : left + sides[1]] += output
            counts[top : top + sides[0], left : left + sides[1]] += 1
    return (total / counts)[:, :height, :width]


def multi_scale(
    network: Network, image: Tensor, scales: Sequence[float], most_pixels: float = 25e6
) -> Tensor:
    """Mean of a network's outputs at several scales of an image, each resized back.

    Resizing is bilinear with aligned corners, as in the authors' code.

    Args:
        network: from (C, h, w) of any size to (D, h, w).
        image: (C, H, W).
        scales: 1 is the image as it is.
        most_pixels: a larger image is seen at the first scale alone.

    Returns:
        (D, H, W).

    Raises:
        ValueError: no scales, or one that is not above 0.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales {tuple(scales)}: at least one is needed, and all above 0")
    size = (int(image.shape[-2]), int(image.shape[-1]))
    chosen = scales if size[0] * size[1] <= most_pixels else scales[:1]

    def at(scale: float) -> Tensor:
        target = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        return resized(network(resized(image, target)), size)

    return functools.reduce(torch.add, map(at, chosen)) / len(chosen)


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W) -> (C, h, w), bilinear, corners aligned; the same tensor for the same size."""
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=True)[0]


def padded_side(side: int, divisibility: int, least: int) -> int:
    """The least multiple of ``divisibility`` that is neither below ``side`` nor ``least``."""
    return max(-(-side // divisibility) * divisibility, least)


def starts(length: int, window: int, step: int) -> list[int]:
    """First pixels of windows that cover ``length``, the last one ending with it."""
    last = length - window
    return [*range(0, last, step), last]


def mirror_pad(image: Tensor, height: int, width: int) -> Tensor:
    """Mirror an image (..., h, w) at its last row and column until it is as large as asked.

    The edge is not repeated; an image smaller than the padding is mirrored to and fro.
    """
    rows = mirrored_indices(int(image.shape[-2]), height, image.device)
    columns = mirrored_indices(int(image.shape[-1]), width, image.device)
    return image.index_select(-2, rows).index_select(-1, columns)


def mirrored_indices(length: int, target: int, device: torch.device | None = None) -> Tensor:
    """0, 1, ..., length - 1, length - 2, ..., 1, 0, 1, ... up to ``target`` numbers."""
    if length == 1:
        return torch.zeros(target, dtype=torch.int64, device=device)
    turn = 2 * (length - 1)
    index = torch.arange(target, device=device) % turn
    return torch.minimum(index, turn - index)
