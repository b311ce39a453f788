"""Outlines for QuPath: GeoJSON in pixels, the origin at the image's upper left corner.

In QuPath: File, Import objects from file, with the image open. Each cell is a detection; holes and
several parts are kept, and cells overlap as they were found.
https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html#geojson
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..cells import Cells
from .json_items import write_items
from .outlines import Polygon, outline

# Okabe and Ito, "Color Universal Design" (2008): told apart by all kinds of colour vision.
_COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


def write(cells: Cells, file: Path) -> None:
    """Write a FeatureCollection, a detection per cell.

    Each has its class and its colour, a name with the number that the cell has in the label image,
    and the measurements "Score", "Area px^2" and, where the pixel size is known, "Area µm^2". The
    same result gives the same file, ids included.

    Raises:
        OSError: the file cannot be written.
    """
    write_items(file, {"type": "FeatureCollection"}, "features", _features(cells))


def geometry(polygons: list[Polygon]) -> dict[str, Any]:
    """A GeoJSON Polygon, or MultiPolygon of several parts (RFC 7946, section 3.1)."""
    parts = [
        [[*ring, ring[0]] for ring in (points.tolist() for points in (exterior, *holes))]
        for exterior, holes in polygons
    ]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def _features(cells: Cells) -> Iterator[dict[str, Any]]:
    pixel_area = None if cells.pixel_size is None else float(np.prod(cells.pixel_size))
    for i, crop in enumerate(cells.crops):
        top, left = (int(v) for v in cells.corners[i])
        number = int(cells.classes[i])
        class_name = cells.class_names[number]
        area = int(np.count_nonzero(crop))
        measurements = {"Score": round(float(cells.scores[i]), 6), "Area px^2": area}
        if pixel_area is not None:
            measurements["Area µm^2"] = area * pixel_area
        # As ASCII: the names of files may hold bytes that are no text.
        identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{cells.name!a}/{i}/{top}/{left}/{area}")
        yield {
            "type": "Feature",
            "id": str(identity),
            "geometry": geometry(outline(crop, (top, left))),
            "properties": {
                "objectType": "detection",
                "name": f"{class_name} {i + 1}",
                "classification": {
                    "name": class_name,
                    "color": list(_COLORS[number % len(_COLORS)]),
                },
                "measurements": measurements,
            },
        }
