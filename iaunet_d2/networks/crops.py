"""Square crops around boxes, and the masks in them (VSM, sections 2.2.2 and 3.2.1)."""

import torch
from torch import Tensor

from .criterion import Target
from .mask_branch import cropped_masks
from .rcnn import RegionTarget

PIXELS_AT_ONCE = 2**24
"""Of masks that are float at a time: 64 MiB. Each is as large as the image."""


def whole_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes on whole pixels inside the image, as the paper crops them.

    Sides are rounded to the nearest pixel border, halves up, and cut at the image. A box that has
    no pixel of the image then gets the nearest one, so that every box has a crop.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in pixels.
        size: height and width of the image.

    Returns:
        (N, 4) int64, x1 and y1 exclusive.
    """
    height, width = size
    rounded = (boxes + 0.5).floor().long()
    start = torch.stack(
        [rounded[:, 0].clamp(0, width - 1), rounded[:, 1].clamp(0, height - 1)], dim=1
    )
    limit = torch.tensor([width, height], device=boxes.device)
    stop = torch.minimum(torch.maximum(rounded[:, 2:], start + 1), limit)
    return torch.cat([start, stop], dim=1)


def jittered_boxes(boxes: Tensor, probability: float, spread: float) -> Tensor:
    """Stretch boxes at random about their centres, width and height on their own (BoxJitter).

    Args:
        boxes: (N, 4) float.
        probability: share of the boxes that are stretched.
        spread: factors are uniform in ``1 - spread`` to ``1 + spread``.
    """
    factors = 1 + spread * (2 * torch.rand(len(boxes), 2, device=boxes.device) - 1)
    stretch = torch.rand(len(boxes), 1, device=boxes.device) < probability
    sides = (boxes[:, 2:] - boxes[:, :2]) * torch.where(stretch, factors, torch.ones_like(factors))
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


def cut_crops(image: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Cut boxes out of an image, each resized to a square by its nearest pixels.

    Args:
        image: (C, H, W).
        boxes: (N, 4) int64 inside the image, see :func:`whole_boxes`.
        side: S.

    Returns:
        (N, C, S, S); pixel i of a side of n is the image's at floor((i + 0.5) n / S) of the box.
    """
    steps = 2 * torch.arange(side, device=boxes.device) + 1
    start, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    # In whole numbers: floats would fall to either side of a pixel's border.
    at = start[..., None] + extent[..., None] * steps // (2 * side)  # (N, 2, S)
    columns, rows = at[:, 0], at[:, 1]
    return image[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)


def cut_masks(masks: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Each mask inside its own box: at least half of a pixel's RoIAlign makes it the cell's.

    Args:
        masks: (N, H, W) bool.
        boxes: (N, 4) int64.
        side: S.

    Returns:
        (N, S, S) bool.
    """
    each = torch.arange(len(boxes), device=boxes.device)
    step = max(PIXELS_AT_ONCE // max(masks.shape[-2] * masks.shape[-1], 1), 1)
    parts = [cropped_masks(masks, i, boxes[i].float(), side) >= 0.5 for i in each.split(step)]
    return torch.cat(parts)


def with_boxes(target: Target) -> RegionTarget:
    """Add the boxes of the masks; a mask without a pixel has none and goes.

    The masks, which can be gigabytes, are copied only if one goes.
    """
    x0, x1 = _extents(target.masks.any(1))
    y0, y1 = _extents(target.masks.any(2))
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()
    filled = x1 > x0
    if filled.all():
        return RegionTarget(target.labels, target.masks, boxes)
    return RegionTarget(target.labels[filled], target.masks[filled], boxes[filled])


def _extents(inside: Tensor) -> tuple[Tensor, Tensor]:
    """First True of each row of bools (N, L) and the place after the last; 0 and 0 without any."""
    places = torch.arange(1, inside.shape[1] + 1, device=inside.device)
    stop = (inside * places).amax(1)
    start = (inside * places.flip(0)).amax(1)
    return torch.where(stop > 0, inside.shape[1] - start, 0), stop
