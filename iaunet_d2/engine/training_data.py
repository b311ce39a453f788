"""What a model was trained on: sizes of images and cells, in pixels of the files, and the classes.

Prediction on an image that is larger than those of the training needs them: how large a tile is,
and how far tiles overlap.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode

from .._version import __version__
from ..data import dataset_records
from ..data.classes import class_names
from ..files import atomic_write

FILE_NAME = "training_data.json"
PERCENTILES = {"50": 50, "95": 95, "99": 99, "max": 100}


@dataclass(frozen=True)
class TrainingData:
    """What a model was trained on.

    Attributes:
        images: number of images.
        instances: number of instances in them.
        image_side: median of the images' longest sides, pixels of the files; None without images.
        cell_side: percentiles (:data:`PERCENTILES`) of the longest sides of the instances' boxes,
            pixels of the files; empty without instances.
        classes: names of the classes; empty where they have none.
        version: of this package that trained.
    """

    images: int
    instances: int
    image_side: float | None
    cell_side: dict[str, float]
    classes: tuple[str, ...] = ()
    version: str = __version__


def measure_training_data(
    records: Iterable[dict[str, Any]], classes: Sequence[str] = ()
) -> TrainingData:
    """Measure Detectron2's data-set dicts, by ``width``, ``height`` and ``bbox``: no file is read.

    Images without a size and annotations without a box are left out.
    """
    image_sides, cell_sides = [], []
    for record in records:
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
    )


def write_training_data(cfg: CfgNode) -> None:
    """Write ``training_data.json`` of ``DATASETS.TRAIN`` into ``OUTPUT_DIR``.

    Raises:
        BadFileError: a data set cannot be used.
        OSError: the file cannot be written.
    """
    names = list(cfg.DATASETS.TRAIN)
    records = (record for name in names for record in dataset_records(cfg, name))
    measured = measure_training_data(records, (class_names(names[0]) or ()) if names else ())
    with atomic_write(Path(cfg.OUTPUT_DIR, FILE_NAME)) as stream:
        stream.write(json.dumps(asdict(measured), indent=2).encode() + b"\n")


def read_training_data(folder: str | os.PathLike[str]) -> TrainingData | None:
    """Read what :func:`write_training_data` wrote; None where there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    file = Path(folder, FILE_NAME)
    try:
        found = json.loads(file.read_text())
        return TrainingData(**{**found, "classes": tuple(found["classes"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file}: is damaged ({error}). Remove it; tiles then get the size of the network's "
            "input."
        ) from error
