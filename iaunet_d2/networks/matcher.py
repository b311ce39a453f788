"""One-to-one assignment of predictions to ground truth (IAUNet, section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class CostWeights:
    """Weights of the three terms, in matching and in the loss."""

    class_weight: float = 1.0
    mask_weight: float = 5.0
    dice_weight: float = 2.0


@dataclass(frozen=True)
class Match:
    """The assignment of one image for every supervised output.

    Attributes:
        queries: (L, n) index of the matched query, n = min(Q, N).
        targets: (L, n) index of the ground-truth instance, ascending along each row.
    """

    queries: Tensor
    targets: Tensor


def mask_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy between every prediction and every target.

    Args:
        logits: (..., Q, P) at P points.
        targets: (N, P) in [0, 1].

    Returns:
        (..., Q, N).
    """
    # BCE(x, t) = softplus(x) - x t: one matrix product serves all pairs.
    return (F.softplus(logits).sum(-1, keepdim=True) - logits @ targets.T) / logits.shape[-1]


def dice_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss ``1 - (2 sum(p g) + 1) / (sum(p) + sum(g) + 1)`` of every pair.

    Shapes as in :func:`mask_cost`: (..., Q, P) and (N, P) to (..., Q, N).
    """
    probability = logits.sigmoid()
    overlap = probability @ targets.T
    total = probability.sum(-1, keepdim=True) + targets.sum(-1)
    return 1 - (2 * overlap + 1) / (total + 1)


def matching_costs(
    class_logits: Tensor, logits: Tensor, labels: Tensor, targets: Tensor, weights: CostWeights
) -> Tensor:
    """Cost of giving each query each ground-truth instance.

    Args:
        class_logits: (..., Q, K + 1).
        logits: mask logits at P points, (..., Q, P).
        labels: (N,) class indices.
        targets: masks at the same points, (N, P).

    Returns:
        (..., Q, N), float32; what is not finite counts as 0.
    """
    probability = class_logits.float().softmax(-1)[..., labels]
    logits, targets = logits.float(), targets.float()
    cost = (
        -weights.class_weight * probability
        + weights.mask_weight * mask_cost(logits, targets)
        + weights.dice_weight * dice_cost(logits, targets)
    )
    return cost.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def hungarian(costs: Sequence[Tensor]) -> list[Match]:
    """Cheapest one-to-one assignments for each image's L cost matrices (L, Q, N).

    The matrices of all images move to the CPU in one transfer, and the assignments back in one.
    """
    if not costs:
        return []
    device = costs[0].device
    flat = torch.cat([c.detach().flatten() for c in costs]).cpu()
    parts = flat.split([c.numel() for c in costs])
    solved = [_assigned(p.view(c.shape).numpy()) for p, c in zip(parts, costs, strict=True)]
    pairs = torch.cat([s.flatten() for s in solved]).to(device)
    back = pairs.split([s.numel() for s in solved])
    return [Match(*p.view(s.shape)) for p, s in zip(back, solved, strict=True)]


def _assigned(costs: np.ndarray) -> Tensor:
    """Queries and targets of L cost matrices (L, Q, N): (2, L, n), targets ascending."""
    outputs, queries, targets = costs.shape
    found = np.empty((2, outputs, min(queries, targets)), dtype=np.int64)
    for output, cost in enumerate(costs):
        query, target = linear_sum_assignment(cost)
        order = target.argsort()
        found[:, output] = query[order], target[order]
    return torch.from_numpy(found)
