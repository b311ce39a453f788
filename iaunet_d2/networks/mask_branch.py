"""Mask R-CNN's mask branch (He et al., ICCV 2017, section 3), and what every such branch does."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, roi_align

Features = dict[str, Tensor]

FINEST = ["0", "1", "2", "3"]  # levels that regions are pooled from; the coarsest only proposes


@dataclass
class Positives:
    """Regions of one image that were matched with an instance.

    Attributes:
        boxes: (P, 4) x0, y0, x1, y1 in pixels of the padded input.
        labels: (P,) int64 classes from 0.
        masks: (N, H, W) bool, every instance of the image.
        matched: (P,) int64, each region's instance.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    matched: Tensor


class MaskBranch(nn.Module, ABC):
    """From the feature pyramid and boxes to one mask per box."""

    @abstractmethod
    def losses(
        self, features: Features, positives: Sequence[Positives], padded: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Losses over the positive regions of a batch, possibly none.

        Args:
            features: maps (B, C, H/s, W/s) per level.
            positives: one per image.
            padded: height and width of the network's input.
        """

    @abstractmethod
    def predict(
        self,
        features: Features,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        padded: tuple[int, int],
    ) -> list[Tensor]:
        """Probabilities (N, M, M) over the boxes (N, 4) of each image, of classes (N,) from 0."""

    @abstractmethod
    def at_fixed_count(self, features: Features, count: int, train_mode: bool) -> list[Tensor]:
        """Everything that costs, for ``count`` regions of one image; the results mean nothing."""


class ConvMaskBranch(MaskBranch):
    """Four convolutions and a deconvolution on 14 x 14 pooled features: 28 x 28 masks.

    Args:
        channels: of the pyramid.
        num_classes: K, background not counted.
        hidden: channels of the convolutions.
    """

    POOL = 14

    def __init__(self, channels: int = 256, num_classes: int = 1, hidden: int = 256) -> None:
        super().__init__()
        self.channels = channels
        self.pool = MultiScaleRoIAlign(FINEST, self.POOL, sampling_ratio=2)
        self.head = MaskRCNNHeads(channels, (hidden,) * 4, 1)
        # torchvision's predictor has a map for background, which is never used.
        self.predictor = MaskRCNNPredictor(hidden, hidden, num_classes + 1)

    def losses(
        self, features: Features, positives: Sequence[Positives], padded: tuple[int, int]
    ) -> dict[str, Tensor]:
        """``loss_mask``: binary cross-entropy of the matched class's map."""
        logits = self._logits(features, [p.boxes for p in positives], padded)
        logits = _of_class(logits, torch.cat([p.labels for p in positives]) + 1)
        return {"loss_mask": mask_loss(logits, positives)}

    def predict(
        self,
        features: Features,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        padded: tuple[int, int],
    ) -> list[Tensor]:
        """Probabilities (N, 28, 28) of each image's boxes."""
        logits = self._logits(features, boxes, padded)
        probability = _of_class(logits, torch.cat(list(labels)) + 1).sigmoid()
        return list(probability.split([len(b) for b in boxes]))

    def at_fixed_count(self, features: Features, count: int, train_mode: bool) -> list[Tensor]:
        """See :meth:`MaskBranch.at_fixed_count`."""
        pooled = features["0"].new_zeros(count, self.channels, self.POOL, self.POOL)
        return [self.predictor(self.head(pooled))]

    def _logits(
        self, features: Features, boxes: Sequence[Tensor], padded: tuple[int, int]
    ) -> Tensor:
        pooled = self.pool(features, list(boxes), [padded] * len(boxes))
        return self.predictor(self.head(pooled)).float()


def mask_loss(logits: Tensor, positives: Sequence[Positives]) -> Tensor:
    """Mean binary cross-entropy of maps (P, M, M) over the boxes with the matched masks; 0 of none.

    Args:
        logits: of the regions of all images, one after the other.
        positives: one per image.
    """
    if len(logits) == 0:
        return logits.sum()  # zero, and still a function of every parameter
    size = logits.shape[-1]
    truth = torch.cat([cropped_masks(p.masks, p.matched, p.boxes, size) for p in positives])
    return F.binary_cross_entropy_with_logits(logits, truth)


def cropped_masks(masks: Tensor, matched: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Masks of matched instances inside their boxes, by RoIAlign.

    Args:
        masks: (N, H, W) bool.
        matched: (P,) indices of masks.
        boxes: (P, 4) x0, y0, x1, y1 in pixels.
        size: M.

    Returns:
        (P, M, M) in [0, 1].
    """
    if len(boxes) == 0:
        return boxes.new_zeros(0, size, size)
    # Of thousands of instances only the matched ones are made float.
    used, place = matched.unique(return_inverse=True)
    regions = torch.cat([place[:, None].to(boxes), boxes], dim=1)
    # Aligned: pixel i of a mask covers i to i + 1, as boxes and pasting have it. torchvision's own
    # targets lie half a pixel off.
    maps = masks[used][:, None].to(boxes)
    return roi_align(maps, regions, (size, size), 1.0, aligned=True)[:, 0]


def _of_class(maps: Tensor, index: Tensor) -> Tensor:
    """One map per region: (P, K, M, M) and (P,) -> (P, M, M)."""
    return maps[torch.arange(len(maps), device=maps.device), index]
