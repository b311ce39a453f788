"""GeoJSON for QuPath, opened again by shapely and by the package's own importer."""

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
import shapely
from outline_scenes import SIZE, assert_same_masks, awkward_cells, awkward_masks, box, cells_of
from PIL import Image
from pycocotools import mask as mask_util
from shapely.geometry import shape

from iaunet_d2.data import load_coco
from iaunet_d2.data.importers import import_annotations
from iaunet_d2.data.segmentation import annotation_masks
from iaunet_d2.inference.cells import Cells
from iaunet_d2.inference.outputs.json_items import write_items


def features(file: Path) -> list[dict]:
    content = json.loads(file.read_text())
    assert content["type"] == "FeatureCollection"
    return content["features"]


def masks_of(found: list[dict], size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    rows, columns = np.mgrid[: size[0], : size[1]]
    shapes = [shape(feature["geometry"]) for feature in found]
    assert all(s.is_valid for s in shapes)
    return [shapely.contains_xy(s, columns + 0.5, rows + 0.5) for s in shapes]


def test_shapely_draws_the_same_masks(tmp_path: Path) -> None:
    cells = awkward_cells()
    cells.to_geojson(tmp_path / "a.geojson")
    found = features(tmp_path / "a.geojson")
    assert_same_masks(masks_of(found), cells)
    kinds = dict(zip(awkward_masks(), (f["geometry"]["type"] for f in found), strict=True))
    assert kinds["two parts"] == kinds["parts that touch by a corner"] == "MultiPolygon"
    assert kinds["ring"] == kinds["whole frame"] == "Polygon"
    holes = [len(shape(f["geometry"]).interiors) for f in found[2:3]]
    assert holes == [1]


def test_rings_are_closed_and_run_as_the_standard_says(tmp_path: Path) -> None:
    awkward_cells().to_geojson(tmp_path / "a.geojson")
    for feature in features(tmp_path / "a.geojson"):
        kind, parts = feature["geometry"]["type"], feature["geometry"]["coordinates"]
        for exterior, *holes in [parts] if kind == "Polygon" else parts:
            assert exterior[0] == exterior[-1] and shapely.LinearRing(exterior).is_ccw
            assert all(h[0] == h[-1] and not shapely.LinearRing(h).is_ccw for h in holes)


def test_one_pixel_by_hand(tmp_path: Path) -> None:
    cells = cells_of([box(3, 10, 4, 11)], pixel_size=(0.5, 0.25), name="a.tif")
    cells.to_geojson(tmp_path / "a.geojson")
    (feature,) = features(tmp_path / "a.geojson")
    assert feature["type"] == "Feature"
    assert feature["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[10, 3], [11, 3], [11, 4], [10, 4], [10, 3]]],
    }
    properties = feature["properties"]
    assert properties["objectType"] == "detection"
    assert properties["name"] == "cell 1"
    assert properties["classification"]["name"] == "cell"
    assert properties["measurements"] == {
        "Score": 0.987654,
        "Area px^2": 1,
        "Area µm^2": 0.125,
    }


def test_classes_names_and_measurements(tmp_path: Path) -> None:
    cells = awkward_cells(pixel_size=None)
    cells.to_geojson(tmp_path / "a.geojson")
    properties = [f["properties"] for f in features(tmp_path / "a.geojson")]
    assert [p["classification"]["name"] for p in properties[:3]] == ["cell", "in division", "cell"]
    colors = {tuple(p["classification"]["color"]) for p in properties}
    assert len(colors) == 2 and all(len(c) == 3 and min(c) >= 0 and max(c) < 256 for c in colors)
    assert [p["name"] for p in properties[:2]] == ["cell 1", "in division 2"]
    assert all(set(p["measurements"]) == {"Score", "Area px^2"} for p in properties)
    areas = [int(mask.sum()) for mask in awkward_masks().values()]
    assert [p["measurements"]["Area px^2"] for p in properties] == areas
    scores = [p["measurements"]["Score"] for p in properties]
    assert scores == pytest.approx(cells.scores, abs=1e-6)


def test_ids_are_unique_and_the_file_is_the_same_again(tmp_path: Path) -> None:
    one = box(3, 10, 8, 14)
    for name in ("a", "b"):
        cells_of([one, one, box(3, 10, 9, 14)], name="x").to_geojson(tmp_path / name)
    cells_of([one], name="y").to_geojson(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    ids = [f["id"] for name in "ac" for f in features(tmp_path / name)]
    assert len({str(uuid.UUID(i)) for i in ids}) == len(ids) == 4


def test_own_importer_draws_the_same_masks(tmp_path: Path) -> None:
    cells = awkward_cells()
    for name in ("images", "annotations"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "images" / "a.png")
    cells.to_geojson(tmp_path / "annotations" / "a.geojson")
    report = import_annotations(
        "qupath-geojson",
        tmp_path / "images",
        tmp_path / "annotations",
        tmp_path / "out.json",
        progress=False,
    )
    assert report.findings == {}
    content = load_coco(str(tmp_path / "out.json"), str(tmp_path / "images"))
    annotations = content.dicts[0]["annotations"]
    masks = [mask_util.decode(a["segmentation"]).astype(bool) for a in annotations]
    assert_same_masks(masks, cells)
    classes = [content.class_names[a["category_id"]] for a in annotations]
    assert classes == [cells.class_names[k] for k in cells.classes]


def test_no_cells(tmp_path: Path) -> None:
    cells_of([]).to_geojson(tmp_path / "a.geojson")
    assert features(tmp_path / "a.geojson") == []


def test_far_from_the_origin(tmp_path: Path) -> None:
    crop = awkward_masks()["ragged"]
    cells = Cells([crop], np.array([[41000, 69000]]), np.ones(1), np.zeros(1, int), (50000, 70000))
    cells.to_geojson(tmp_path / "a.geojson")
    (feature,) = features(tmp_path / "a.geojson")
    moved = shapely.transform(shape(feature["geometry"]), lambda p: p - [69000, 41000])
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    assert np.array_equal(shapely.contains_xy(moved, columns + 0.5, rows + 0.5), crop)


def test_items_are_written_as_they_come(tmp_path: Path) -> None:
    sizes = []

    def items():
        for k in range(2000):
            sizes.extend(p.stat().st_size for p in tmp_path.iterdir())
            yield {"number": k, "text": "µ" * 50}

    write_items(tmp_path / "a.json", {"a": 1}, "list", items())
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["a"] == 1 and [item["number"] for item in content["list"]] == list(range(2000))
    # Half way, near half of the file was on the disk.
    assert sizes[1000] > 0.4 * (tmp_path / "a.json").stat().st_size


def test_a_number_that_json_has_no_word_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_items(tmp_path / "a.json", {"a": 1}, "list", [{"x": float("nan")}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pack", ["bbbc010_worms", "dsb2018_nuclei"])
def test_real_masks(pack: str, shared_data, tmp_path: Path) -> None:
    folder = shared_data / pack
    content = load_coco(str(folder / "val.json"), str(folder / "images"), tell=False)
    cells = cells_of([m for m in annotation_masks(content.dicts[0]) if m.any()])
    assert len(cells)
    cells.to_geojson(tmp_path / "a.geojson")
    assert_same_masks(masks_of(features(tmp_path / "a.geojson"), cells.image_size), cells)
