"""Losses of seeded queries: matching that knows where a query began, heat, and teacher queries."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .criterion import SetCriterion, Target, mean_over_processes
from .matcher import Match, hungarian
from .seeded_decoder import SeededPrediction, Seeds


class SeededCriterion(SetCriterion):
    """As its base class, for predictions of :class:`~.seeded_decoder.SeededDecoder`.

    Args:
        heat_weight: of the loss of the heat map.
        teacher_weight: of the mask losses of the teacher queries.
        location_cost: of a query whose anchor lies outside an instance, in matching (FastInst,
            section 3.4).
        options: of the base class.
    """

    def __init__(
        self,
        *args: Any,
        heat_weight: float = 1.0,
        teacher_weight: float = 1.0,
        location_cost: float = 100.0,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.heat_weight, self.teacher_weight = heat_weight, teacher_weight
        self.location_cost = location_cost

    def forward(
        self,
        predictions: Sequence[SeededPrediction],  # type: ignore[override]
        mask_features: Tensor,
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Compute the losses, already weighted; see the base class."""
        seeds = predictions[-1].seeds
        if seeds is None:
            raise ValueError("the predictions have no seeds: another query decoder made them")
        with torch.autocast(device_type=mask_features.device.type, enabled=False):
            class_logits = torch.stack([p.class_logits for p in predictions]).float()
            embeddings = torch.stack([p.mask_embeddings for p in predictions]).float()
            features = mask_features.float()
            with torch.no_grad():
                matches = self._matches(class_logits, embeddings, features, targets, seeds)
            ce = self._seeded_class_loss(class_logits, matches, targets, seeds)
            bce, dice = self._mask_losses(embeddings, features, matches, targets)
            losses = self._named(ce, bce, dice)
            losses.update(self._teacher_losses(predictions, features, targets, seeds))
            if seeds.targets is not None:
                losses["loss_heat"] = self.heat_weight * heat_loss(seeds, targets)
        return losses

    def _matches(
        self,
        class_logits: Tensor,
        embeddings: Tensor,
        features: Tensor,
        targets: Sequence[Target],
        seeds: Seeds,
    ) -> list[Match]:
        """Assign the queries of all images; a query outside an instance costs more for it."""
        costs = []
        for b, target in enumerate(targets):
            own = int(seeds.valid[b].sum())  # the valid ones come first
            cost = self._costs(
                class_logits[:, b, :own], embeddings[:, b, :own], features[b], target
            )
            costs.append(cost + self.location_cost * outside(seeds.anchors[b, :own], target.masks))
        return hungarian(costs)

    def _seeded_class_loss(
        self,
        class_logits: Tensor,
        matches: Sequence[Match],
        targets: Sequence[Target],
        seeds: Seeds,
    ) -> Tensor:
        """Weighted mean cross-entropy over the queries there are, per prediction: (L,)."""
        expected = torch.full(class_logits.shape[:3], self.num_classes, device=class_logits.device)
        for b, (match, target) in enumerate(zip(matches, targets, strict=True)):
            expected[:, b].scatter_(1, match.queries, target.labels[match.targets])
        losses = F.cross_entropy(
            class_logits.flatten(0, 2), expected.flatten(), self.class_weights, reduction="none"
        ).view_as(expected)
        weight = self.class_weights[expected] * seeds.valid
        total = (losses * seeds.valid).sum(dim=(1, 2))
        return total / weight.sum(dim=(1, 2)).clamp(min=1e-6)

    def _teacher_losses(
        self,
        predictions: Sequence[SeededPrediction],
        features: Tensor,
        targets: Sequence[Target],
        seeds: Seeds,
    ) -> dict[str, Tensor]:
        """Mask losses of the teacher queries over all blocks; nothing where there are none."""
        if not seeds.taught.numel():
            return {}
        taught_masks = [p.teacher_embeddings for p in predictions]
        embeddings = torch.stack([e for e in taught_masks if e is not None]).float()
        count, matches = len(predictions), []
        for taught in seeds.taught:
            queries = (taught >= 0).nonzero()[:, 0]
            pair = queries.expand(count, -1), taught[queries].expand(count, -1)
            matches.append(Match(*pair))
        bce, dice = self._mask_losses(embeddings, features, matches, targets)
        most = max(len(t.labels) for t in targets)
        weight = self.teacher_weight / max(seeds.taught.shape[1] // max(most, 1), 1)
        return {
            "loss_teacher_mask": weight * self.weights.mask_weight * bce.sum(),
            "loss_teacher_dice": weight * self.weights.dice_weight * dice.sum(),
        }


def outside(anchors: Tensor, masks: Tensor) -> Tensor:
    """Return 1 where an anchor (Q, 2), in pixels, lies outside a mask (N, H, W): (Q, N)."""
    x, y = anchors.long().unbind(-1)
    y, x = y.clamp(max=masks.shape[1] - 1), x.clamp(max=masks.shape[2] - 1)
    return (~masks[:, y, x]).T.float()


def heat_loss(seeds: Seeds, targets: Sequence[Target]) -> Tensor:
    """Return the quality focal loss of the heat map, summed, per instance.

    Cross-entropy weighted by the squared distance to the target (Li et al., NeurIPS 2020,
    https://arxiv.org/abs/2006.04388).
    """
    wanted = torch.zeros_like(seeds.heat)
    for row, target in zip(wanted, seeds.targets or (), strict=True):
        row[: target.heat.shape[0], : target.heat.shape[1]] = target.heat.to(row)
    entropy = F.binary_cross_entropy_with_logits(seeds.heat, wanted, reduction="none")
    loss = (entropy * (seeds.heat.sigmoid() - wanted).square()).sum()
    count = mean_over_processes(sum(len(t.labels) for t in targets), loss.device).clamp(min=1)
    return loss / count
