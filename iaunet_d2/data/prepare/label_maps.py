"""Label maps as one annotation per instance, whose cost is that of the instance, not of the image.

A whole-slide image of 10,000 x 10,000 pixels with thousands of cells must not become thousands of
full masks: each instance is cut out of the map, and its run lengths in the full frame are written
from the cut-out.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from scipy import ndimage

from ..rasterise import Patch

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


def encode_patch(patch: Patch, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths of a patch in its frame, as JSON takes them.

    The same as of the full mask, at the cost of the patch.

    Args:
        patch: lies inside the frame.
        height: of the frame.
        width: of the frame.
    """
    # Column by column, with a background pixel above and below: +1 where a run starts, -1 behind
    # its end.
    columns = np.pad(patch.pixels.T.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(columns, axis=1)
    offset = patch.left * height + patch.top
    bounds = np.empty(2 * np.count_nonzero(steps > 0), dtype=np.int64)
    for place, sign in ((0, 1), (1, -1)):
        column, row = np.nonzero(steps == sign)
        bounds[place::2] = column * height + row + offset
    # A run to the foot of one column and one from the head of the next are one.
    joined = np.flatnonzero(bounds[1:-1:2] == bounds[2::2])
    bounds = np.delete(bounds, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(np.concatenate([[0], bounds, [height * width]]))
    if counts[-1] == 0:
        counts = counts[:-1]
    plain = {"size": [height, width], "counts": counts.tolist()}
    rle = mask_util.frPyObjects(plain, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


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
        segmentation = encode_patch(patch, height, width)
        annotations.append({"category_id": category_id, "segmentation": segmentation})
    return annotations, scattered
