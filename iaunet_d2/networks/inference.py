"""From class logits and mask logits to scored instances (IAUNet, section 3.2.3)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .query_decoder import QueryPrediction, mask_logits
from .scored_masks import ScoredMasks, mask_nms, on_cpu, tight_crops

# Mask logits are computed, and on an accelerator masks are raised to full size, this many pixels at
# a time: bounds memory for many queries on large images.
CHUNK_PIXELS = 1 << 25
CPU_CHUNK_PIXELS = 1 << 21

# A raised pixel above the threshold lies less than one low-resolution pixel from one that is above;
# its neighbours in the second resizing need one more to be exact.
MARGIN = 2

# What a logit that is no number counts as.
NOWHERE = -1e4


def rescored_instances(
    prediction: QueryPrediction,
    index: int,
    mask_features: Tensor,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    max_instances: int,
    mask_threshold: float = 0.5,
    score_threshold: float = 0.01,
    nms_threshold: float = 0.0,
) -> ScoredMasks:
    """Choose, rescore and resize the instances of one image from mask embeddings.

    Args:
        prediction: of the last query block, for the whole batch.
        index: the image's place in the batch.
        mask_features: (B, C, h, w).

    The others are those of :func:`rescored_masks`.
    """
    return rescored_masks(
        prediction.class_logits[index],
        logits_of_queries(prediction, index, mask_features),
        padded_size,
        image_size,
        output_size,
        max_instances,
        mask_threshold,
        score_threshold,
        nms_threshold,
    )


def logits_of_queries(
    prediction: QueryPrediction, index: int, mask_features: Tensor
) -> Callable[[Tensor], Tensor]:
    """A function from queries (n,) of the image ``index`` to their mask logits (n, h, w)."""

    if prediction.masks is not None:
        return prediction.masks[index].__getitem__

    def logits_of(queries: Tensor) -> Tensor:
        embeddings = prediction.mask_embeddings[index][queries]
        return mask_logits(embeddings[None], mask_features[index][None])[0]

    return logits_of


def rescored_masks(
    class_logits: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    max_instances: int,
    mask_threshold: float = 0.5,
    score_threshold: float = 0.01,
    nms_threshold: float = 0.0,
) -> ScoredMasks:
    """Choose, rescore and resize the instances of one image.

    Args:
        class_logits: (Q, K + 1).
        logits_of: mask logits (n, h, w) of the chosen queries (n,).
        padded_size: size of the network's input (H, W).
        image_size: size of the image inside it, without padding.
        output_size: size of the original image, which the masks get.
        max_instances: at most this many pairs of query and class are looked at.
        mask_threshold: a pixel is inside where its probability exceeds this.
        score_threshold: an instance stays where its score exceeds this.
        nms_threshold: same-class mask IoU above which the lower-scored goes; 0 turns it off.

    Returns:
        the instances; a score is the class probability times the mean probability of the mask's
        pixels.
    """
    return rescored_queries(
        class_logits,
        logits_of,
        padded_size,
        image_size,
        output_size,
        max_instances,
        mask_threshold,
        score_threshold,
        nms_threshold,
    )[0]


def rescored_queries(
    class_logits: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    max_instances: int,
    mask_threshold: float = 0.5,
    score_threshold: float = 0.01,
    nms_threshold: float = 0.0,
) -> tuple[ScoredMasks, Tensor]:
    """As :func:`rescored_masks`, and the query of each instance: (n,) int64 on the CPU."""
    probability = class_logits.float().softmax(-1)[:, :-1]  # (Q, K)
    num_classes = probability.shape[1]
    k = min(max_instances, probability.numel())
    scores, chosen = probability.flatten().topk(k)
    # The mask factor is at most 1: what is below the threshold now stays below.
    keep = scores > score_threshold
    scores, chosen = scores[keep], chosen[keep]
    raising = _Raising(padded_size, image_size, output_size, mask_threshold)
    crops, corners, maskness = raising.masks(chosen // num_classes, logits_of)
    scores = scores.cpu() * maskness
    found = ScoredMasks(crops, corners, scores, (chosen % num_classes).cpu(), output_size)
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > score_threshold]
    found, queries = found.take(order), (chosen // num_classes).cpu()[order]
    if nms_threshold > 0:
        kept = mask_nms(found, nms_threshold)
        found, queries = found.take(kept), queries[kept]
    return found, queries


def raised_masks(
    logits_of: Callable[[Tensor], Tensor],
    queries: Tensor,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    mask_threshold: float = 0.5,
) -> ScoredMasks:
    """Resize the masks of queries (n,), in their order, empty ones too.

    Their scores are the mean probabilities of their pixels, 0 for an empty mask; the classes 0.
    The other arguments are those of :func:`rescored_masks`.
    """
    raising = _Raising(padded_size, image_size, output_size, mask_threshold)
    crops, corners, maskness = raising.masks(queries, logits_of)
    return ScoredMasks(crops, corners, maskness, torch.zeros(len(crops)).long(), output_size)


@dataclass(frozen=True)
class _Raising:
    """Raises mask logits to the network's input, and their probabilities to the original size.

    On the CPU each mask is raised only where it can be above the threshold; an accelerator is
    quicker with many whole masks at once. Either way gives the same masks.
    """

    padded_size: tuple[int, int]
    image_size: tuple[int, int]
    output_size: tuple[int, int]
    threshold: float

    def masks(
        self, queries: Tensor, logits_of: Callable[[Tensor], Tensor]
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Crops and corners as in :class:`ScoredMasks`, and the mean foreground probability (N,).

        A mask without a pixel has an empty crop and the mean 0.
        """
        crops: list[Tensor] = []
        corners = [torch.zeros(0, 2, dtype=torch.int64)]
        maskness: list[float] = []
        cpu = queries.device.type == "cpu"
        for part in queries.split(self._step(cpu)):
            logits = logits_of(part).float().nan_to_num(nan=NOWHERE)
            found = self._regions(logits) if cpu else self._frames(logits)
            tight, where = tight_crops([f[0] for f in found], [f[1:3] for f in found])
            crops += tight
            corners.append(where)
            maskness += [f[3] for f in found]
        return crops, torch.cat(corners), torch.tensor(maskness)

    def _step(self, cpu: bool) -> int:
        """Masks at a time; on the CPU only logits are made in parts, at 1/16 of the pixels."""
        padded = self.padded_size[0] * self.padded_size[1]
        if cpu:
            return max(1, 16 * CPU_CHUNK_PIXELS // padded)
        return max(1, CHUNK_PIXELS // max(padded, self.output_size[0] * self.output_size[1]))

    def _frames(self, logits: Tensor) -> list[tuple[Tensor, int, int, float]]:
        """Whole masks (n, h, w) at once: as :meth:`_regions`."""
        raised = _resize(logits, self.padded_size).sigmoid()
        raised = raised[:, : self.image_size[0], : self.image_size[1]]
        probability = _resize(raised, self.output_size)
        inside = probability > self.threshold
        count = inside.sum((1, 2))
        means = (torch.where(inside, probability, 0).sum((1, 2)) / (count + 1e-6)).tolist()
        # Only what is around the pixels leaves the accelerator, all at once.
        rows, columns = (_extents(inside.any(dim), inside.shape[3 - dim], 0) for dim in (2, 1))
        regions = on_cpu(
            [
                mask[slice(*row), slice(*column)]
                for mask, row, column in zip(inside, rows, columns, strict=True)
            ]
        )
        return [
            (region, row[0], column[0], mean)
            for region, row, column, mean in zip(regions, rows, columns, means, strict=True)
        ]

    def _regions(self, logits: Tensor) -> list[tuple[Tensor, int, int, float]]:
        """Masks (n, h, w) one by one: the pixels of a region, its corner and mean probability."""
        height, width = logits.shape[-2:]
        above = logits > torch.tensor(self.threshold, dtype=torch.float64).logit().item()
        rows = _extents(above.any(2), height, MARGIN)
        columns = _extents(above.any(1), width, MARGIN)
        return [
            self._region(mask, row, column)
            for mask, row, column in zip(logits, rows, columns, strict=True)
        ]

    def _region(
        self, logits: Tensor, rows: tuple[int, int], columns: tuple[int, int]
    ) -> tuple[Tensor, int, int, float]:
        """One mask (h, w), raised in these low-resolution rows and columns only."""
        if rows[0] >= rows[1]:
            return torch.zeros(0, 0, dtype=torch.bool), 0, 0, 0.0
        rows, (top, bottom) = _first_resizing(rows, logits.shape[0], self.padded_size[0])
        columns, (left, right) = _first_resizing(columns, logits.shape[1], self.padded_size[1])
        part = logits[slice(*rows), slice(*columns)]
        part = _resize(part[None], (bottom - top, right - left))[0].sigmoid()
        part = part[: max(self.image_size[0] - top, 0), : max(self.image_size[1] - left, 0)]
        if part.numel() == 0:
            return torch.zeros(0, 0, dtype=torch.bool), 0, 0, 0.0
        if self.output_size != self.image_size:
            top, part = _second_resizing(part, 0, top, self.image_size[0], self.output_size[0])
            left, part = _second_resizing(part, 1, left, self.image_size[1], self.output_size[1])
        inside = part > self.threshold
        count = int(inside.count_nonzero())
        # The sum over the foreground, without a copy of it.
        total = float(part.sub_(self.threshold).clamp_(min=0).sum()) + self.threshold * count
        return inside, top, left, total / (count + 1e-6)


def _extents(occupied: Tensor, length: int, margin: int) -> list[tuple[int, int]]:
    """First and one past the last True of each row (n, length), with a margin; (0, 0) if none."""
    first = occupied.int().argmax(1)
    last = length - 1 - occupied.int().flip(1).argmax(1)
    return [
        (max(a - margin, 0), min(b + 1 + margin, length)) if some else (0, 0)
        for some, a, b in zip(occupied.any(1).tolist(), first.tolist(), last.tolist(), strict=True)
    ]


def _first_resizing(
    part: tuple[int, int], low: int, high: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """A range of ``low`` cells and the ``high`` pixels they cover; all, if no whole ones."""
    if high % low:
        return (0, low), (0, high)
    scale = high // low
    return part, (part[0] * scale, part[1] * scale)


def _second_resizing(part: Tensor, dim: int, start: int, size: int, out: int) -> tuple[int, Tensor]:
    """Bilinear resizing of one dimension from ``size`` to ``out``, of a part from ``start`` on.

    Returns:
        the first output that depends on the part alone, and all outputs that do.
    """
    source = ((torch.arange(out) + 0.5) * (size / out) - 0.5).clamp(min=0)
    low = source.long().clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    covered = ((low >= start) & (high < start + part.shape[dim])).nonzero()[:, 0]
    low, high, share = low[covered], high[covered], (source - low)[covered]
    share = share[:, None] if dim == 0 else share
    before, after = part.index_select(dim, low - start), part.index_select(dim, high - start)
    return int(covered[0]) if len(covered) else 0, torch.lerp(before, after, share)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners not aligned: (N, h, w) -> (N, H, W)."""
    if maps.shape[-2:] == size or len(maps) == 0:
        return maps.new_zeros(0, *size) if len(maps) == 0 else maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
