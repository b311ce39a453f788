"""QuPath's GeoJSON export: one file per image, coordinates in pixels of the whole image.

https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import BadFileError
from .common import Instance, Job, Plan, read_json
from .pairing import Unit, list_images, pair, pair_tasks, single_units
from .polygons import FrameSize, Part, as_ring

ENDINGS = (".geojson", ".json")
SUFFIXES = ("_annotations", "_detections", "_cells", "_objects")

_NUCLEUS = "cells have an outline of their nucleus too: left out, the cell's is taken"
_MIXED = (
    "files hold annotations and detections or cells: all are taken as objects. If the annotations "
    "are regions, export without them"
)
_PLANE = "objects lie on a further plane of a stack (z or t over 0): kept, the image has one plane"
_NO_OBJECTS = ("tile", "tma_core", "root")


def plan(job: Job) -> Plan:
    """``.geojson`` files with the images' names.

    Raises:
        BadFileError: names that do not go together.
    """

    def read(image: Path, unit: Unit, size: FrameSize) -> list[Instance]:
        return _read(job, unit.files[0], size)

    pairs = pair(job, single_units(job, ENDINGS), SUFFIXES, list_images(job))
    return Plan(pair_tasks(job, pairs, read, ENDINGS))


def _read(job: Job, path: Path, size: FrameSize) -> list[Instance]:
    instances = []
    kinds = set()
    for number, feature in enumerate(_features(read_json(path), path), 1):
        where = f"{path.name} feature {number}"
        try:
            properties = feature.get("properties") or {}
            kind = properties.get("objectType") or properties.get("object_type") or "annotation"
            if kind in _NO_OBJECTS:
                job.told(f"features are of the type {kind!r}: left out", where)
                continue
            kinds.add(kind)
            segmentation = _segmentation(job, feature, size, where)
            name = class_of(properties) or job.class_name
        except (ValueError, TypeError, AttributeError) as error:
            raise BadFileError(
                f"{path}: feature {number}: {error}. Export it from QuPath again."
            ) from error
        if segmentation is not None:
            instances.append(Instance(name, segmentation))
    if "annotation" in kinds and len(kinds) > 1:
        job.told(_MIXED, path)
    return instances


def class_of(properties: dict[str, Any]) -> str | None:
    """The class of a feature: QuPath's ``name``, or ``names`` joined as QuPath shows them.

    Raises:
        ValueError: it is neither.
    """
    given = properties.get("classification")
    if given is None or given == {}:
        return None
    if isinstance(given, dict):
        given = given["name"] if given.get("name") is not None else given.get("names")
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        given = ": ".join(given)
    if given is None or given == "":
        return None
    if not isinstance(given, str):
        raise ValueError(f"its classification is {given!r}; a name is needed")
    return given


def _features(content: Any, path: Path) -> list[dict[str, Any]]:
    """The features of a FeatureCollection, a list of features, or a single one."""
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content.get("features")
    elif isinstance(content, dict) and content.get("type") == "Feature":
        content = [content]
    if not isinstance(content, list):
        raise BadFileError(
            f"{path}: is not GeoJSON of features. In QuPath: File, Export objects as GeoJSON."
        )
    for number, feature in enumerate(content, 1):
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise BadFileError(
                f"{path}: entry {number} is no GeoJSON feature. In QuPath: File, Export objects as "
                "GeoJSON."
            )
    return content


def _segmentation(
    job: Job, feature: dict[str, Any], size: FrameSize, where: str
) -> dict[str, Any] | None:
    geometry = feature.get("geometry")
    parts: list[Part] = []
    without_area = []
    for piece in _pieces(geometry):
        polygons = _polygons(piece)
        if polygons is None:
            without_area.append(piece.get("type"))
        else:
            parts += polygons
    if not parts:
        kinds = ", ".join(sorted({str(kind) for kind in without_area})) or "no geometry"
        job.told(f"features without an area ({kinds}): left out", where)
        return None
    if without_area:
        job.told("features have points or lines beside their area: these are left out", where)
    if "nucleusGeometry" in feature:
        job.told(_NUCLEUS, where)
    plane = geometry.get("plane") if isinstance(geometry, dict) else None
    if isinstance(plane, dict) and ((plane.get("z") or 0) > 0 or (plane.get("t") or 0) > 0):
        job.told(_PLANE, where)
    return job.outlined(parts, size, where)


def _pieces(geometry: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """A geometry, or those of a collection, also of collections in it."""
    if geometry is None:
        return
    if not isinstance(geometry, dict) or depth > 8:
        raise ValueError("its geometry is no GeoJSON object")
    if geometry.get("type") != "GeometryCollection":
        yield geometry
        return
    for inner in geometry.get("geometries") or []:
        yield from _pieces(inner, depth + 1)


def _polygons(piece: dict[str, Any]) -> list[Part] | None:
    """The polygons of a geometry, each an outer ring and its holes; None if it has no area."""
    kind, coordinates = piece.get("type"), piece.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon"):
        return None
    polygons = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(polygons, list) or not all(isinstance(rings, list) for rings in polygons):
        raise ValueError(f"its {kind} has no lists of coordinates")
    return [[as_ring(ring) for ring in rings] for rings in polygons]
