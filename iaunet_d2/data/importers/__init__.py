"""Annotations of other tools, imported as one COCO file; one module per format.

A format's module has ``plan(job) -> Plan``: which images there are, and how the objects of each are
read. What a format cannot give as a mask (points, lines, boxes) is counted and told.
"""

import importlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...files import atomic_write
from ..errors import BadFileError
from ..readers import image_size
from ..segmentation import compressed_rle, rle_extent
from .common import Instance, Job, Plan

__all__ = ["FORMATS", "Report", "import_annotations"]

FORMATS = {
    "label-image": "label_image",
    "labelme": "labelme",
    "cvat-coco": "cvat_coco",
    "qupath-geojson": "qupath_geojson",
    "imagej-roi": "imagej_roi",
    "yolo-seg": "yolo_seg",
}
"""Name of a format -> its module."""


@dataclass
class Report:
    """What was imported.

    Attributes:
        output: the COCO file.
        images: images that it lists.
        empty: of these, images without an object.
        instances: class -> number of objects, in the order of the categories.
        findings: what was left out, or must be told -> how often.
        examples: the same -> the first places.
    """

    output: Path
    images: int
    empty: int
    instances: dict[str, int]
    findings: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)


def import_annotations(
    format_name: str,
    images: str | Path,
    annotations: str | Path,
    output: str | Path,
    *,
    class_name: str = "cell",
    recursive: bool = False,
    suffix: str | None = None,
    allow_missing: bool = False,
    keep_unannotated: bool = False,
    progress: bool = True,
) -> Report:
    """Read the annotations of a folder of images and write them as one COCO instance file.

    Every object is run lengths: holes, several parts and overlaps stay. Images and objects stand in
    the order of their names and of their files; ids count from 1.

    Args:
        format_name: a key of :data:`FORMATS`.
        images: folder of the images; ``file_name`` is relative to it.
        annotations: folder of the annotation files, or one file.
        output: the COCO file to write.
        class_name: of objects that have none.
        recursive: look in sub-folders too.
        suffix: what the names of annotation files have after the image's; None takes the format's
            usual ones.
        allow_missing: leave annotations without an image out, instead of stopping.
        keep_unannotated: keep images without an annotation file as images without objects.
        progress: show a progress bar.

    Returns:
        Counts per class, and everything that was left out.

    Raises:
        BadFileError: a file is damaged, or does not fit its image.
        ValueError: the format is unknown.
    """
    if format_name not in FORMATS:
        raise ValueError(f"format {format_name!r} is not known; there are {', '.join(FORMATS)}")
    if not class_name:
        raise ValueError("the name of the class is empty")
    job = Job(
        images=Path(images),
        annotations=Path(annotations),
        class_name=class_name,
        recursive=recursive,
        suffix=suffix,
        allow_missing=allow_missing,
        keep_unannotated=keep_unannotated,
    )
    if not job.annotations.exists():
        raise BadFileError(f"{job.annotations}: does not exist. Name the annotations' folder.")
    plan: Plan = importlib.import_module(f".{FORMATS[format_name]}", __name__).plan(job)
    content = _coco_content(job, plan, progress)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as stream:
        stream.write(json.dumps(content, separators=(",", ":")).encode())
    return _report(job, content, output)


def _coco_content(job: Job, plan: Plan, progress: bool) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    found: list[tuple[int, Instance]] = []
    for image_id, (entry, instances) in enumerate(_read_all(job, plan, progress), 1):
        entries.append({"id": image_id, **entry})
        found += [(image_id, instance) for instance in instances]
    # The format's own order first; what it does not list follows by name.
    further = sorted({instance.class_name for _, instance in found} - set(plan.class_names))
    names = list(dict.fromkeys([*plan.class_names, *further])) or [job.class_name]
    ids = {name: number for number, name in enumerate(names, 1)}
    return {
        "info": {"description": "imported by iaunet import"},
        "licenses": [],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "images": entries,
        "annotations": [
            _annotation(number, image_id, ids[instance.class_name], instance)
            for number, (image_id, instance) in enumerate(found, 1)
        ],
    }


def _read_all(
    job: Job, plan: Plan, progress: bool
) -> Iterator[tuple[dict[str, Any], list[Instance]]]:
    """Every image's entry and objects, in turn."""
    for task in tqdm(plan.tasks, desc="importing", unit="image", disable=not progress):
        height, width = image_size(task.image)
        file_name = task.image.relative_to(job.images).as_posix()
        entry = {"file_name": file_name, "height": height, "width": width}
        yield entry, task.read((height, width))


def _annotation(number: int, image_id: int, category_id: int, instance: Instance) -> dict[str, Any]:
    area, (left, top, right, bottom) = rle_extent(compressed_rle(instance.segmentation))
    return {
        **instance.extra,
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": instance.segmentation,
        "area": area,
        "bbox": [left, top, right - left, bottom - top],
        "iscrowd": 0,
    }


def _report(job: Job, content: dict[str, Any], output: Path) -> Report:
    counts = Counter(annotation["category_id"] for annotation in content["annotations"])
    filled = {annotation["image_id"] for annotation in content["annotations"]}
    return Report(
        output=output,
        images=len(content["images"]),
        empty=len(content["images"]) - len(filled),
        instances={c["name"]: counts[c["id"]] for c in content["categories"]},
        findings=dict(sorted(job.findings.counts.items())),
        examples={what: list(places) for what, places in job.findings.examples.items()},
    )
