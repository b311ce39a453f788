"""Instance masks that are published as one image file each."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadFileError
from ..readers import image_size, read_image
from ..segmentation import encode_mask


def read_mask(path: Path) -> np.ndarray:
    """A mask file: (H, W), bool, true where any colour channel is over 0.

    Raises:
        BadFileError: the file cannot be read.
    """
    return np.asarray((read_image(path) > 0).any(axis=2))


def mask_annotations(
    image: Path, masks: Iterable[Path], note: Callable[[str], None], category: int = 1
) -> list[dict[str, Any]]:
    """COCO annotations of mask files, in their order.

    Args:
        image: the image file.
        masks: the masks of its instances.
        note: called for each mask without pixels, which is left out.
        category: of all.

    Raises:
        BadFileError: a mask cannot be read, or has another size than its image.
    """
    size = image_size(image)
    annotations = []
    for path in masks:
        mask = read_mask(path)
        if mask.shape != size:
            raise BadFileError(
                f"{path}: has the height and width {mask.shape}, and its image {image} has {size}. "
                "Give both as they were published."
            )
        if not mask.any():
            note("masks without pixels: left out")
            continue
        annotations.append({"category_id": category, "segmentation": encode_mask(mask)})
    return annotations
