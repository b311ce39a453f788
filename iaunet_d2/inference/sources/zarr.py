"""OME-Zarr folders (0.1 to 0.5): images, plates, and the series that Bio-Formats writes.

Specification: https://ngff.openmicroscopy.org (multiscales, omero, plate, bioformats2raw.layout).
The metadata are plain JSON, read here; the package zarr reads the arrays.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...data.errors import BadFileError
from .axes import check_axes
from .block import Block, Index
from .extras import optional_package
from .pixel_size import PixelSize, both, microns

_OLD_AXES = "TCZYX"
"""Of every image of versions 0.1 and 0.2, which do not name their axes."""
_BY_TYPE = {"time": "T", "channel": "C"}
_FREE_LETTERS = "PABDEFGHJKLMNORUVW"


def open_zarr(path: str, axes: str = "") -> list[Block]:
    """Read the metadata: a block per image, at full resolution.

    Args:
        path: the folder.
        axes: the user's letters, for an array that names no dimensions.

    Raises:
        BadFileError: the folder holds no OME-Zarr, its metadata are damaged, or the package zarr is
            not installed.
    """
    folder = Path(path)
    if _is_array(folder):
        return [_array_block(folder, path, axes)]
    images = list(_images(folder, path))
    if not images:
        raise BadFileError(
            f"{path}: is a folder without OME-Zarr metadata (multiscales in .zattrs or zarr.json). "
            "To read the image files in a folder, give the files themselves."
        )
    several = len(images) > 1
    return [_image_block(f, path, part if several else "") for f, part in images]


def _json(file: Path) -> dict[str, Any]:
    """What a JSON file holds; empty where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadFileError(
            f"{file}: cannot be read ({error}). Copy the whole folder again from its source."
        ) from error
    if not isinstance(content, dict):
        raise BadFileError(f"{file}: holds no JSON object. Copy the folder again from its source.")
    return content


def _is_array(folder: Path) -> bool:
    return (folder / ".zarray").is_file() or _json(folder / "zarr.json").get("node_type") == "array"


def _attributes(folder: Path) -> dict[str, Any]:
    """OME's metadata of a group: in Zarr 3 under "ome", in Zarr 2 bare."""
    attributes = _json(folder / "zarr.json").get("attributes") or _json(folder / ".zattrs")
    return attributes.get("ome") or attributes


def _images(folder: Path, path: str) -> Iterator[tuple[Path, str]]:
    """The folder of each image, and what tells it from the others."""
    about = _attributes(folder)
    if "multiscales" in about:
        yield folder, ""
    elif "plate" in about:
        for well in about["plate"].get("wells", []):
            fields = _attributes(folder / well["path"]).get("well", {}).get("images", [])
            for field in fields:
                yield folder / well["path"] / field["path"], f"well={well['path']}/{field['path']}"
    elif "bioformats2raw.layout" in about:
        listed = _attributes(folder / "OME").get("series")
        numbered = sorted((f for f in os.listdir(folder) if f.isdecimal()), key=int)
        for k, name in enumerate(listed or numbered):
            if "multiscales" in _attributes(folder / name):
                yield folder / name, f"series={k}"


def _image_block(folder: Path, path: str, part: str) -> Block:
    about = _attributes(folder)
    try:
        image = about["multiscales"][0]
        # Levels are listed from the largest on.
        level = image["datasets"][0]
        stated = image.get("axes")
        letters = _OLD_AXES if stated is None else _letters(stated)
        size = _pixel_size(image, level, stated, letters)
        labels = [str(c.get("label", "")) for c in about.get("omero", {}).get("channels", [])]
        array = _open_array(folder / level["path"], path)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadFileError(
            f"{folder}: its OME-Zarr metadata are incomplete ({type(error).__name__}: {error}). "
            "Write it again with a current version of its program."
        ) from error
    if len(letters) != len(array.shape):
        raise BadFileError(
            f"{folder}: names {len(letters)} axes ({letters}) for an array of {len(array.shape)} "
            "dimensions. Write it again with a current version of its program."
        )
    count = dict(zip(letters, array.shape, strict=True)).get("C", 1)
    names = tuple(labels) if len(labels) == count and all(labels) else ()
    return _block(array, letters, size, names, part)


def _array_block(folder: Path, path: str, axes: str) -> Block:
    """A bare array: its axes are those that Zarr 3 can name, or the user's."""
    array = _open_array(folder, path)
    named = [str(n or "") for n in _json(folder / "zarr.json").get("dimension_names") or ()]
    letters = "".join(named).upper()
    if not axes and (len(letters) != len(array.shape) or len(named) != len(letters)):
        letters = "Q" * len(array.shape)
    return _block(array, check_axes(axes) or letters, None, (), "")


def _block(
    array: Any, letters: str, size: PixelSize | None, names: tuple[str, ...], part: str
) -> Block:
    def read(index: Index) -> np.ndarray:
        return np.asarray(array[index])

    return Block(letters, tuple(array.shape), np.dtype(array.dtype), read, False, size, names, part)


def _open_array(folder: Path, path: str) -> Any:
    zarr = optional_package("zarr", path, "zarr")
    if not _is_array(folder):
        raise BadFileError(
            f"{folder}: is missing or no Zarr array. Copy the whole folder again from its source."
        )
    return zarr.open_array(str(folder), mode="r")


def _letters(stated: list[Any]) -> str:
    """A letter for each axis; bare strings in version 0.3, objects since 0.4."""
    letters = ""
    for axis in stated:
        name, kind = (axis, "") if isinstance(axis, str) else (axis["name"], axis.get("type", ""))
        letter = name.upper() if name.lower() in set("tczyx") else _BY_TYPE.get(kind, "")
        if not letter or letter in letters:
            letter = next(a for a in _FREE_LETTERS if a not in letters)
        letters += letter
    return letters


def _pixel_size(
    image: dict[str, Any], level: dict[str, Any], stated: list[Any] | None, letters: str
) -> PixelSize | None:
    """Scale of the level times scale of all levels, by each axis' unit."""
    if stated is None or any(isinstance(axis, str) for axis in stated):
        return None
    scale = np.ones(len(letters))
    steps = [
        *(level.get("coordinateTransformations") or ()),
        *(image.get("coordinateTransformations") or ()),
    ]
    scales = [step["scale"] for step in steps if step.get("type") == "scale"]
    if not scales or any(len(s) != len(letters) for s in scales):
        return None
    for factors in scales:
        scale = scale * np.array(factors, dtype=float)
    y, x = letters.index("Y"), letters.index("X")
    return both(microns(scale[y], stated[y].get("unit")), microns(scale[x], stated[x].get("unit")))
