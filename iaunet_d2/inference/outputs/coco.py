"""COCO JSON of one image, masks as run lengths (https://cocodataset.org/#format-data).

It is read by COCO's tools and by this package, and can be corrected in annotation tools and trained
on: each annotation has its score besides.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...data.rasterise import Patch, encode_patch
from ..cells import Cells
from .json_items import write_items

# pycocotools counts pixels in 32 bits.
_MOST_PIXELS = 2**32 - 1


def write(cells: Cells, file: Path) -> None:
    """Write the image's entry, its categories and an annotation per cell, ids counting from 1.

    Raises:
        ValueError: the image has more pixels than COCO's tools can count.
        OSError: the file cannot be written.
    """
    height, width = (int(side) for side in cells.image_size)
    if height * width > _MOST_PIXELS:
        raise ValueError(
            f"{cells.name}: {height}x{width} pixels (height x width) are more than COCO's tools "
            f"can count ({_MOST_PIXELS}). Save it as geojson, rois or labels."
        )
    head = {
        "info": {"description": "cells found by iaunet predict"},
        "licenses": [],
        "categories": [{"id": k, "name": name} for k, name in enumerate(cells.class_names, 1)],
        "images": [{"id": 1, "file_name": cells.name, "height": height, "width": width}],
    }
    write_items(file, head, "annotations", _annotations(cells, (height, width)))


def _annotations(cells: Cells, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    for i, crop in enumerate(cells.crops):
        top, left = (int(v) for v in cells.corners[i])
        height, width = crop.shape
        yield {
            "id": i + 1,
            "image_id": 1,
            "category_id": int(cells.classes[i]) + 1,
            "segmentation": encode_patch(Patch(top, left, crop), size),
            "bbox": [left, top, width, height],
            "area": int(np.count_nonzero(crop)),
            "iscrowd": 0,
            "score": round(float(cells.scores[i]), 6),
        }
