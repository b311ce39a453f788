"""Seeds: where queries begin. Targets for training, and peaks of a predicted heat map.

A seed is a place inside an instance. CenterNet (Zhou et al., 2019, https://arxiv.org/abs/1904.07850)
learns a heat map of centres, FastInst (He et al., CVPR 2023, https://arxiv.org/abs/2303.08594) lets
queries begin at the best pixels of a class map; here the map is of inner places of instances, which
a centre of a bent worm is not.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STRIDE = 4
"""Of the heat map, pixels."""

RIDGE = 0.7
"""A seed lies where the distance to the outside is at least this share of its maximum."""

SPREAD = 0.35
"""Standard deviation of a seed's Gaussian, as a share of the greatest inner distance."""

INNER = 0.4
"""A place is well inside where the distance is at least this share of its maximum."""


@dataclass(frozen=True)
class SeedTarget:
    """What the heat map of one image should be, and where one may click.

    Attributes:
        heat: (ceil(H / 4), ceil(W / 4)) float32 in [0, 1], 1 at each seed.
        places: (N, K, 2) float32, K random places well inside each instance, x and y in pixels.
    """

    heat: Tensor
    places: Tensor


def seed_target(masks: np.ndarray, places: int, random: np.random.Generator) -> SeedTarget:
    """Make the target of one image.

    Args:
        masks: (N, H, W) bool; instances may overlap, and lie inside one another.
        places: K, random places per instance.
        random: draws them.
    """
    height, width = masks.shape[1:]
    heat = np.zeros((-(-height // STRIDE), -(-width // STRIDE)), dtype=np.float32)
    chosen = np.zeros((len(masks), places, 2), dtype=np.float32)
    for mask, own in zip(masks, chosen, strict=True):
        left, top, box_width, box_height = cv2.boundingRect(mask.view(np.uint8))
        if not box_width:
            continue  # an instance without pixels has no place to begin at
        crop = mask[top : top + box_height, left : left + box_width]
        distance = inner_distance(crop)
        seed = seed_of(distance)
        _raise_heat(heat, crop, (left, top), seed, float(distance.max()))
        ys, xs = np.nonzero(distance >= INNER * distance.max())
        index = random.integers(len(ys), size=places)
        own[:, 0], own[:, 1] = xs[index] + left + 0.5, ys[index] + top + 0.5
    return SeedTarget(torch.from_numpy(heat), torch.from_numpy(chosen))


def inner_distance(mask: np.ndarray) -> np.ndarray:
    """Return the Euclidean distance of each pixel of a mask (h, w) to the nearest one outside.

    What lies beyond the frame is outside.
    """
    framed = np.pad(mask.astype(np.uint8), 1)
    return cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def seed_of(distance: np.ndarray) -> tuple[float, float]:
    """Return the place (x, y) of the inner ridge that is nearest to the centroid, in pixels."""
    inside_y, inside_x = np.nonzero(distance > 0)
    ys, xs = np.nonzero(distance >= RIDGE * distance.max())
    away = (ys - inside_y.mean()) ** 2 + (xs - inside_x.mean()) ** 2
    nearest = int(away.argmin())
    return xs[nearest] + 0.5, ys[nearest] + 0.5


def _raise_heat(
    heat: np.ndarray,
    mask: np.ndarray,
    corner: tuple[int, int],
    seed: tuple[float, float],
    radius: float,
) -> None:
    """Raise the heat (in place) to a Gaussian around a seed, inside a mask at ``corner`` (x, y)."""
    left, top = corner
    height, width = mask.shape
    columns = np.arange(left // STRIDE, (left + width - 1) // STRIDE + 1)
    rows = np.arange(top // STRIDE, (top + height - 1) // STRIDE + 1)
    x, y = (columns + 0.5) * STRIDE - left, (rows + 0.5) * STRIDE - top
    # A cell of the map is inside where the pixel behind its centre is; its centre may lie beyond.
    framed = np.pad(mask, STRIDE)
    inside = framed[y.astype(int) + STRIDE][:, x.astype(int) + STRIDE]
    spread = max(SPREAD * radius, STRIDE)
    away = (x - seed[0]) ** 2 + (y[:, None] - seed[1]) ** 2
    values = np.where(inside, np.exp(-away / (2 * spread**2)), 0).astype(np.float32)
    own_row, own_column = int(seed[1] + top) // STRIDE, int(seed[0] + left) // STRIDE
    values[own_row - rows[0], own_column - columns[0]] = 1
    region = heat[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.maximum(region, values, out=region)


def peaks(heat: Tensor, limit: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Find local maxima of heat maps, best first.

    Args:
        heat: (B, h, w) logits; -inf where no query may begin.
        limit: peaks of an image, at most.
        threshold: least probability of a peak.

    Returns:
        places (B, Q, 2), x and y in pixels of the network's input, and which of them are peaks
        (B, Q) bool; Q is the most that any image has, and at least 1.
    """
    padded = F.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
    is_peak = (heat == padded) & (heat.sigmoid() > threshold) & heat.isfinite()
    scores = torch.where(is_peak, heat, -torch.inf).flatten(1)
    count = min(limit, max(int(is_peak.sum((1, 2)).max()), 1), scores.shape[1])
    best, index = scores.topk(count, dim=1)
    width = heat.shape[2]
    x, y = index % width, torch.div(index, width, rounding_mode="floor")
    return (torch.stack([x, y], dim=-1) + 0.5) * STRIDE, best.isfinite()
