"""Boxes from several views of an image: views, their inverses, and two ways of merging."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from .yolox import Detected

Size = tuple[int, int]


@dataclass(frozen=True)
class View:
    """A way to look at an image: mirrored left to right or not, then turned.

    Attributes:
        turns: by 90 degrees counter-clockwise, 0 to 3.
        mirrored: whether it is mirrored first.
    """

    turns: int
    mirrored: bool


VIEWS = tuple(View(turns, mirrored) for mirrored in (False, True) for turns in range(4))
"""The eight of VSM (section 2.2.1); the first is the image itself."""


def seen(images: Tensor, view: View) -> Tensor:
    """Images (B, C, H, W) in a view: (B, C, H, W), or (B, C, W, H) after an odd turn."""
    mirrored = images.flip(-1) if view.mirrored else images
    return mirrored.rot90(view.turns, (-2, -1))


def boxes_from_view(boxes: Tensor, view: View, size: Size) -> Tensor:
    """Where boxes of a view are in the image.

    The paper's code goes over the unit square; in pixels no rounding error arises from it.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the view.
        view: the view.
        size: height and width of the image.

    Returns:
        (N, 4) in pixels of the image.
    """
    height, width = size
    for turn in reversed(range(view.turns)):
        # Undone is a turn that put x at y and y at (width before it) - x.
        before = height if turn % 2 else width
        x0, y0, x1, y1 = boxes.unbind(1)
        boxes = torch.stack([before - y1, x0, before - y0, x1], dim=1)
    if view.mirrored:
        x0, y0, x1, y1 = boxes.unbind(1)
        boxes = torch.stack([width - x1, y0, width - x0, y1], dim=1)
    return boxes


def suppressed(found: Sequence[Detected], iou: float) -> Detected:
    """Merge views by suppression: a box goes whose IoU with a better one of its class exceeds.

    Args:
        found: one per view, boxes in pixels of the image.
        iou: the threshold.
    """
    joined = _joined(found)
    kept = batched_nms(joined.boxes.float(), joined.scores.float(), joined.labels, iou)
    return Detected(joined.boxes[kept], joined.scores[kept], joined.labels[kept])


def fused(found: Sequence[Detected], iou: float) -> Detected:
    """Merge views by weighted box fusion (Solovyev et al., https://arxiv.org/abs/1910.13302).

    From the best-scored box down, each joins the cluster of its class whose box it overlaps most,
    if the IoU exceeds the threshold, or starts one. A cluster's box is the mean of its boxes,
    weighted by their scores; its score is their mean, times the share of the views that its boxes
    could be of, at most 1 (section 3).

    Args:
        found: one per view, boxes in pixels of the image.
        iou: the threshold.
    """
    joined = _joined(found)
    order = joined.scores.argsort(descending=True, stable=True).cpu().numpy()
    boxes = joined.boxes.double().cpu().numpy()[order]
    scores = joined.scores.double().cpu().numpy()[order]
    labels = joined.labels.cpu().numpy()[order]
    clusters = _Clusters(len(order))
    for box, score, label in zip(boxes, scores, labels, strict=True):
        clusters.add(box, score, label, iou)
    n = clusters.count
    mean = clusters.weights[:n] / np.maximum(clusters.members[:n], 1)
    confidence = mean * np.minimum(clusters.members[:n], len(found)) / len(found)
    best = np.argsort(-confidence, kind="stable")
    return Detected(
        torch.from_numpy(clusters.boxes[best]).to(joined.boxes),
        torch.from_numpy(confidence[best]).to(joined.scores),
        torch.from_numpy(clusters.labels[best]).to(joined.labels),
    )


class _Clusters:
    """Boxes that grow together; room for at most ``most`` of them."""

    def __init__(self, most: int) -> None:
        self.count = 0
        self.boxes = np.zeros((most, 4))
        self.weights = np.zeros(most)  # sums of scores
        self.members = np.zeros(most, dtype=np.int64)
        self.labels = np.zeros(most, dtype=np.int64)

    def add(self, box: np.ndarray, score: float, label: int, threshold: float) -> None:
        n = self.count
        overlaps = np.where(self.labels[:n] == label, _iou(box, self.boxes[:n]), -1.0)
        k = int(overlaps.argmax()) if n else 0
        if n == 0 or overlaps[k] <= threshold:
            k = n
            self.count += 1
            self.labels[k] = label
        weight = self.weights[k] + score
        share = score / weight if weight > 0 else 1.0
        self.boxes[k] += share * (box - self.boxes[k])
        self.weights[k] = weight
        self.members[k] += 1


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of a box with (N, 4); 0 where neither has an area."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    shared = (high - low).clip(0).prod(1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return shared / np.where(union > 0, union, 1.0)


def _joined(found: Sequence[Detected]) -> Detected:
    return Detected(
        torch.cat([f.boxes for f in found]),
        torch.cat([f.scores for f in found]),
        torch.cat([f.labels for f in found]),
    )
