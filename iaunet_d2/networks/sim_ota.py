"""SimOTA: which priors of a dense detector learn which objects.

Section 2.1 of YOLOX (Ge et al., 2021, https://arxiv.org/abs/2107.08430), with the constants that
VSM (NeurIPS 2022 cell segmentation challenge) trained with. A prior is one cell of one level's
grid; it predicts one box.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

IOU_WEIGHT = 3.0
OUTSIDE_COST = 1e6
TOP_IOUS = 10
EPS = 1e-7
LEAST_LOG = -100.0  # where torch.nn.functional.binary_cross_entropy bounds a logarithm, too
PAIRS_AT_ONCE = 2**22  # 16 MiB per float32 matrix


@dataclass(frozen=True)
class PriorMatch:
    """The assignment of one image.

    Attributes:
        priors: (n,) int64 index of each positive prior, ascending; each occurs once.
        targets: (n,) int64 index of its ground-truth box.
    """

    priors: Tensor
    targets: Tensor


@dataclass(frozen=True)
class PriorOutputs:
    """What the priors of one image predict.

    Attributes:
        boxes: (P, 4) x0, y0, x1, y1 in pixels.
        objectness: (P,) logits.
        class_logits: (P, K).
    """

    boxes: Tensor
    objectness: Tensor
    class_logits: Tensor


@torch.no_grad()
def sim_ota(
    priors: Tensor,
    outputs: PriorOutputs,
    target_boxes: Tensor,
    target_labels: Tensor,
    centre_radius: float = 2.5,
) -> PriorMatch:
    """Give each ground-truth box the priors whose predictions fit it best already.

    Candidates are the priors whose centre lies inside a box, or inside the square that reaches
    ``centre_radius`` strides from a box's centre. Each box claims its k cheapest candidates, k =
    max(1, floor of the sum of its ten best IoUs). The cost is the binary cross-entropy of
    sqrt(class x objectness) and the one-hot class, plus 3 (-log IoU), plus 1e6 unless the prior is
    inside both the box and the square. A prior that several boxes claim goes to the lowest cost, as
    in the published code the lowest of all boxes, so that it can go to one that did not claim it,
    and a box can end up without a prior.

    A box without a candidate of its own (its centre is off the image) is left out. The published
    code gives it a candidate of another box, from which nothing can be learnt.

    Args:
        priors: (P, 3) x and y of the centre and stride, in pixels.
        outputs: what they predict now.
        target_boxes: (N, 4), possibly none.
        target_labels: (N,) int64.
        centre_radius: 2.5 is VSM's; the later 1.5 of YOLOX goes with another set of candidates.
    """
    # Half precision neither holds 1e6 nor has the digits to rank costs.
    dtype = torch.promote_types(outputs.boxes.dtype, torch.float32)
    priors, target_boxes = priors.to(dtype), target_boxes.to(dtype)
    candidates, own = _with_candidates(priors, target_boxes, centre_radius)
    if len(candidates) == 0:
        return PriorMatch(candidates, own)
    chosen = PriorOutputs(
        outputs.boxes[candidates].to(dtype),
        outputs.objectness[candidates].to(dtype),
        outputs.class_logits[candidates].to(dtype),
    )
    matched, targets = _claimed(
        priors[candidates], chosen, target_boxes[own], target_labels[own], centre_radius
    )
    return PriorMatch(candidates[matched], own[targets])


def class_costs(objectness: Tensor, class_logits: Tensor) -> Tensor:
    """Binary cross-entropy of sqrt(class x objectness) and each one-hot class, summed over classes.

    Args:
        objectness: (P,) logits.
        class_logits: (P, K).

    Returns:
        (P, K): the cost of a target of class k.
    """
    probability = (class_logits.sigmoid() * objectness.sigmoid()[:, None]).sqrt()
    yes = -probability.log().clamp(min=LEAST_LOG)
    no = -torch.log1p(-probability).clamp(min=LEAST_LOG)
    # Only the target's class has another term than the sum over all: no (P, N, K) is needed.
    return no.sum(1, keepdim=True) - no + yes


def inside_and_near(
    priors: Tensor, target_boxes: Tensor, centre_radius: float
) -> tuple[Tensor, Tensor]:
    """Which priors' centres lie inside the boxes, and which in the squares around their centres.

    Borders are outside. (P, 3) and (N, 4) to two (P, N) bool.
    """
    x, y, stride = (column[:, None] for column in priors.unbind(1))
    x0, y0, x1, y1 = target_boxes.unbind(1)
    inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)
    reach = centre_radius * stride
    near = ((x - (x0 + x1) / 2).abs() < reach) & ((y - (y0 + y1) / 2).abs() < reach)
    return inside, near


def _with_candidates(
    priors: Tensor, target_boxes: Tensor, centre_radius: float
) -> tuple[Tensor, Tensor]:
    """Indices of the priors that are candidates, and of the boxes that have any."""
    of_any = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
    have = []
    for part in _parts(len(priors), len(target_boxes)):
        inside, near = inside_and_near(priors, target_boxes[part], centre_radius)
        either = inside | near
        of_any |= either.any(1)
        have.append(either.any(0))
    own = torch.cat(have) if have else of_any[:0]
    return of_any.nonzero()[:, 0], own.nonzero()[:, 0]


def _claimed(
    priors: Tensor,
    outputs: PriorOutputs,
    target_boxes: Tensor,
    target_labels: Tensor,
    centre_radius: float,
) -> tuple[Tensor, Tensor]:
    """Positive candidates and the box of each, both (n,); there is one candidate at least."""
    by_class = class_costs(outputs.objectness, outputs.class_logits)
    claims = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
    claimant, cheapest_target = torch.zeros_like(claims), torch.zeros_like(claims)
    lowest = torch.full_like(by_class[:, 0], torch.inf)
    for part in _parts(len(priors), len(target_boxes)):
        costs, ious = _pairs(
            priors, outputs, by_class, target_boxes[part], target_labels[part], centre_radius
        )
        prior, target = _cheapest(costs, ious)
        claims.index_add_(0, prior, torch.ones_like(prior))
        claimant[prior] = target + part.start  # of use only where there is one claim
        cost, target = costs.min(1)
        cheapest_target = torch.where(cost < lowest, target + part.start, cheapest_target)
        lowest = torch.minimum(cost, lowest)
    matched = claims.nonzero()[:, 0]
    targets = torch.where(claims > 1, cheapest_target, claimant)
    return matched, targets[matched]


def _pairs(
    priors: Tensor,
    outputs: PriorOutputs,
    by_class: Tensor,
    target_boxes: Tensor,
    target_labels: Tensor,
    centre_radius: float,
) -> tuple[Tensor, Tensor]:
    """Cost and IoU of every pair: two (P, N)."""
    inside, near = inside_and_near(priors, target_boxes, centre_radius)
    # Two boxes without an area have no IoU.
    ious = box_iou(outputs.boxes, target_boxes).nan_to_num_(0.0)
    costs = by_class[:, target_labels] - IOU_WEIGHT * (ious + EPS).log()
    return costs.add_(~(inside & near), alpha=OUTSIDE_COST), ious


def _cheapest(costs: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
    """What each box claims: indices of priors and of boxes, from two (P, N)."""
    most = min(TOP_IOUS, len(costs))
    count = ious.topk(most, dim=0).values.sum(0).long().clamp(1, most)
    ranked = costs.topk(most, dim=0, largest=False).indices
    rank, target = (torch.arange(most, device=costs.device)[:, None] < count).nonzero(as_tuple=True)
    return ranked[rank, target], target


def _parts(priors: int, targets: int) -> Iterator[slice]:
    """Spans of ground-truth boxes of which all pairs with the priors fit into memory."""
    step = max(PAIRS_AT_ONCE // max(priors, 1), 1)
    for start in range(0, targets, step):
        yield slice(start, min(start + step, targets))
