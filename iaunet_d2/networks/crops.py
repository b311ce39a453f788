"""Square crops around boxes, and the masks in them (VSM, sections 2.2.2 and 3.2.1)."""

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from .criterion import Target
from .mask_branch import cropped_masks
from .rcnn import RegionTarget


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
    return cropped_masks(masks, each, boxes.float(), side) >= 0.5


def with_boxes(target: Target) -> RegionTarget:
    """Add the boxes of the masks; a mask without a pixel has none and goes."""
    filled = target.masks.flatten(1).any(1)
    masks = target.masks[filled]
    boxes = masks_to_boxes(masks) if len(masks) else masks.new_zeros(0, 4)
    boxes = boxes.float() + boxes.new_tensor([0, 0, 1, 1], dtype=torch.float)
    return RegionTarget(target.labels[filled], masks, boxes)
