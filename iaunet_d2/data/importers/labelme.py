"""LabelMe (versions 4 and later): one JSON file per image.

Polygons, rectangles, oriented rectangles, circles and masks become objects; shapes of one label and
one ``group_id`` are parts of one object. https://github.com/wkentaro/labelme
"""

import base64
import binascii
import io
from collections.abc import Hashable
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from ..errors import BadFileError
from ..rasterise import Patch, encode_patch
from ..readers import DECODER_ERRORS, FORMATS
from .common import NO_PIXEL, Instance, Job, Plan, read_json, require_size
from .pairing import Unit, list_images, pair, pair_tasks, single_units
from .polygons import (
    FrameSize,
    as_ring,
    box_ring,
    draw_parts,
    ellipse_ring,
    paste_mask,
    union,
)

ENDINGS = (".json",)
# Names of other editors that write LabelMe's files (X-AnyLabeling: "rotation").
_POLYGONS = ("polygon", "oriented_rectangle", "rotation")


def plan(job: Job) -> Plan:
    """JSON files with the images' names, beside them or in a folder of their own.

    Raises:
        BadFileError: names that do not go together.
    """

    def read(image: Path, unit: Unit, size: FrameSize) -> list[Instance]:
        return _read(job, image, unit.files[0], size)

    pairs = pair(job, single_units(job, ENDINGS), (), list_images(job))
    return Plan(pair_tasks(job, pairs, read, ENDINGS))


def _read(job: Job, image: Path, path: Path, size: FrameSize) -> list[Instance]:
    content = read_json(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise BadFileError(
            f"{path}: is not a LabelMe file: it has no list 'shapes'. Move files of other kinds "
            "out of the folder."
        )
    _require_image(image, size, path, content)
    objects: dict[Hashable, tuple[str, list[Patch]]] = {}
    for number, shape in enumerate(shapes, 1):
        where = f"{path.name} shape {number}"
        try:
            label, group = _label(shape)
            patch = _draw(job, shape, size, where)
        except ValueError as error:
            raise BadFileError(
                f"{path}: shape {number}: {error}. Correct it in LabelMe."
            ) from error
        if patch is not None:
            key: Hashable = ("shape", number) if group is None else ("group", label, group)
            objects.setdefault(key, (label, []))[1].append(patch)
    joined = ((label, union(patches)) for label, patches in objects.values())
    return [Instance(label, encode_patch(p, size)) for label, p in joined if p is not None]


def _require_image(image: Path, size: FrameSize, path: Path, content: dict[str, Any]) -> None:
    """That the file was made for this image, as far as it says."""
    stated = (content.get("imageHeight"), content.get("imageWidth"))
    if all(isinstance(n, int) for n in stated):
        require_size(image, size, path, (int(stated[0] or 0), int(stated[1] or 0)))
    name = content.get("imagePath")
    # Either system's separators: the file may have been made on the other one.
    other = image.with_name(PureWindowsPath(name).name) if isinstance(name, str) and name else image
    if other.stem != image.stem and other.is_file():
        raise BadFileError(
            f"{path}: its imagePath says that it annotates {other}, its name that it annotates "
            f"{image}. Rename the file, or correct imagePath."
        )


def _label(shape: Any) -> tuple[str, Hashable]:
    if not isinstance(shape, dict):
        raise ValueError(f"is a {type(shape).__name__}, not an object")
    label, group = shape.get("label"), shape.get("group_id")
    if not isinstance(label, str) or not label:
        raise ValueError(f"has the label {label!r}; a name is needed")
    if group is not None and not isinstance(group, int | str):
        raise ValueError(f"has the group_id {group!r}; a number is needed")
    return label, group


def _draw(job: Job, shape: dict[str, Any], size: FrameSize, where: str) -> Patch | None:
    """A shape's pixels; None, and a finding, if it has none."""
    kind = shape.get("shape_type") or "polygon"
    ring = as_ring(shape.get("points", []))
    if kind == "mask":
        patch = _draw_mask(shape, ring, size)
        if patch is None:
            job.told(NO_PIXEL, where)
        return patch
    if kind == "rectangle" and len(ring) == 2:
        ring = box_ring(*ring.min(axis=0), *ring.max(axis=0))
    elif kind == "circle":
        if len(ring) != 2:
            raise ValueError(f"is a circle of {len(ring)} points; centre and one point are needed")
        radius = float(np.hypot(*(ring[1] - ring[0])))
        ring = ellipse_ring(*(ring[0] - radius), *(ring[0] + radius))
    elif kind not in (*_POLYGONS, "rectangle"):
        job.told(f"shapes of kind {kind!r} have no area: left out", where)
        return None
    patch = draw_parts([[ring]], size)
    if patch is None:
        job.outlined([[ring]], size, where)  # counts the reason
    return patch


def _draw_mask(shape: dict[str, Any], points: np.ndarray, size: FrameSize) -> Patch | None:
    """A mask's pixels: a PNG whose upper left pixel is the first corner of its box."""
    if len(points) != 2 or not isinstance(shape.get("mask"), str):
        raise ValueError("is a mask without its box of two points or without its picture")
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=FORMATS) as picture:
            mask = np.array(picture.convert("L")) > 0
    except (binascii.Error, *DECODER_ERRORS) as error:
        raise ValueError(f"has a mask that cannot be decoded ({error})") from error
    (left, top), (right, bottom) = np.round(points).astype(int)
    # LabelMe's versions differ in whether the second corner is the last pixel or the one after it.
    if mask.shape[0] - (bottom - top) not in (0, 1) or mask.shape[1] - (right - left) not in (0, 1):
        raise ValueError(
            f"has a mask of {mask.shape[1]}x{mask.shape[0]} (width x height) in a box of "
            f"{right - left}x{bottom - top}"
        )
    return paste_mask(mask, int(top), int(left), size)
