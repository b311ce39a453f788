"""Matching and losses over all supervised predictions (IAUNet, section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .matcher import CostWeights, Match, hungarian, matching_costs
from .points import sample_points, uncertain_points
from .query_decoder import QueryPrediction


@dataclass(frozen=True)
class Target:
    """Ground truth of one image.

    Attributes:
        labels: (N,) int64 class indices.
        masks: (N, H, W) bool at the size of the padded input; overlaps stay.
    """

    labels: Tensor
    masks: Tensor


class SetCriterion(nn.Module):
    """Hungarian matching, then cross-entropy, binary cross-entropy and dice, for every prediction.

    Masks are never materialised for unmatched queries: matching reads the mask features at random
    points, the losses read the matched masks.

    Args:
        num_classes: K, "no object" not counted.
        weights: of the three losses and of the three matching costs.
        no_object_weight: weight of "no object" in the cross-entropy.
        num_points: points per mask in the mask losses; 0 compares every pixel of the padded input.
        oversample_ratio, importance_sample_ratio: see
            :func:`~iaunet_d2.networks.points.uncertain_points`.
        matcher_points: uniformly random points per image for the matching costs.
    """

    class_weights: Tensor

    def __init__(
        self,
        num_classes: int = 1,
        weights: CostWeights | None = None,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        matcher_points: int = 12544,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weights = weights or CostWeights()
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.matcher_points = matcher_points
        class_weights = torch.ones(num_classes + 1)
        class_weights[-1] = no_object_weight
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self,
        predictions: Sequence[QueryPrediction],
        mask_features: Tensor,
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Losses, already weighted.

        Args:
            predictions: of the supervised blocks, the last one is the final prediction.
            mask_features: (B, C, H, W).
            targets: one per image.

        Returns:
            ``loss_ce``, ``loss_mask`` and ``loss_dice`` of the final prediction, and the same with
            ``_0``, ``_1`` … for the earlier ones.
        """
        # Costs and losses in float32 whatever autocast does: half precision overflows in the sums
        # over points.
        with torch.autocast(device_type=mask_features.device.type, enabled=False):
            # (L, B, Q, K+1) and (L, B, Q, C)
            class_logits = torch.stack([p.class_logits for p in predictions]).float()
            embeddings = torch.stack([p.mask_embeddings for p in predictions]).float()
            features = mask_features.float()
            matches = self.match(class_logits, embeddings, features, targets)
            ce = self._class_loss(class_logits, matches, targets)
            bce, dice = self._mask_losses(embeddings, features, matches, targets)
        return self._named(ce, bce, dice)

    @torch.no_grad()
    def match(
        self,
        class_logits: Tensor,
        embeddings: Tensor,
        features: Tensor,
        targets: Sequence[Target],
    ) -> list[Match]:
        """Assign the queries of all images: (L, B, Q, K+1), (L, B, Q, C), (B, C, H, W), B targets.

        All cost matrices of a step move to the CPU in one transfer.
        """
        return hungarian(
            [
                self._costs(class_logits[:, b], embeddings[:, b], features[b], target)
                for b, target in enumerate(targets)
            ]
        )

    def _costs(
        self, class_logits: Tensor, embeddings: Tensor, features: Tensor, target: Target
    ) -> Tensor:
        """Matching costs of one image (L, Q, N): (L, Q, K+1), (L, Q, C), (C, H, W)."""
        if target.labels.numel() == 0:
            return class_logits.new_zeros(*class_logits.shape[:2], 0)
        points = torch.rand(1, self.matcher_points, 2, device=features.device)
        at_points = sample_points(features[None], points)[0]  # (C, P)
        masks_at_points = sample_points(target.masks[None].float(), points)[0]  # (N, P)
        # Sampling is linear: features at the points times embeddings are the masks at the points.
        # A cache holds one output's, an accelerator all outputs'.
        step = 1 if features.device.type == "cpu" else len(embeddings)
        costs = [
            matching_costs(logits, e @ at_points, target.labels, masks_at_points, self.weights)
            for logits, e in zip(class_logits.split(step), embeddings.split(step), strict=True)
        ]
        return torch.cat(costs)

    def _class_loss(
        self,
        class_logits: Tensor,
        matches: Sequence[Match],
        targets: Sequence[Target],
        counted: Tensor | None = None,
    ) -> Tensor:
        """Weighted mean cross-entropy over the batch's queries, per prediction: (L,).

        ``counted`` (B, Q) is False for queries that do not count; None counts all.
        """
        expected = torch.full(class_logits.shape[:3], self.num_classes, device=class_logits.device)
        for b, (match, target) in enumerate(zip(matches, targets, strict=True)):
            expected[:, b].scatter_(1, match.queries, target.labels[match.targets])
        losses = F.cross_entropy(
            class_logits.flatten(0, 2), expected.flatten(), self.class_weights, reduction="none"
        ).view_as(expected)
        weight = self.class_weights[expected]
        if counted is not None:
            losses, weight = losses * counted, weight * counted
        return losses.sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1e-6)

    def _mask_losses(
        self,
        embeddings: Tensor,
        features: Tensor,
        matches: Sequence[Match],
        targets: Sequence[Target],
    ) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy and dice of the matched masks, per instance: two (L,)."""
        # Times 0: with no instance in the batch every parameter still takes part in the backward
        # pass.
        nothing = 0.0 * (embeddings.sum(dim=(1, 2, 3)) + features.sum())
        bce, dice = nothing, nothing
        for b, (match, target) in enumerate(zip(matches, targets, strict=True)):
            if match.queries.shape[1] == 0:
                continue
            index = match.queries[..., None].expand(-1, -1, embeddings.shape[-1])
            matched = embeddings[:, b].gather(1, index).transpose(0, 1)  # (n, L, C)
            logits = torch.einsum("nlc,chw->nlhw", matched, features[b])
            pairs = self._pairs_at_points if self.num_points else self._pairs_at_pixels
            predicted, expected = pairs(logits, match, target)  # (n, L, P) each
            bce = bce + F.binary_cross_entropy_with_logits(
                predicted, expected, reduction="none"
            ).mean(2).sum(0)
            dice = dice + dice_loss(predicted, expected).sum(0)
        count = mean_over_processes(sum(len(t.labels) for t in targets), features.device).clamp(
            min=1
        )
        return bce / count, dice / count

    def _pairs_at_points(
        self, logits: Tensor, match: Match, target: Target
    ) -> tuple[Tensor, Tensor]:
        """Matched logits (n, L, H, W) and their masks at uncertain points: (n, L, P) each."""
        points = self._points(logits.detach(), match, target)
        predicted = sample_points(logits.flatten(0, 1)[:, None], points.flatten(0, 1))[:, 0]
        with torch.no_grad():
            expected = _masks_at_points(target.masks, match.targets, points)
        return predicted.view_as(expected), expected

    def _points(self, logits: Tensor, match: Match, target: Target) -> Tensor:
        """Points (n, L, P, 2) at which matched logits (n, L, H, W) are compared."""
        return uncertain_points(
            logits, self.num_points, self.oversample_ratio, self.importance_sample_ratio
        )

    @staticmethod
    def _pairs_at_pixels(logits: Tensor, match: Match, target: Target) -> tuple[Tensor, Tensor]:
        """Matched logits, raised to the padded input's size, and their masks: (n, L, H W) each."""
        size = target.masks.shape[-2:]
        raised = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return raised.flatten(2), target.masks[match.targets.T].flatten(2).float()

    def _named(self, ce: Tensor, bce: Tensor, dice: Tensor) -> dict[str, Tensor]:
        losses = {
            "loss_ce": ce * self.weights.class_weight,
            "loss_mask": bce * self.weights.mask_weight,
            "loss_dice": dice * self.weights.dice_weight,
        }
        last = len(ce) - 1
        return {
            name if i == last else f"{name}_{i}": values[i]
            for i in (last, *range(last))
            for name, values in losses.items()
        }


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss with +1 smoothing of paired masks: (..., P) and (..., P) to (...)."""
    probability = logits.sigmoid()
    overlap = (probability * targets).sum(-1)
    return 1 - (2 * overlap + 1) / (probability.sum(-1) + targets.sum(-1) + 1)


def _masks_at_points(masks: Tensor, index: Tensor, points: Tensor) -> Tensor:
    """Masks (N, H, W) chosen by ``index`` (L, n) at their own points (n, L, P, 2): (n, L, P)."""
    n, outputs = points.shape[:2]
    if n == len(masks):
        # Every output matches every instance, in order: sample each mask once, at all outputs'
        # points.
        sampled = sample_points(masks[:, None].float(), points.flatten(1, 2))[:, 0]
        return sampled.unflatten(1, (outputs, -1))
    chosen = [
        sample_points(masks[i][:, None].float(), points[:, output])[:, 0]
        for output, i in enumerate(index)
    ]
    return torch.stack(chosen, dim=1)


def mean_over_processes(count: int, device: torch.device) -> Tensor:
    """The mean of a count over all processes."""
    total = torch.tensor(float(count), device=device)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return total
