"""Synthetic bright-field cells, made on first use from a seed."""

import json
import logging
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from iopath.common.file_io import file_lock
from PIL import Image
from pycocotools import mask as mask_util
from tqdm import tqdm

from .errors import BadFileError
from .segmentation import encode_mask
from .synthetic_optics import CellLook, draw_look, expose, optical_depth
from .synthetic_shapes import CellShape, draw_shape, place

logger = logging.getLogger(__name__)

# Raise when the same parameters give other images than before.
GENERATOR = 1


@dataclass(frozen=True)
class SyntheticCells:
    """What determines a synthetic data set, to the last pixel.

    Attributes:
        num_images: images.
        size: side of the square images in pixels; cells grow with it.
        cells: least and greatest number of cells per image (fewer where no place is found).
        difficulty: 0 (clear, few overlaps) to 1 (faint, noisy, blurred, most cells overlapping).
        seed: of everything random.
    """

    num_images: int
    size: int = 128
    cells: tuple[int, int] = (4, 12)
    difficulty: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.cells
        if self.num_images < 1 or self.size < 32 or not 0 <= low <= high:
            raise ValueError(
                "synthetic cells need at least 1 image of side 32 and 0 <= fewest <= most cells; "
                f"got {self}"
            )
        if not 0 <= self.difficulty <= 1 or self.seed < 0:
            raise ValueError(f"difficulty must lie in 0..1 and the seed be >= 0; got {self}")

    def folder_name(self, dataset_name: str) -> str:
        """The folder's name under the data sets' root."""
        return dataset_name.replace(":", "_")


PRESETS = {
    "synthetic_cells_train": SyntheticCells(num_images=400, seed=1),
    "synthetic_cells_val": SyntheticCells(num_images=60, seed=2),
}


def synthetic_preset(name: str) -> SyntheticCells | None:
    """The parameters that a data-set name stands for; None if it is no name of synthetic cells.

    Args:
        name: a key of :data:`PRESETS`, or ``synthetic:<images>:<size>:<difficulty>:<seed>``.

    Raises:
        ValueError: a name of the second form that is malformed.
    """
    if name in PRESETS:
        return PRESETS[name]
    if not name.startswith("synthetic:"):
        return None
    try:
        images, size, difficulty, seed = name.split(":")[1:]
        preset = SyntheticCells(
            int(images), int(size), difficulty=float(difficulty), seed=int(seed)
        )
    except ValueError as error:
        raise ValueError(
            f"data set {name!r} is malformed ({error}): "
            "synthetic:<images>:<size>:<difficulty>:<seed> is needed, such as "
            "synthetic:100:256:0.5:7"
        ) from error
    return preset


def draw_cells(parameters: SyntheticCells, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image; its number alone decides, so any image can be drawn without the others.

    Args:
        parameters: of the data set.
        index: number of the image, from 0.

    Returns:
        Image (size, size) ``uint8``, and boolean masks (N, size, size) of whole cells, overlaps in
        each of them.
    """
    rng = np.random.default_rng([GENERATOR, parameters.seed, index])
    wanted = int(rng.integers(parameters.cells[0], parameters.cells[1] + 1))
    shapes: list[CellShape] = []
    masks: list[np.ndarray] = []
    for _ in range(wanted):
        placed = place(
            lambda: draw_shape(rng, parameters.size),
            shapes,
            masks,
            rng,
            overlap_share=0.15 + 0.6 * parameters.difficulty,
        )
        if placed is not None:
            shapes.append(placed[0])
            masks.append(placed[1])
    depth = np.zeros((parameters.size, parameters.size))
    family: CellLook = draw_look(rng)
    for shape in shapes:
        optical_depth(depth, shape, family, rng)
    image = expose(depth, parameters.difficulty, rng)
    stacked = np.stack(masks) if masks else np.zeros((0, *depth.shape), dtype=bool)
    return image, stacked


def ensure_synthetic(folder: Path, parameters: SyntheticCells) -> None:
    """Make the data set ``folder`` (``images/*.png``, ``annotations.json``) unless it is there.

    It is written under another name and renamed when complete, so that an interrupted run leaves
    nothing half made. Processes that ask at the same time wait for one of them.

    Raises:
        BadFileError: the folder holds something else, or cannot be written.
    """
    if not _is_complete(folder, parameters):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(str(folder)):
                if not _is_complete(folder, parameters):
                    _write(folder, parameters)
        except OSError as error:
            raise BadFileError(
                f"{folder}: synthetic cells cannot be written there ({error}). Set "
                "DETECTRON2_DATASETS to a folder that can be written to and has room."
            ) from error


def _is_complete(folder: Path, parameters: SyntheticCells) -> bool:
    """Whether the data set is there. It was renamed when complete, so its annotation file tells."""
    if not folder.exists():
        return False
    made_with = _made_with(folder)
    if made_with != _description(parameters):
        raise BadFileError(
            f"{folder}: holds something else than these synthetic cells ({made_with} instead of "
            f"{_description(parameters)}). Move or delete the folder; it is made again."
        )
    return True


def _made_with(folder: Path) -> Any:
    try:
        content = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
        return content["info"]["made_with"]
    except (OSError, ValueError, KeyError, TypeError):
        return "no annotation file of this generator"


def _description(parameters: SyntheticCells) -> dict[str, Any]:
    return {"generator": GENERATOR, **asdict(parameters), "cells": list(parameters.cells)}


def _write(folder: Path, parameters: SyntheticCells) -> None:
    logger.info("Making %d images of synthetic cells in %s", parameters.num_images, folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (temporary / "images").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        numbers = tqdm(range(parameters.num_images), desc=f"making {folder.name}", unit="image")
        for index in numbers:
            image, masks = draw_cells(parameters, index)
            name = f"{index:05d}.png"
            Image.fromarray(image).save(temporary / "images" / name)
            images.append(
                {
                    "id": index + 1,
                    "file_name": name,
                    "height": image.shape[0],
                    "width": image.shape[1],
                }
            )
            for mask in masks:
                annotations.append(_annotation(len(annotations) + 1, index + 1, mask))
        content = {
            "info": {
                "description": "synthetic bright-field cells of iaunet-d2",
                "made_with": _description(parameters),
            },
            "licenses": [],
            "categories": [{"id": 1, "name": "cell"}],
            "images": images,
            "annotations": annotations,
        }
        (temporary / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
        temporary.chmod(0o755)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _annotation(identity: int, image_id: int, mask: np.ndarray) -> dict[str, Any]:
    rle = encode_mask(mask)
    return {
        "id": identity,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [float(v) for v in mask_util.toBbox(rle)],
        "segmentation": rle,
    }
