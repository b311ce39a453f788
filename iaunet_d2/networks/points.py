"""Sampling maps at points instead of pixels (PointRend, section 3; Mask2Former, section 3.3)."""

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
    grid = (2 * points - 1).unsqueeze(2)  # (N, P, 1, 2)
    return F.grid_sample(maps, grid.to(maps.dtype), mode="bilinear", align_corners=False).squeeze(3)


@torch.no_grad()
def uncertain_points(
    logits: Tensor, num_points: int, oversample_ratio: float, importance_sample_ratio: float
) -> Tensor:
    """Random points, most of them where a mask is least certain.

    Of ``oversample_ratio * num_points`` uniform candidates, the ``importance_sample_ratio`` share
    of ``num_points`` with logits nearest to 0 is kept; the rest is uniform again.

    Args:
        logits: (N, H, W), one map per mask.

    Returns:
        (N, num_points, 2), x and y in [0, 1].
    """
    count, device = logits.shape[0], logits.device
    num_uncertain = int(importance_sample_ratio * num_points)
    candidates = torch.rand(count, int(num_points * oversample_ratio), 2, device=device)
    distance = sample_points(logits[:, None], candidates)[:, 0].abs()  # (N, candidates)
    nearest = distance.topk(num_uncertain, dim=1, largest=False).indices
    chosen = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    uniform = torch.rand(count, num_points - num_uncertain, 2, device=device)
    return torch.cat([chosen, uniform], dim=1)
