"""QuPath's GeoJSON: holes, several parts, classes, kinds of objects, and what has no area."""

import json

import pytest
from import_scenes import assert_same, outline, scene, whole_parts

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.importers.qupath_geojson import class_of


def closed(ring):
    points = ring.tolist()
    return points if points[0] == points[-1] else [*points, points[0]]


def geometry(mask):
    polygons = [[closed(ring) for ring in outline(part)] for part in whole_parts(mask)]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def feature(shape, name=None, **properties):
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    return {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": shape,
        "properties": {"objectType": "annotation", **properties},
    }


def features():
    return [feature(geometry(mask), name[0]) for name, mask in scene().items()]


SQUARE = {"type": "Polygon", "coordinates": [[[2, 2], [6, 2], [6, 6], [2, 6], [2, 2]]]}


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [
        ("a.geojson", lambda f: {"type": "FeatureCollection", "features": f}),
        ("a.png.geojson", lambda f: f),
        ("a.json", lambda f: {"type": "FeatureCollection", "features": f}),
    ],
)
def test_holes_parts_and_overlaps(folders, run_import, name, wrapped):
    folders.image()
    folders.text(name, json.dumps(wrapped(features())))
    found = run_import("qupath-geojson")
    assert_same(found.masks["a.png"], list(scene().values()))
    assert found.classes["a.png"] == [name[0] for name in scene()]
    assert found.report.findings == {}


def test_a_single_feature_and_no_feature(folders, run_import):
    folders.image("a.png")
    folders.image("b.png")
    folders.text("a.geojson", json.dumps(feature(SQUARE)))
    folders.text("b.geojson", json.dumps({"type": "FeatureCollection", "features": []}))
    found = run_import("qupath-geojson", class_name="nucleus")
    assert found.masks["a.png"][0].sum() == 16 and found.masks["b.png"] == []
    assert found.classes["a.png"] == ["nucleus"]


def test_collections_points_and_lines(folders, run_import):
    folders.image()
    point = {"type": "Point", "coordinates": [3, 3]}
    line = {"type": "LineString", "coordinates": [[3, 3], [9, 9]]}
    other = {"type": "Polygon", "coordinates": [[[10, 2], [14, 2], [14, 6], [10, 6]]]}
    both = {"type": "GeometryCollection", "geometries": [SQUARE, point, other]}
    lines = {"type": "GeometryCollection", "geometries": [line]}
    listed = [feature(g) for g in (point, line, both, lines, None, {**point, "type": "MultiPoint"})]
    folders.text("a.geojson", json.dumps(listed))
    found = run_import("qupath-geojson")
    assert [int(m.sum()) for m in found.masks["a.png"]] == [32]
    assert found.report.findings == {
        "features without an area (LineString): left out": 2,
        "features without an area (MultiPoint): left out": 1,
        "features without an area (Point): left out": 1,
        "features without an area (no geometry): left out": 1,
        "features have points or lines beside their area: these are left out": 1,
    }


def test_parts_that_overlap_are_joined(folders, run_import):
    folders.image()
    shifted = [[[x + 2, y + 2] for x, y in SQUARE["coordinates"][0]]]
    multi = {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"], shifted]}
    folders.text("a.geojson", json.dumps([feature(multi)]))
    assert run_import("qupath-geojson").masks["a.png"][0].sum() == 16 + 16 - 4


def test_cells_tiles_planes_and_mixtures(folders, run_import):
    folders.image()
    cell = {**feature(SQUARE, objectType="cell"), "nucleusGeometry": SQUARE}
    plane = feature({**SQUARE, "plane": {"c": -1, "z": 2, "t": 0}})
    first = feature({**SQUARE, "plane": {"c": -1, "z": 0, "t": 0}})
    tile = feature(SQUARE, objectType="tile")
    folders.text("a.geojson", json.dumps([cell, plane, first, tile]))
    found = run_import("qupath-geojson")
    assert len(found.masks["a.png"]) == 3
    assert found.told("nucleus") == 1 and found.told("'tile'") == 1
    assert found.told("further plane") == 1 and found.told("annotations and detections") == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"classification": {"name": "Tumor", "colorRGB": -3670016}}, "Tumor"),
        ({"classification": {"names": ["CD3", "CD8"], "color": [1, 2, 3]}}, "CD3: CD8"),
        ({"classification": "Stroma"}, "Stroma"),
        ({"classification": {"name": None}}, None),
        ({"classification": {}}, None),
        ({"classification": None}, None),
        ({}, None),
    ],
)
def test_classes_of_each_version(given, expected):
    assert class_of(given) == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "not JSON"),
        ('{"type": "Polygon"}', "not GeoJSON of features"),
        ('[{"type": "Polygon"}]', "entry 1 is no GeoJSON feature"),
        (json.dumps([feature({"type": "Polygon", "coordinates": 5})]), "feature 1: its Polygon"),
        (json.dumps([feature({"type": "Polygon", "coordinates": [[1, 2]]})]), "pairs of numbers"),
        (json.dumps([feature(SQUARE), feature(7)]), "feature 2: its geometry"),
        (json.dumps([feature({"type": "GeometryCollection", "geometries": 5})]), "feature 1"),
        (json.dumps([{**feature(SQUARE), "properties": 7}]), "feature 1"),
        (json.dumps([feature(SQUARE, classification=7)]), "classification"),
        (
            '[{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[NaN,1],[2,3],[4,1]]]}}]',
            "not finite",
        ),
    ],
)
def test_damaged_files(folders, run_import, content, told):
    folders.image()
    folders.text("a.geojson", content)
    with pytest.raises(BadFileError, match=told) as error:
        run_import("qupath-geojson")
    assert "a.geojson" in str(error.value)
