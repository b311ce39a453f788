"""COCO-like annotation files as data sets are published: read tolerantly, grouped by image.

Unlike :func:`iaunet_d2.data.coco_json.load_coco`, this asks for no sizes, boxes, areas or
categories: what is missing is computed by :class:`~iaunet_d2.data.prepare.build.Build`, or known by
the recipe.
"""

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..coco_json import read_json_object
from ..errors import BadFileError
from ..readers import image_size


class AnnotationsByImage(Mapping[Any, list[dict[str, Any]]]):
    """Image id -> annotations, plain lists again; an image without any has an empty list.

    A Python list takes four times the memory of the numbers in it, and LIVECell has 10^8 of them.
    So outlines are held as arrays of doubles.

    Args:
        packed: image id -> annotations whose polygons are arrays; every image has an entry.
    """

    def __init__(self, packed: Mapping[Any, list[dict[str, Any]]]) -> None:
        self._packed = packed

    def __getitem__(self, image_id: Any) -> list[dict[str, Any]]:
        return [_unpacked(annotation) for annotation in self._packed[image_id]]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


@dataclass(frozen=True)
class CocoSource:
    """What a COCO-like file holds.

    Attributes:
        path: of the file.
        images: the entries in the file's order; each has ``id`` and ``file_name``.
        annotations_by_image: for every image id its annotations in the file's order.
        categories: category id -> name; empty if the file lists none.
        strays: number of annotations of images that the file does not list; they are left out.
    """

    path: Path
    images: list[dict[str, Any]]
    annotations_by_image: Mapping[Any, list[dict[str, Any]]]
    categories: dict[Any, str]
    strays: int


def read_coco_source(path: Path) -> CocoSource:
    """Read a COCO-like file.

    ``annotations`` (and ``images``) may be a list, or a dict by id as in older copies of LIVECell,
    whose keys are then the ids of entries that have none. ``categories`` may be missing.

    Raises:
        BadFileError: the file cannot be read, is no JSON, has no images or annotations, or an entry
            lacks what nothing can stand in for.
    """
    content = read_json_object(path, _pack)
    images = [_checked_image(image, path) for image in _entries(content, "images", path)]
    packed: dict[Any, list[dict[str, Any]]] = {}
    for image in images:
        if image["id"] in packed:
            raise BadFileError(
                f"{path}: lists the image id {image['id']!r} twice. Fetch the file again."
            )
        packed[image["id"]] = []
    strays = 0
    for annotation in _entries(content, "annotations", path):
        if "image_id" not in annotation:
            raise BadFileError(
                f"{path}: annotation {annotation.get('id')!r} lacks image_id. Fetch the file again."
            )
        if annotation["image_id"] in packed:
            packed[annotation["image_id"]].append(annotation)
        else:
            strays += 1
    return CocoSource(path, images, AnnotationsByImage(packed), _categories(content, path), strays)


def bare_name(image: Mapping[str, Any]) -> str:
    """The file name of an image's entry without folders, of either slash."""
    return PurePosixPath(image["file_name"].replace("\\", "/")).name


def require_images(source: CocoSource, found: Mapping[str, Path], archive: str) -> None:
    """Check that there is a file for every image, of the size that the entry states.

    Args:
        source: the annotation file.
        found: :func:`bare_name` in lower case -> file.
        archive: that the images are published in, for the error.

    Raises:
        BadFileError: an image is missing, or has another size.
    """
    absent = [bare_name(i) for i in source.images if bare_name(i).lower() not in found]
    if absent:
        raise BadFileError(
            f"{source.path}: lists {len(source.images)} images, and {len(absent)} of them are not "
            f"among the files given (first: {absent[0]}). They are in {archive}: give it with a "
            "further --source."
        )
    for image in source.images:
        stated = (image.get("height"), image.get("width"))
        path = found[bare_name(image).lower()]
        if None not in stated and stated != image_size(path):
            raise BadFileError(
                f"{path}: has the height and width {image_size(path)}, and {source.path} states "
                f"{stated}: outlines would not fit. Give the image as it was published."
            )


def _pack(entry: dict[str, Any]) -> dict[str, Any]:
    """Hold an annotation's polygons as arrays, as soon as they are read."""
    polygons = entry.get("segmentation")
    if isinstance(polygons, list) and "image_id" in entry:
        entry["segmentation"] = [_packed(polygon) for polygon in polygons]
    return entry


def _packed(polygon: Any) -> Any:
    try:
        return array("d", polygon) if isinstance(polygon, list) else polygon
    except (TypeError, OverflowError):  # not all numbers: left for the check that counts it
        return polygon


def _unpacked(annotation: dict[str, Any]) -> dict[str, Any]:
    polygons = annotation.get("segmentation")
    if not isinstance(polygons, list):
        return dict(annotation)
    plain = [p.tolist() if isinstance(p, array) else p for p in polygons]
    return {**annotation, "segmentation": plain}


def _entries(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """A list of objects, or the values of a dict of objects by id."""
    listed = content.get(key)
    if isinstance(listed, dict):
        listed = [
            {"id": identity, **entry} if isinstance(entry, dict) else entry
            for identity, entry in listed.items()
        ]
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise BadFileError(
            f"{path}: {key!r} is missing or no list of objects (found: "
            f"{', '.join(list(content)[:8]) or 'nothing'}). It is not a COCO file; fetch it again."
        )
    return listed


def _checked_image(image: dict[str, Any], path: Path) -> dict[str, Any]:
    name = image.get("file_name")
    if not isinstance(image.get("id"), int | str) or not isinstance(name, str) or not name:
        raise BadFileError(
            f"{path}: an image has the id {image.get('id')!r} and the file_name {name!r}; both are "
            "needed. Fetch the file again."
        )
    return image


def _categories(content: dict[str, Any], path: Path) -> dict[Any, str]:
    if not content.get("categories"):
        return {}
    return {
        category.get("id"): str(category.get("name", ""))
        for category in _entries(content, "categories", path)
    }
