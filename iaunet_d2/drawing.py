"""Masks drawn on images: tinted, outlined, in panels under captions."""

import colorsys
from collections.abc import Iterable

import cv2
import numpy as np

LONGEST_SIDE = 1024  # of one panel, in pixels
READABLE_SIDE = 384  # smaller images are enlarged by a whole number
FILL = 0.25
CAPTION = 24
GAP = 6


def side_by_side(
    image: np.ndarray, truth: list[np.ndarray], predicted: list[np.ndarray], threshold: float
) -> np.ndarray:
    """Ground truth on the left, prediction on the right, each under its number of instances.

    Args:
        image: (H, W, 3) uint8.
        truth, predicted: masks (H, W), bool.
        threshold: score from which predictions were taken, for the caption.

    Returns:
        (H', W', 3) uint8; each panel at most ``LONGEST_SIDE`` long.
    """
    panels = []
    captions = (f"truth: {len(truth)}", f"prediction: {len(predicted)} (score >= {threshold:g})")
    for masks, caption in zip((truth, predicted), captions, strict=True):
        panel = draw_instances(image, masks)
        strip = np.full((CAPTION, panel.shape[1], 3), 255, np.uint8)
        cv2.putText(
            strip, caption, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA
        )
        panels.append(np.concatenate([strip, panel]))
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def draw_instances(image: np.ndarray, masks: Iterable[np.ndarray]) -> np.ndarray:
    """Draw each mask tinted and outlined, so that overlapping ones stay tellable apart.

    Args:
        image: (H, W, 3) uint8, left as it is.
        masks: (H, W), bool.

    Returns:
        (H', W', 3) uint8, its longer side between ``READABLE_SIDE`` / 2 and ``LONGEST_SIDE``.
    """
    longest = max(image.shape[:2])
    scale = min(max(1, READABLE_SIDE // longest), LONGEST_SIDE / longest)
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    canvas = cv2.resize(image, (width, height), interpolation=method)
    for index, mask in enumerate(masks):
        small = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        color = instance_color(index)
        # Only where the mask is: a crowded image has thousands.
        left, top, wide, high = cv2.boundingRect(small)
        inside = small[top : top + high, left : left + wide].astype(bool)
        window = canvas[top : top + high, left : left + wide]
        window[inside] = (1 - FILL) * window[inside] + FILL * np.array(color)
        outlines, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, color, 1, cv2.LINE_AA)
    return canvas


def instance_color(index: int) -> tuple[int, int, int]:
    """Bright colours, neighbours in number far apart in hue (steps of the golden ratio)."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def displayable(image: np.ndarray) -> np.ndarray:
    """Make an image (H, W, C) uint8 of any number of channels an RGB picture (H, W, 3).

    One channel becomes grey; of two, the third stays black; of more than three, three are shown.
    """
    if image.shape[2] == 1:
        image = image.repeat(3, axis=2)
    elif image.shape[2] == 2:
        image = np.concatenate([image, np.zeros_like(image[:, :, :1])], axis=2)
    return np.ascontiguousarray(image[:, :, :3])
