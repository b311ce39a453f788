"""What the readers of annotation formats share: the job, its tasks, and its findings."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..coco_mend import Findings
from ..errors import BadFileError
from ..rasterise import encode_patch
from .polygons import FrameSize, Part, draw_parts

# Places that are named per finding, and files per error.
EXAMPLES = 5

NO_IMAGE = "annotation files or entries have no image: left out"
UNANNOTATED = "images have no annotation file: left out (--keep-unannotated keeps them as empty)"
KEPT_EMPTY = "images have no annotation file: kept as images without objects"
NO_PIXEL = "outlines enclose no pixel centre inside the image: left out"
OUTSIDE = "outlines lie wholly outside their image: left out"


@dataclass
class Job:
    """What is to be imported, and what was found on the way.

    Attributes:
        images: folder of the images.
        annotations: folder of the annotation files, or one file.
        class_name: of objects that have none.
        recursive: look in sub-folders too; annotation files lie in the same sub-folders.
        suffix: what the names of annotation files have after the image's; None takes the format's
            usual ones.
        allow_missing: leave annotations without an image out, instead of stopping.
        keep_unannotated: keep images without an annotation file, as images without objects.
        findings: what was left out or needs to be told: a sentence, and the places.
    """

    images: Path
    annotations: Path
    class_name: str = "cell"
    recursive: bool = False
    suffix: str | None = None
    allow_missing: bool = False
    keep_unannotated: bool = False
    findings: Findings = field(default_factory=Findings)

    def told(self, what: str, where: Path | str, count: int = 1) -> None:
        """Count something that was left out, or that must be told; each place is named once."""
        place = where.name if isinstance(where, Path) else where
        self.findings.counts[what] += count
        examples = self.findings.examples[what]
        if len(examples) < EXAMPLES and place not in examples:
            examples.append(place)

    def outlined(self, parts: Sequence[Part], size: FrameSize, where: str) -> dict[str, Any] | None:
        """Run lengths of an object's outlines; None, and a finding, if no pixel is inside them."""
        patch = draw_parts(parts, size)
        if patch is not None:
            return encode_patch(patch, size)
        rings = [ring for part in parts for ring in part if len(ring)]
        self.told(OUTSIDE if rings and _lie_outside(rings, size) else NO_PIXEL, where)
        return None


@dataclass
class Instance:
    """One object: its class, its run lengths, and further keys of its COCO annotation."""

    class_name: str
    segmentation: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One image, and how its objects are read once its size is known."""

    image: Path
    read: Callable[[FrameSize], list[Instance]]


@dataclass
class Plan:
    """The images in the order of the output, and the classes that the format itself lists."""

    tasks: list[Task]
    class_names: list[str] = field(default_factory=list)


def nothing(size: FrameSize) -> list[Instance]:
    """The objects of an image without any."""
    return []


def require_size(image: Path, size: FrameSize, annotation: Path, stated: FrameSize) -> None:
    """Compare an image's height and width with those that its annotation was made for.

    Raises:
        BadFileError: they differ; the message names both files.
    """
    if tuple(stated) != tuple(size):
        raise BadFileError(
            f"{annotation}: was made for an image of {stated[1]}x{stated[0]} (width x height), "
            f"{image} has {size[1]}x{size[0]}. Use the image that was annotated."
        )


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        BadFileError: it cannot be opened, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadFileError(f"{path}: cannot be opened ({error}).") from error
    except (ValueError, RecursionError) as error:
        raise BadFileError(
            f"{path}: is not JSON ({error}). It is damaged, or not an annotation file; export it "
            "again."
        ) from error


def _lie_outside(rings: Sequence[np.ndarray], size: FrameSize) -> bool:
    points = np.concatenate(rings)
    low, high = points.min(axis=0), points.max(axis=0)
    return bool((high <= 0).any() or (low >= np.array(size[::-1])).any())
