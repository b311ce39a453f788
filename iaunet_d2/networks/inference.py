"""From class logits and mask embeddings to scored instances (IAUNet, section 3.2.3)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .query_decoder import QueryPrediction

# Masks are raised to full size this many pixels at a time: bounds memory for many queries on large
# images.
CHUNK_PIXELS = 1 << 25


@dataclass
class ScoredMasks:
    """Instances of one image, best first.

    Attributes:
        masks: (N, H, W) bool at the original size.
        scores: (N,) class probability times mean foreground mask probability.
        classes: (N,) int64.
    """

    masks: Tensor
    scores: Tensor
    classes: Tensor


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

    def logits_of(queries: Tensor) -> Tensor:
        embeddings = prediction.mask_embeddings[index][queries]
        return torch.einsum("nc,chw->nhw", embeddings, mask_features[index])

    return rescored_masks(
        prediction.class_logits[index],
        logits_of,
        padded_size,
        image_size,
        output_size,
        max_instances,
        mask_threshold,
        score_threshold,
        nms_threshold,
    )


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
    """
    probability = class_logits.float().softmax(-1)[:, :-1]  # (Q, K)
    num_classes = probability.shape[1]
    k = min(max_instances, probability.numel())
    scores, chosen = probability.flatten().topk(k)
    # The mask factor is at most 1: what is below the threshold now stays below.
    keep = scores > score_threshold
    scores, chosen = scores[keep], chosen[keep]
    logits = logits_of(chosen // num_classes)
    masks, maskness = _full_size(logits, padded_size, image_size, output_size, mask_threshold)
    scores = scores * maskness
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > score_threshold]
    found = ScoredMasks(masks[order], scores[order], (chosen % num_classes)[order])
    if nms_threshold > 0:
        kept = mask_nms(found.masks, found.classes, nms_threshold)
        found = ScoredMasks(found.masks[kept], found.scores[kept], found.classes[kept])
    return found


def _full_size(
    logits: Tensor,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    threshold: float,
) -> tuple[Tensor, Tensor]:
    """Masks (N, H, W) at the output size, and the mean probability of their foreground (N,)."""
    masks = torch.empty(len(logits), *output_size, dtype=torch.bool, device=logits.device)
    maskness = torch.empty(len(logits), device=logits.device)
    largest = max(padded_size[0] * padded_size[1], output_size[0] * output_size[1])
    step = max(1, CHUNK_PIXELS // largest)
    for start in range(0, len(logits), step):
        part = slice(start, start + step)
        raised = _resize(logits[part].float(), padded_size).sigmoid()
        probability = _resize(raised[:, : image_size[0], : image_size[1]], output_size)
        inside = probability > threshold
        masks[part] = inside
        foreground = inside.float()
        maskness[part] = (probability * foreground).sum((1, 2)) / (foreground.sum((1, 2)) + 1e-6)
    return masks, maskness


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners not aligned: (N, h, w) -> (N, H, W)."""
    if maps.shape[-2:] == size or len(maps) == 0:
        return maps.new_zeros(0, *size) if len(maps) == 0 else maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def mask_nms(masks: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Greedy suppression by mask IoU inside each class.

    Args:
        masks: (N, H, W) bool, best first.
        classes: (N,).
        threshold: a mask goes where its IoU with a better kept one exceeds this.

    Returns:
        indices of the kept masks, ascending.
    """
    flat = masks.flatten(1).float()
    intersection = flat @ flat.T
    area = flat.sum(1)
    iou = intersection / (area[:, None] + area[None] - intersection).clamp(min=1)
    clash = (iou > threshold) & (classes[:, None] == classes[None])
    kept: list[int] = []
    for i, row in enumerate(clash.cpu()):
        if not row[kept].any():
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64, device=masks.device)
