"""Found instances of one image: a crop and a corner per mask, never one full frame each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class ScoredMasks:
    """Instances of one image, best first, on the CPU.

    Attributes:
        crops: N bool (h, w), each the smallest rectangle around its mask.
        corners: (N, 2) int64, row and column of each crop's first pixel.
        scores: (N,) float32.
        classes: (N,) int64.
        size: height and width of the image.
    """

    crops: list[Tensor]
    corners: Tensor
    scores: Tensor
    classes: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.crops)

    def boxes(self) -> Tensor:
        """x0, y0, x1, y1 around each mask's pixels, x1 and y1 exclusive: (N, 4) int64."""
        sides = torch.tensor([crop.shape for crop in self.crops], dtype=torch.int64).view(-1, 2)
        return torch.cat([self.corners.flip(1), (self.corners + sides).flip(1)], dim=1)

    def dense(self, device: torch.device | str = "cpu") -> Tensor:
        """The masks as full frames: (N, H, W) bool."""
        masks = torch.zeros(len(self), *self.size, dtype=torch.bool, device=device)
        for mask, crop, (top, left) in zip(masks, self.crops, self.corners.tolist(), strict=True):
            mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        return masks

    def take(self, indices: Sequence[int] | Tensor) -> "ScoredMasks":
        """Those at the indices, in their order."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return ScoredMasks(
            [self.crops[i] for i in index.tolist()],
            self.corners[index],
            self.scores[index],
            self.classes[index],
            self.size,
        )


def tight_crops(
    regions: Sequence[Tensor], origins: Sequence[tuple[int, int]]
) -> tuple[list[Tensor], Tensor]:
    """Cut regions of masks down to the smallest rectangles around the pixels.

    Args:
        regions: N bool (h, w) on the CPU.
        origins: row and column in the image of each region's first pixel.

    Returns:
        crops, copies, and corners as in :class:`ScoredMasks`; (0, 0) for a mask without a pixel.
    """
    crops, corners = [], []
    for region, (top, left) in zip(regions, origins, strict=True):
        pixels = region.numpy()
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        if len(rows):
            crops.append(region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].clone())
            corners.append((top + int(rows[0]), left + int(columns[0])))
        else:
            crops.append(torch.zeros(0, 0, dtype=torch.bool))
            corners.append((0, 0))
    return crops, torch.tensor(corners, dtype=torch.int64).view(-1, 2)


def on_cpu(regions: Sequence[Tensor]) -> list[Tensor]:
    """Regions (h, w) of any device on the CPU, in one transfer."""
    if not regions or regions[0].device.type == "cpu":
        return list(regions)
    joined = torch.cat([region.flatten() for region in regions]).cpu()
    parts = joined.split([region.numel() for region in regions])
    return [part.view(region.shape) for part, region in zip(parts, regions, strict=True)]


def mask_nms(found: ScoredMasks, threshold: float) -> list[int]:
    """Greedy suppression by mask IoU inside each class.

    Args:
        found: best first.
        threshold: a mask goes where its IoU with a better kept one exceeds this.

    Returns:
        indices of the kept masks, ascending.
    """
    crops = [crop.numpy() for crop in found.crops]
    boxes, classes = found.boxes().numpy(), found.classes.numpy()
    areas = np.array([np.count_nonzero(crop) for crop in crops], dtype=np.int64)
    kept = np.zeros(0, dtype=np.int64)
    for i in range(len(found)):
        rivals = kept[classes[kept] == classes[i]]
        low = np.maximum(boxes[rivals, :2], boxes[i, :2])
        high = np.minimum(boxes[rivals, 2:], boxes[i, 2:])
        # No more pixels can be shared than the boxes share, or than the smaller mask has.
        most = (high - low).clip(0).prod(1)
        most = np.minimum(most, np.minimum(areas[rivals], areas[i]))
        near = most > threshold * (areas[rivals] + areas[i] - most)
        for j, start, stop in zip(rivals[near], low[near], high[near], strict=True):
            shared = np.count_nonzero(
                _window(crops[i], boxes[i], start, stop) & _window(crops[j], boxes[j], start, stop)
            )
            if shared > threshold * (areas[i] + areas[j] - shared):
                break
        else:
            kept = np.append(kept, i)
    return [int(i) for i in kept]


def _window(crop: np.ndarray, box: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """A crop's pixels from ``start`` to ``stop`` (x, y) of the image."""
    left, top = start - box[:2]
    right, bottom = stop - box[:2]
    return crop[top:bottom, left:right]
