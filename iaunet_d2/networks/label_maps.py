"""Label maps: from maps per pixel to instances that do not overlap (IAU-net and MAUNet)."""

import numpy as np
import torch
from scipy import ndimage
from skimage.segmentation import watershed

from .scored_masks import ScoredMasks


def components(mask: np.ndarray) -> np.ndarray:
    """Number the parts of a mask (H, W) that hang together by edges: int32, 0 outside."""
    return ndimage.label(mask, output=np.int32)[0]


def without_small(labels: np.ndarray, min_size: int) -> np.ndarray:
    """Remove labels of fewer than ``min_size`` pixels and number the others from 1, in order.

    Args:
        labels: (H, W) int32, 0 outside; a label's pixels need not hang together.
    """
    areas = np.bincount(labels.ravel())
    keep = areas >= max(min_size, 1)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels]


def without_holes(labels: np.ndarray) -> np.ndarray:
    """Give the background that one label encloses to it; another label in a hole stays.

    Args:
        labels: (H, W) int32, 0 outside.
    """
    filled = labels.copy()
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        part = filled[box]
        inside = ndimage.binary_fill_holes(part == number)
        part[inside & (part == 0)] = number
    return filled


def grown(markers: np.ndarray, landscape: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Flood the foreground from markers, low ground first; foreground out of reach stays 0.

    Args:
        markers: (H, W) int32, 0 where there is none.
        landscape: (H, W) heights.
        foreground: (H, W) bool.

    Returns:
        (H, W) int32.
    """
    if not markers.any():
        return np.zeros(markers.shape, dtype=np.int32)
    # The rectangle of the foreground is all there is to flood.
    box = ndimage.find_objects((foreground | (markers > 0)).astype(np.uint8))[0]
    flooded = np.zeros(markers.shape, dtype=np.int32)
    flooded[box] = watershed(landscape[box], markers[box], mask=foreground[box])
    return flooded


def scored_label_map(
    labels: np.ndarray, probabilities: np.ndarray, num_classes: int, max_instances: int
) -> ScoredMasks:
    """The instances of a label map with scores and classes, the best of them, best first.

    The score is the mean foreground probability (1 - background) of the instance's pixels. The
    class is the majority's, each pixel's vote being its probabilities of the K interior classes: on
    the boundary, which can be most of a cell, they are all small and tell nothing. Of equal classes
    it is the lower.

    Args:
        labels: (H, W) int32, 0 outside.
        probabilities: (1 + K or more, H, W): background, interior of each class, others.
        num_classes: K.
        max_instances: the most instances to return.
    """
    boxes = ndimage.find_objects(labels)
    found = [number for number, box in enumerate(boxes, start=1) if box is not None]
    masks, scores, classes = [], [], []
    for number in found:
        box = boxes[number - 1]
        mask = labels[box] == number
        inside = probabilities[: 1 + num_classes, box[0], box[1]][:, mask]  # (1 + K, pixels)
        masks.append(mask)
        scores.append(1 - float(inside[0].mean(dtype=np.float64)))
        classes.append(int(inside[1:].sum(1, dtype=np.float64).argmax()))
    best = np.argsort(-np.array(scores), kind="stable")[:max_instances].tolist()
    corners = [[boxes[found[i] - 1][axis].start for axis in (0, 1)] for i in best]
    return ScoredMasks(
        [torch.from_numpy(masks[i]) for i in best],
        torch.tensor(corners, dtype=torch.int64).view(-1, 2),
        torch.tensor([scores[i] for i in best], dtype=torch.float32),
        torch.tensor([classes[i] for i in best], dtype=torch.int64),
        (labels.shape[0], labels.shape[1]),
    )
