"""From masks over boxes to masks over the image."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .scored_masks import on_cpu, tight_crops


def paste_masks(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> tuple[list[Tensor], Tensor]:
    """Resample each mask to the pixels of its box; masks may overlap.

    One mask at a time and only inside its box: memory and time grow with the area of the boxes, not
    with instances times image. Outside the box the probability is 0, and it is interpolated
    bilinearly between the centres of the mask's cells.

    Args:
        masks: (N, M, M) probabilities.
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the image, a pixel's centre at +0.5.
        size: height and width of the image.
        threshold: a pixel is inside where its probability exceeds this.

    Returns:
        crops and corners on the CPU as in :class:`~.scored_masks.ScoredMasks`; the crop of a mask
        without a pixel is empty.
    """
    height, width = size
    regions, origins = [], []
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True):
        left, right = max(math.floor(x0), 0), min(math.ceil(x1), width)
        top, bottom = max(math.floor(y0), 0), min(math.ceil(y1), height)
        origins.append((top, left))
        if left >= right or top >= bottom or x1 <= x0 or y1 <= y0:
            regions.append(masks.new_zeros(0, 0, dtype=torch.bool))
            continue
        xs = _positions(left, right, x0, x1, masks)
        ys = _positions(top, bottom, y0, y1, masks)
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)[None]
        values = F.grid_sample(mask[None, None], grid, mode="bilinear", align_corners=False)
        regions.append(values[0, 0] > threshold)
    return tight_crops(on_cpu(regions), origins)


def _positions(first: int, last: int, start: float, stop: float, like: Tensor) -> Tensor:
    """Centres of pixels ``first`` to ``last - 1`` in [-1, 1] over ``start`` to ``stop``."""
    centres = torch.arange(first, last, dtype=like.dtype, device=like.device) + 0.5
    return 2 * (centres - start) / (stop - start) - 1
