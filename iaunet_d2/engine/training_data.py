"""What a model was trained on: sizes of images and cells, in pixels of the files, and the classes.

Prediction on an image that is larger than those of the training needs them: how large a tile is,
and how far tiles overlap.
"""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode

from .._version import __version__
from ..data import dataset_records
from ..data.classes import class_names
from ..data.pseudo_labels import pseudo_labels_of
from ..data.unlabeled import KEY as UNLABELED
from ..files import atomic_write

logger = logging.getLogger(__name__)

FILE_NAME = "training_data.json"
PERCENTILES = {"50": 50, "95": 95, "99": 99, "max": 100}


@dataclass(frozen=True)
class TrainingData:
    """What a model was trained on.

    Attributes:
        images: number of images with ground truth.
        instances: number of instances in them.
        image_side: median of the images' longest sides, pixels of the files; None without images.
        cell_side: percentiles (:data:`PERCENTILES`) of the longest sides of the instances' boxes,
            pixels of the files; empty without instances.
        classes: names of the classes; empty where they have none.
        version: of this package that trained.
        unlabeled: number of images without ground truth.
        data_sets: names of the data sets.
        mix: their weights (``DATASETS.MIX``); empty where all images were alike.
        pseudo_labels: of each data set that a model had labelled: its name (``data_set``), its
            weight (``mix``; None without), and what ``iaunet pseudo-label`` says of it.
    """

    images: int
    instances: int
    image_side: float | None
    cell_side: dict[str, float]
    classes: tuple[str, ...] = ()
    version: str = __version__
    unlabeled: int = 0
    data_sets: tuple[str, ...] = ()
    mix: tuple[int, ...] = ()
    pseudo_labels: tuple[dict[str, Any], ...] = ()


def measure_training_data(
    records: Iterable[dict[str, Any]], classes: Sequence[str] = ()
) -> TrainingData:
    """Measure Detectron2's data-set dicts, by ``width``, ``height`` and ``bbox``: no file is read.

    Images without a size and annotations without a box are left out; unlabelled images are counted
    apart.
    """
    image_sides, cell_sides = [], []
    unlabeled = 0
    for record in records:
        if record.get(UNLABELED):
            unlabeled += 1
            continue
        if "height" in record and "width" in record:
            image_sides.append(max(record["height"], record["width"]))
        for annotation in record.get("annotations", ()):
            if "bbox" in annotation:
                mode = annotation.get("bbox_mode", BoxMode.XYWH_ABS)
                x0, y0, x1, y1 = BoxMode.convert(
                    [float(v) for v in annotation["bbox"]], mode, BoxMode.XYXY_ABS
                )
                cell_sides.append(max(x1 - x0, y1 - y0))
    values = np.percentile(cell_sides, list(PERCENTILES.values())) if cell_sides else ()
    return TrainingData(
        images=len(image_sides),
        instances=len(cell_sides),
        image_side=float(np.median(image_sides)) if image_sides else None,
        cell_side={k: round(float(v), 2) for k, v in zip(PERCENTILES, values, strict=False)},
        classes=tuple(classes),
        unlabeled=unlabeled,
    )


def write_training_data(cfg: CfgNode) -> None:
    """Write ``training_data.json`` of ``DATASETS.TRAIN`` into ``OUTPUT_DIR``.

    Pseudo-labels among them are told: which, by which model, from which score on.

    Raises:
        BadFileError: a data set cannot be used.
        OSError: the file cannot be written.
    """
    names = list(cfg.DATASETS.TRAIN)
    records = (record for name in names for record in dataset_records(cfg, name))
    measured = measure_training_data(records)
    # After the records: it is then that all data sets are registered.
    classes = next((found for name in names if (found := class_names(name))), ())
    made = replace(
        measured,
        classes=tuple(classes),
        data_sets=tuple(names),
        mix=tuple(cfg.DATASETS.MIX),
        pseudo_labels=tuple(_pseudo_labels(names, cfg.DATASETS.MIX)),
    )
    for block in made.pseudo_labels:
        logger.info("Trains on pseudo-labels: %s", _told(block))
    save_training_data(made, cfg.OUTPUT_DIR)


def _pseudo_labels(names: Sequence[str], mix: Sequence[int]) -> Iterable[dict[str, Any]]:
    for k, name in enumerate(names):
        block = pseudo_labels_of(name)
        if block is not None:
            yield {"data_set": name, "mix": mix[k] if len(mix) else None, **block}


def _told(block: dict[str, Any]) -> str:
    """A block of pseudo-labels in one line, whatever of it is there."""
    weight = "" if block["mix"] is None else f"; weight {block['mix']} of DATASETS.MIX"
    return (
        f"{block['data_set']}: {block.get('annotations')} cells in {block.get('images')} images, "
        f"found by {block.get('architecture')} ({block.get('model')}) with a score of "
        f"{block.get('threshold')} or more{weight}"
    )


def save_training_data(about: TrainingData, folder: str | os.PathLike[str]) -> None:
    """Write ``training_data.json`` into a folder, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_write(Path(folder, FILE_NAME)) as stream:
        stream.write(json.dumps(asdict(about), indent=2).encode() + b"\n")


def read_training_data(folder: str | os.PathLike[str]) -> TrainingData | None:
    """Read what :func:`write_training_data` wrote; None where there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    file = Path(folder, FILE_NAME)
    try:
        found = json.loads(file.read_text())
        # Files of earlier versions lack some.
        lists = ("data_sets", "mix", "pseudo_labels")
        listed = {k: tuple(found[k]) for k in ("classes", *(k for k in lists if k in found))}
        return TrainingData(**{**found, **listed})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file}: is damaged ({error}). Remove it; tiles then get the size of the network's "
            "input."
        ) from error
