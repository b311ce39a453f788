"""Label maps: from maps per pixel to instances that do not overlap (IAU-net and MAUNet)."""

import cv2
import numpy as np
import torch
from scipy import ndimage
from skimage.segmentation import watershed

from .scored_masks import ScoredMasks

CORNERS = np.ones((3, 3), dtype=bool)
"""Pixels that meet at a corner hang together."""


def components(mask: np.ndarray, structure: np.ndarray | None = None) -> np.ndarray:
    """Number the parts of a mask (H, W) that hang together, by edges or :data:`CORNERS`: int32."""
    return ndimage.label(mask, structure, output=np.int32)[0]


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


def without_rim(labels: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Take off what the boundary class adds to a cell on the outside.

    Targets paint the boundary of a cell of S pixels as far as ceil(sqrt(S) / 40) outside of it
    (:func:`~.dense_targets.interior_classes`); towards the background, so much is not the cell's.
    Where cells meet, each one's boundary lies on the other, and nothing is to be taken off.

    Args:
        labels: (H, W) int32, 0 outside.
        scale: pixels of the map for one of the network's.
    """
    if labels.all():  # there is no background to measure from
        return labels
    depth = cv2.distanceTransform((labels > 0).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    kept, unsettled = labels, np.bincount(labels.ravel()) > 0
    unsettled[0], radius = False, 0
    while unsettled.any():
        # As wide as the cell that is left would have it: S is not known before.
        radius += 1
        rimless = np.where(depth > radius * scale + 1e-3, labels, 0)
        areas = np.bincount(rimless.ravel(), minlength=len(unsettled))
        settled = unsettled & (np.ceil(np.sqrt(areas) / scale / 40) <= radius)
        kept = np.where(settled[labels], rimless, kept)
        unsettled &= ~settled
    return kept


def grown(
    markers: np.ndarray, foreground: np.ndarray, landscape: np.ndarray | None = None
) -> np.ndarray:
    """Flood the foreground from markers; foreground out of reach stays 0.

    Args:
        markers: (H, W) int32, 0 where there is none.
        foreground: (H, W) bool.
        landscape: (H, W) heights, the low ground is flooded first; None: what is near.

    Returns:
        (H, W) int32.
    """
    if not markers.any():
        return np.zeros(markers.shape, dtype=np.int32)
    # The rectangle of the foreground is all there is to flood.
    box = ndimage.find_objects((foreground | (markers > 0)).astype(np.uint8))[0]
    flooded = np.zeros(markers.shape, dtype=np.int32)
    heights = np.zeros(markers[box].shape) if landscape is None else landscape[box]
    flooded[box] = watershed(heights, markers[box], mask=foreground[box])
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
