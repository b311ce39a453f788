"""Losses of seeded queries: matching that knows where a query began, heat, and teacher queries."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .criterion import SetCriterion, Target, mean_over_processes
from .matcher import Match, hungarian
from .points import points_around
from .seeded_decoder import SeededPrediction, Seeds


class SeededCriterion(SetCriterion):
    """As its base class, for predictions of :class:`~.seeded_decoder.SeededDecoder`.

    Args:
        heat_weight: of the loss of the heat map.
        teacher_weight: of the mask losses of the teacher queries.
        location_cost: of a query whose anchor lies outside an instance, in matching (FastInst,
            section 3.4).
        class_loss: ``cross_entropy``, the base class's; or ``quality``, a focal loss that wants a
            matched query's class probability to be its mask's IoU (quality focal loss, Li et al.,
            NeurIPS 2020), so that the better of two queries of a cell has the higher score.
        local_points: take the points of the mask losses around the instance, instead of all over
            the image, where a small cell gets few.
        options: of the base class.
    """

    def __init__(
        self,
        *args: Any,
        heat_weight: float = 1.0,
        teacher_weight: float = 1.0,
        location_cost: float = 100.0,
        class_loss: str = "cross_entropy",
        local_points: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        if class_loss not in ("quality", "cross_entropy"):
            raise ValueError(
                f"MODEL.SEEDED.LOSS.CLASS_LOSS is {class_loss!r}; it is 'quality' or "
                "'cross_entropy'"
            )
        self.class_loss = class_loss
        self.heat_weight, self.teacher_weight = heat_weight, teacher_weight
        self.location_cost, self.local_points = location_cost, local_points

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
                matches = self.match(class_logits, embeddings, features, targets, seeds)
            if self.class_loss == "quality":
                quality = mask_quality(embeddings, features, matches, targets)
                ce = self._quality_loss(class_logits, quality, matches, targets, seeds)
            else:
                ce = self._class_loss(class_logits, matches, targets, seeds.valid)
            bce, dice = self._mask_losses(embeddings, features, matches, targets)
            losses = self._named(ce, bce, dice)
            losses.update(self._teacher_losses(predictions, features, targets, seeds))
            if seeds.targets is not None:
                losses["loss_heat"] = self.heat_weight * heat_loss(seeds, targets)
        return losses

    def match(  # type: ignore[override]
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

    def _quality_loss(
        self,
        class_logits: Tensor,
        quality: Sequence[Tensor],
        matches: Sequence[Match],
        targets: Sequence[Target],
        seeds: Seeds,
    ) -> Tensor:
        """Quality focal loss over the queries there are, per instance: (L,)."""
        log = class_logits.log_softmax(-1)
        wanted = torch.zeros_like(log)
        wanted[..., -1] = 1
        for b, (match, target, own) in enumerate(zip(matches, targets, quality, strict=True)):
            rows = torch.arange(len(log), device=log.device)[:, None]
            wanted[rows, b, match.queries, target.labels[match.targets]] = own
            wanted[rows, b, match.queries, -1] = 1 - own
        away = (wanted - log.detach().exp())[..., :-1].square().sum(-1)
        losses = away * -(wanted * log.clamp(min=-100)).sum(-1) * seeds.valid
        count = mean_over_processes(sum(len(t.labels) for t in targets), log.device).clamp(min=1)
        return losses.sum(dim=(1, 2)) / count

    def _points(self, logits: Tensor, match: Match, target: Target) -> Tensor:
        """Points of the mask losses; see the base class."""
        if not self.local_points:
            return super()._points(logits, match, target)
        boxes = boxes_around(target.masks)[match.targets.T]  # (n, L, 4)
        points = points_around(
            logits.flatten(0, 1),
            boxes.flatten(0, 1),
            self.num_points,
            self.oversample_ratio,
            self.importance_sample_ratio,
        )
        return points.unflatten(0, logits.shape[:2])

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
        weight = self.teacher_weight / max(t.places.shape[1] for t in seeds.targets or ())
        return {
            "loss_teacher_mask": weight * self.weights.mask_weight * bce.sum(),
            "loss_teacher_dice": weight * self.weights.dice_weight * dice.sum(),
        }


@torch.no_grad()
def mask_quality(
    embeddings: Tensor, features: Tensor, matches: Sequence[Match], targets: Sequence[Target]
) -> list[Tensor]:
    """Return the IoU of matched masks with their instances, at the masks' stride: B of (L, n)."""
    found = []
    for b, (match, target) in enumerate(zip(matches, targets, strict=True)):
        index = match.queries[..., None].expand(-1, -1, embeddings.shape[-1])
        matched = embeddings[:, b].gather(1, index)  # (L, n, C)
        masks = torch.einsum("lnc,chw->lnhw", matched, features[b]).flatten(2) > 0
        stride = target.masks.shape[-1] // features.shape[-1]
        wanted = target.masks[:, stride // 2 :: stride, stride // 2 :: stride].flatten(1)
        wanted = wanted[match.targets]  # (L, n, h w)
        both = (masks & wanted).sum(-1)
        found.append(both / (masks | wanted).sum(-1).clamp(min=1))
    return found


def boxes_around(masks: Tensor) -> Tensor:
    """Return boxes of masks (N, H, W), a quarter wider on each side and 8 pixels more: (N, 4).

    Left, top, right and bottom in [0, 1]; of a mask without pixels the whole image.
    """
    edges = []
    for dim in (1, 2):  # what remains is x, then y
        length = masks.shape[3 - dim]
        occupied = masks.any(dim).int()
        first = occupied.argmax(1).float()
        last = length - occupied.flip(1).argmax(1).float()
        some = occupied.any(1)
        first, last = first.where(some, 0 * first), last.where(some, 0 * last + length)
        margin = (last - first) / 4 + 8
        low, high = (first - margin).clamp(min=0), (last + margin).clamp(max=length)
        edges.append((low / length, high / length))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=1)


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
