"""Instances of MAUNet: three watersheds on the distance field (Li et al., section 2.3)."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from skimage.feature import peak_local_max

from .label_maps import components, grown, without_small


@dataclass(frozen=True)
class DistanceSettings:
    """What :func:`distance_instances` decides by; the defaults are the authors' code's.

    Attributes:
        interior: a pixel is interior where that probability exceeds this.
        background: a pixel is foreground where the probability of background is below this.
        min_interior: smaller connected parts of the interior are dropped, pixels.
        seed: the smoothed distance of the seeds of the first step; see ``seed_relative``.
        seed_relative: ``seed`` is a share of the greatest smoothed distance in the image's
            interior, as in the code (0.85); else it is a distance itself, as in the text (0.8). A
            share adapts to a network that predicts too low, but one bright spot shifts it for the
            whole image.
        peak: least smoothed distance, as a share of the greatest, of the seeds of the second step.
        least_share: instances smaller than this share of the mean are dropped at the end.
    """

    interior: float = 0.7
    background: float = 0.3
    min_interior: int = 16
    seed: float = 0.85
    seed_relative: bool = True
    peak: float = 0.6
    least_share: float = 0.1


def distance_instances(
    interior: np.ndarray,
    background: np.ndarray,
    distance: np.ndarray,
    settings: DistanceSettings | None = None,
) -> np.ndarray:
    """Cut cells apart by their distance field.

    1. Seeds are where the smoothed distance is high, inside the interior; they grow through it.
    2. Parts of the interior without a seed get one at every peak of the smoothed distance, and
       those grow through what is left.
    3. The cells of both steps grow into the foreground, which is wider than the interior. As in
       the paper, foreground is what is hardly background: where the anti-ambiguity proxy has the
       probability, cells may grow too.

    Args:
        interior: (H, W) probability of the interior, of any class.
        background: (H, W) probability of the background.
        distance: (H, W), about 0 to 1.
        settings: None takes the defaults.

    Returns:
        label map (H, W) int32, 0 outside; none where there is no interior.
    """
    chosen = settings or DistanceSettings()
    parts = without_small(components(interior > chosen.interior), chosen.min_interior)
    inside = parts > 0
    if not inside.any():
        return np.zeros(inside.shape, dtype=np.int32)
    side = odd_side(np.count_nonzero(inside) / parts.max())
    smooth = cv2.GaussianBlur(distance.astype(np.float32), (side, side), 0)
    greatest = float(smooth[inside].max())
    level = chosen.seed * greatest if chosen.seed_relative else chosen.seed
    cells = grown(components((smooth > level) & inside), -smooth, inside)
    rest = inside & (cells == 0)
    missed = grown(peaks(smooth, rest, side // 4, chosen.peak * greatest), -smooth, rest)
    cells = np.where(missed > 0, missed + cells.max(), cells)
    cells = grown(cells, -smooth, inside | (background < chosen.background))
    areas = np.bincount(cells.ravel())[1:]
    areas = areas[areas > 0]
    return without_small(cells, math.ceil(chosen.least_share * areas.mean()) if len(areas) else 1)


def odd_side(area: float) -> int:
    """Side of the smoothing window for cells of a mean area, pixels: the next odd number above.

    As in the authors' code, which takes connected parts of the interior for cells:
    ``floor(sqrt(area))``, and 1 more if that is even, 2 more if it is odd. Interiors that touch
    make the window wider than a cell, but not by much: of four in one it is twice as wide.
    """
    side = math.floor(math.sqrt(area))
    return side + 1 if side % 2 == 0 else side + 2


def peaks(smooth: np.ndarray, where: np.ndarray, min_distance: int, least: float) -> np.ndarray:
    """Markers at the local maxima of a map inside a mask.

    Args:
        smooth: (H, W).
        where: (H, W) bool.
        min_distance: between two peaks, in pixels.
        least: of the map's value at a peak.

    Returns:
        (H, W) int32: 1, 2, ... at one pixel each, else 0.
    """
    markers = np.zeros(where.shape, dtype=np.int32)
    if not where.any():
        return markers
    # The lowest value of all outside, so that a maximum at the edge of the mask counts.
    masked = np.where(where, smooth, min(float(smooth.min()), least) - 1)
    found = peak_local_max(
        masked, min_distance=max(min_distance, 1), threshold_abs=least, exclude_border=False
    )
    markers[tuple(found.T)] = np.arange(1, len(found) + 1)
    return markers
