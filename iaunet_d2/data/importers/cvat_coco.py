"""CVAT's export "COCO 1.0", and other tools' COCO files of the same kind.

CVAT marks every brush mask ``iscrowd=1`` (https://github.com/cvat-ai/cvat/issues/7030); all are
instances here. Polygons are drawn by their pixel centres, as CVAT shows them. A rectangle has no
mask in this format, only its box.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..coco_json import load_coco
from ..coco_mend import REMARKS
from ..errors import BadFileError
from ..segmentation import compressed_rle, is_rle, usable_polygons
from .common import (
    KEPT_EMPTY,
    UNANNOTATED,
    Instance,
    Job,
    Plan,
    Task,
    nothing,
    read_json,
    require_size,
)
from .pairing import files_below, list_images, require_images
from .polygons import FrameSize, as_ring

_CROWD = "annotations have iscrowd=1 (CVAT's brush masks): kept as instances"
_BOX_ONLY = "annotations are rectangles, a box without a mask: left out"
# Keys of an annotation that are written anew.
_OWN_KEYS = ("id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd")


def plan(job: Job) -> Plan:
    """The images of one or several ``instances_*.json``, found by their ``file_name``.

    Raises:
        BadFileError: no such file, one that contradicts itself, an image twice, or none at all.
    """
    images = list_images(job, recursive=True)
    by_name = _by_name(job, images)
    wanted: dict[Path, Task] = {}
    names: list[str] = []
    orphans: list[str] = []
    origin: dict[Path, Path] = {}
    for path in _annotation_files(job):
        content, categories = _read_coco(job, path)
        names += [name for name in categories.values() if name not in names]
        by_image = defaultdict(list)
        for annotation in content["annotations"]:
            by_image[annotation["image_id"]].append(annotation)
        for entry in content["images"]:
            image = _find_image(job, entry["file_name"], by_name, path)
            if image is None:
                orphans.append(f"{path.name}: {entry['file_name']}")
                continue
            if image in origin:
                raise BadFileError(
                    f"{image}: is listed in {origin[image]} and again in {path}. Remove the copy."
                )
            origin[image] = path
            read = partial(_read, job, image, path, entry, by_image[entry["id"]], categories)
            wanted[image] = Task(image, read)
    if orphans:
        require_images(job, orphans, found_any=bool(wanted))
    for image in images:
        if image not in wanted:
            job.told(KEPT_EMPTY if job.keep_unannotated else UNANNOTATED, image)
            if job.keep_unannotated:
                wanted[image] = Task(image, nothing)
    return Plan([wanted[image] for image in images if image in wanted], names)


def _annotation_files(job: Job) -> list[Path]:
    found = files_below(job.annotations, (".json",), recursive=True)
    files = [path for path in found if path.name.lower().startswith("instances")] or found
    if not files:
        raise BadFileError(
            f"{job.annotations}: holds no JSON file. CVAT's export has annotations/instances_"
            "default.json; unpack its zip file first."
        )
    return files


def _read_coco(job: Job, path: Path) -> tuple[dict[str, Any], dict[Any, str]]:
    """A file's content, every entry checked and completed, and its categories by id."""
    found = load_coco(str(path), str(job.images), crowd="instance", tell=False)
    told = {"crowd": _CROWD, "box only": _BOX_ONLY}
    for kind, count in found.findings.items():
        job.told(told.get(kind, REMARKS.get(kind, kind)), path, count)
    # Where nothing had to be mended, the file itself is what is needed.
    content = found.evaluation or read_json(path)
    ids = {number: identity for identity, number in found.contiguous_ids.items()}
    return content, {ids[k]: name for k, name in enumerate(found.class_names)}


def _by_name(job: Job, images: Sequence[Path]) -> dict[str, list[Path]]:
    """Images by their path below the folder, and by its last component."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        for name in {image.relative_to(job.images).as_posix(), image.name}:
            by_name[name].append(image)
    return by_name


def _find_image(
    job: Job, file_name: str, by_name: dict[str, list[Path]], path: Path
) -> Path | None:
    """The image of this path below the folder, or the only one with its last component."""
    wanted = PurePosixPath(*PureWindowsPath(file_name).parts)
    near = by_name.get(str(wanted)) or by_name.get(wanted.name, [])
    exact = [image for image in near if image == job.images / wanted]
    if len(near) > 1 and not exact:
        raise BadFileError(
            f"{path}: {file_name} may be {' or '.join(map(str, near[:3]))}. Name the folder with "
            "--images that the names of the file begin in."
        )
    found = exact or near
    return found[0] if found else None


def _read(
    job: Job,
    image: Path,
    path: Path,
    entry: dict[str, Any],
    annotations: Sequence[dict[str, Any]],
    categories: dict[Any, str],
    size: FrameSize,
) -> list[Instance]:
    require_size(image, size, path, (entry["height"], entry["width"]))
    instances = []
    for annotation in annotations:
        shape = annotation["segmentation"]
        if is_rle(shape):
            rle = compressed_rle(shape)
            encoded = {"size": list(size), "counts": rle["counts"].decode("ascii")}
        else:
            # Its id may be a new one, where the file's could not be used.
            where = f"{path.name}, {entry['file_name']}, bbox {annotation['bbox']}"
            try:
                parts = [[as_ring(flat.reshape(-1, 2))] for flat in usable_polygons(shape)]
            except ValueError as error:
                raise BadFileError(f"{path}: {where}: {error}. Correct it in CVAT.") from error
            outlined = job.outlined(parts, size, where)
            if outlined is None:
                continue
            encoded = outlined
        extra = {key: value for key, value in annotation.items() if key not in _OWN_KEYS}
        instances.append(Instance(categories[annotation["category_id"]], encoded, extra))
    return instances
