"""Label maps as one annotation per instance, whose cost is that of the instance, not of the image.

A whole-slide image of 10,000 x 10,000 pixels with thousands of cells must not become thousands of
full masks: each instance is cut out of the map, and its run lengths in the full frame are written
from the cut-out.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import ndimage

from ..rasterise import Patch, encode_patch

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def connected_components(mask: np.ndarray) -> np.ndarray:
    """Number the connected parts of a mask (H, W), from 1; 0 is background.

    Pixels that touch at a corner are connected (8-connectivity), as in MATLAB's ``bwlabel`` and
    scikit-image's ``label``.
    """
    numbered: np.ndarray = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)[0]
    return numbered


def label_patches(labels: np.ndarray) -> Iterator[tuple[int, Patch]]:
    """The instances of a label map, each cut out, in the order of their ids.

    Args:
        labels: (H, W) whole numbers from 0, the background; ids may be left out.

    Yields:
        id, and its pixels.
    """
    ids: np.ndarray | None = None
    if int(labels.max(initial=0)) > labels.size:  # each number up to the greatest takes a place
        ids = np.union1d([0], labels)
        labels = np.searchsorted(ids, labels)
    for index, window in enumerate(ndimage.find_objects(labels), 1):
        if window is None:
            continue
        identity = index if ids is None else int(ids[index])
        yield identity, Patch(window[0].start, window[1].start, labels[window] == index)


def label_annotations(
    labels: np.ndarray, category_id: int
) -> tuple[list[dict[str, Any]], list[int]]:
    """COCO annotations of a label map, one per id, also where an id is in several pieces.

    Args:
        labels: (H, W) whole numbers from 0, the background.
        category_id: of all instances.

    Returns:
        The annotations in the order of the ids; and the ids that are in several pieces
        (8-connectivity).
    """
    height, width = labels.shape
    annotations, scattered = [], []
    for identity, patch in label_patches(labels):
        if connected_components(patch.pixels).max() > 1:
            scattered.append(identity)
        segmentation = encode_patch(patch, (height, width))
        annotations.append({"category_id": category_id, "segmentation": segmentation})
    return annotations, scattered
