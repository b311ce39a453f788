"""YOLO's segmentation labels: one text file per image, one object per line.

``class x1 y1 x2 y2 ...``, coordinates as fractions of width and height. An image without a file has
no object. Several parts of one object are joined by a line gone to and fro, which encloses nothing.
https://docs.ultralytics.com/datasets/segment/
"""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import BadFileError
from .common import Instance, Job, Plan
from .pairing import Unit, list_images, pair, pair_tasks, single_units
from .polygons import FrameSize

ENDINGS = (".txt",)
_CLASS_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "classes.txt", "obj.names")
# Text files that lie beside labels and are none.
_NO_LABELS = ("classes", "train", "val", "test", "labels", "obj", "notes")
# Rounding puts points at the frame a little outside it.
_TOLERANCE = 0.01

_BOX = "lines are boxes without an outline (5 numbers): left out"
_NO_NAMES = "classes have no name (no data.yaml or classes.txt): called class_<number>"


def plan(job: Job) -> Plan:
    """Text files with the images' names; class names from ``data.yaml`` or ``classes.txt``.

    Raises:
        BadFileError: names that do not go together, or a file of class names that is unusable.
    """
    images = list_images(job)
    names = _class_names(job)
    units = []
    image_stems = {path.stem for path in images}
    for unit in single_units(job, ENDINGS):
        stem = unit.files[0].stem
        known = stem.lower() in _NO_LABELS or stem.lower().startswith("readme")
        if stem in image_stems or not known:
            units.append(unit)

    def read(image: Path, unit: Unit, size: FrameSize) -> list[Instance]:
        return _read(job, unit.files[0], size, names)

    tasks = pair_tasks(job, pair(job, units, (), images), read, ENDINGS, absent_is_empty=True)
    return Plan(tasks, [names[number] for number in sorted(names)])


def _class_names(job: Job) -> dict[int, str]:
    """Class number -> name, of the nearest file of names; empty if there is none."""
    label_folder = job.annotations if job.annotations.is_dir() else job.annotations.parent
    label_folder, image_folder = label_folder.absolute(), job.images.absolute()
    folders = [label_folder, *label_folder.parents[:2], image_folder, image_folder.parent]
    for folder in folders:
        for name in _CLASS_FILES:
            path = folder / name
            if path.is_file():
                return _read_names(path)
    return {}


def _read_names(path: Path) -> dict[int, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix not in (".yaml", ".yml"):
            return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadFileError(f"{path}: the names of the classes cannot be read ({error}).") from error
    names: Any = content.get("names") if isinstance(content, dict) else None
    listed = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(listed, dict) or not all(isinstance(number, int) for number in listed):
        raise BadFileError(
            f"{path}: has no 'names' as a list or as number: name. Write the classes there."
        )
    return {number: str(name) for number, name in listed.items()}


def _read(job: Job, path: Path, size: FrameSize, names: dict[int, str]) -> list[Instance]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise BadFileError(f"{path}: is not a text file ({error}).") from error
    instances = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            kind, outline = _parse(line)
            name = _name(kind, names)
        except ValueError as error:
            raise BadFileError(f"{path}: line {number}: {error}.") from error
        if outline is None:
            job.told(_BOX, where)
            continue
        if not names:
            job.told(_NO_NAMES, where)
        segmentation = job.outlined([[outline * size[::-1]]], size, where)
        if segmentation is not None:
            instances.append(Instance(name, segmentation))
    return instances


def _name(kind: int, names: dict[int, str]) -> str:
    if names and kind not in names:
        raise ValueError(
            f"has the class {kind}, which the file of class names does not have (0 to {max(names)})"
        )
    return names.get(kind, f"class_{kind}")


def _parse(line: str) -> tuple[int, np.ndarray | None]:
    """A line's class number, and its outline (points, 2) in fractions; None for a box.

    Raises:
        ValueError: it is neither an outline nor a box.
    """
    words = line.split()
    try:
        numbers = np.array(words, dtype=np.float64)
    except ValueError as error:
        raise ValueError("holds something else than numbers") from error
    if not np.isfinite(numbers).all() or numbers[0] < 0 or numbers[0] != round(numbers[0]):
        raise ValueError(
            f"begins with {words[0]}, or has numbers that are not finite; a class "
            "number from 0 and coordinates are needed"
        )
    if len(words) == 5:
        return int(numbers[0]), None
    if len(words) < 7 or len(words) % 2 == 0:
        raise ValueError(
            f"has {len(words)} numbers; a class and pairs of at least three points are needed "
            "(predictions saved with a confidence have one number too many)"
        )
    points = numbers[1:].reshape(-1, 2)
    if points.min() < -_TOLERANCE or points.max() > 1 + _TOLERANCE:
        raise ValueError(
            f"has coordinates from {points.min():g} to {points.max():g}; fractions of width and "
            "height, 0 to 1, are needed"
        )
    return int(numbers[0]), points
