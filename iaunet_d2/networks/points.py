"""Sampling maps at points instead of pixels (PointRend, section 3; Mask2Former, section 3.3)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points; outside the map is 0.

    Args:
        maps: (N, C, H, W).
        points: (N, P, 2), x and y in [0, 1] over the map's full extent.

    Returns:
        (N, C, P).
    """
    grid = points.mul(2).sub_(1).unsqueeze(2)  # (N, P, 1, 2)
    return F.grid_sample(maps, grid.to(maps.dtype), mode="bilinear", align_corners=False).squeeze(3)


@torch.no_grad()
def uncertain_points(
    logits: Tensor, num_points: int, oversample_ratio: float, importance_sample_ratio: float
) -> Tensor:
    """Random points, most of them where a mask is least certain.

    Of ``oversample_ratio * num_points`` uniform candidates, the ``importance_sample_ratio`` share
    of ``num_points`` with logits nearest to 0 is kept; the rest is uniform again. Maps of a group
    choose from the same candidates: drawing random numbers would take longer than choosing.

    Args:
        logits: (N, G, H, W), G maps in each of N groups.

    Returns:
        (N, G, num_points, 2), x and y in [0, 1].
    """
    groups, maps, device = logits.shape[0], logits.shape[1], logits.device
    num_uncertain = int(importance_sample_ratio * num_points)
    candidates = torch.rand(groups, int(num_points * oversample_ratio), 2, device=device)
    distance = sample_points(logits, candidates).abs_()  # (N, G, candidates)
    nearest = distance.topk(num_uncertain, dim=2, largest=False, sorted=False).indices
    pairs = candidates[:, None].expand(-1, maps, -1, -1)
    chosen = pairs.gather(2, nearest[..., None].expand(-1, -1, -1, 2))
    uniform = torch.rand(groups, maps, num_points - num_uncertain, 2, device=device)
    return torch.cat([chosen, uniform], dim=2)


@torch.no_grad()
def points_around(
    logits: Tensor,
    boxes: Tensor,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
) -> Tensor:
    """Random points around each mask's instance, most of them where the mask is least certain.

    As :func:`uncertain_points`, but all candidates lie in the instance's box. Of the points that
    are not chosen, half are in the box and half all over the image.

    Args:
        logits: (N, H, W).
        boxes: (N, 4), left, top, right and bottom in [0, 1].

    Returns:
        (N, num_points, 2), x and y in [0, 1].
    """
    num_uncertain = int(importance_sample_ratio * num_points)
    num_inside = (num_points - num_uncertain) // 2
    candidates = int(num_points * oversample_ratio)
    first, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    drawn = torch.rand(1, candidates + num_inside, 2, device=logits.device) * size + first
    inside, rest = drawn.split([candidates, num_inside], dim=1)
    distance = sample_points(logits[:, None], inside)[:, 0].abs_()  # (N, candidates)
    nearest = distance.topk(num_uncertain, dim=1, largest=False, sorted=False).indices
    chosen = inside.gather(1, nearest[..., None].expand(-1, -1, 2))
    count = num_points - num_uncertain - num_inside
    anywhere = torch.rand(1, count, 2, device=logits.device).expand(len(logits), -1, -1)
    return torch.cat([chosen, rest, anywhere], dim=1)


def grid_points(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """The centres of a map's pixels, row by row: (height * width, 2), x and y in [0, 1]."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    ys, xs = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([xs, ys], dim=-1).flatten(0, 1)


def subdivided(
    logits: Tensor, predict: Callable[[Tensor], Tensor], steps: int, num_points: int
) -> Tensor:
    """Refine coarse masks where they are least certain (PointRend, section 3.1).

    Each step doubles the sides by bilinear interpolation and predicts the ``num_points`` pixels
    with logits nearest to 0 anew. As in the authors' code, a step after which the next one would
    still predict every pixel predicts none, unless it is the last.

    Args:
        logits: (N, H, W).
        predict: from points (N, P, 2), x and y in [0, 1], to their logits (N, P).
        steps: S.
        num_points: P, at most.

    Returns:
        (N, 2^S H, 2^S W).
    """
    for step in range(steps):
        logits = F.interpolate(
            logits[:, None], scale_factor=2.0, mode="bilinear", align_corners=False
        )[:, 0]
        height, width = logits.shape[-2:]
        if num_points >= 4 * height * width and step < steps - 1:
            continue
        flat = logits.flatten(1)
        chosen = flat.abs().topk(min(num_points, height * width), dim=1, largest=False).indices
        points = grid_points(height, width, logits.device)[chosen]
        logits = flat.scatter(1, chosen, predict(points)).unflatten(1, (height, width))
    return logits
