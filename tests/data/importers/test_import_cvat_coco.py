"""CVAT's COCO export: brush masks with iscrowd 1, polygons, rectangles, sub-folders, attributes."""

import json

import numpy as np
import pytest
from import_scenes import SIZE, assert_same, outline, scene, whole_parts

from iaunet_d2.data.errors import BadFileError


def plain_rle(mask):
    """Uncompressed run lengths down the columns, counted one pixel at a time."""
    counts, value, run = [], False, 0
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    return {"size": list(mask.shape), "counts": [*counts, run]}


def annotation(number, segmentation, mask, image_id=1, category_id=1, **further):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": segmentation,
        "area": float(mask.sum()),
        "bbox": [float(v) for v in box],
        "iscrowd": int(isinstance(segmentation, dict)),
        "attributes": {"occluded": False, "stage": "late"},
        **further,
    }


def document(annotations, images=((1, "a.png"),), size=SIZE):
    listed = [
        {
            "id": number,
            "width": size[1],
            "height": size[0],
            "file_name": name,
            "license": 0,
            "flickr_url": "",
            "coco_url": "",
            "date_captured": 0,
        }
        for number, name in images
    ]
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "version": "", "year": ""},
        "categories": [
            {"id": 1, "name": "worm", "supercategory": ""},
            {"id": 2, "name": "egg", "supercategory": ""},
        ],
        "images": listed,
        "annotations": annotations,
    }
    return json.dumps(content)


def polygons(mask):
    return [outline(part)[0].ravel().tolist() for part in whole_parts(mask)]


def test_brush_masks_and_polygons(folders, run_import):
    folders.image()
    masks = scene()
    listed = [annotation(k, plain_rle(m), m) for k, m in enumerate(masks.values(), 1)]
    without_hole = [m for m in masks.values() if all(len(outline(p)) == 1 for p in whole_parts(m))]
    assert len(without_hole) >= 9
    listed += [
        annotation(len(listed) + k, polygons(m), m, category_id=2)
        for k, m in enumerate(without_hole, 1)
    ]
    folders.text("annotations/instances_default.json", document(listed))
    folders.text("annotations/captions.json", "{}")  # of another kind, in the same export
    found = run_import("cvat-coco")
    assert_same(found.masks["a.png"], [*masks.values(), *without_hole])
    assert found.report.instances == {"worm": len(masks), "egg": len(without_hole)}
    assert found.told("iscrowd=1") == len(masks)
    written = json.loads((folders.root / "out.json").read_text())["annotations"]
    assert all(a["attributes"] == {"occluded": False, "stage": "late"} for a in written)
    assert [a["id"] for a in written] == list(range(1, len(written) + 1))


def test_a_file_that_needs_no_mending(folders, run_import):
    folders.image()
    mask = scene()["over the ring"]
    path = folders.text("instances.json", document([annotation(1, polygons(mask), mask)]))
    found = run_import("cvat-coco", annotations=path)
    assert_same(found.masks["a.png"], [mask])
    assert found.report.findings == {}


def test_rectangles_are_told(folders, run_import):
    folders.image()
    mask = scene()["ring"]
    listed = [annotation(1, [], mask), annotation(2, plain_rle(mask), mask)]
    folders.text("instances_default.json", document(listed))
    found = run_import("cvat-coco")
    assert_same(found.masks["a.png"], [mask])
    assert found.told("rectangles") == 1


def test_sub_folders_several_files_and_images_beside(folders, run_import):
    for name in ("a.png", "day1/b.png", "day2/b.png", "c.png"):
        folders.image(name)
    mask = scene()["two parts"]
    folders.text(
        "instances_train.json",
        document([annotation(1, plain_rle(mask), mask)], [(1, "day1\\b.png"), (2, "a.png")]),
    )
    folders.text(
        "instances_val.json",
        document([annotation(1, plain_rle(mask), mask)], [(1, "day2/b.png")]),
    )
    found = run_import("cvat-coco")
    assert list(found.masks) == ["a.png", "day1/b.png", "day2/b.png"]
    assert [len(m) for m in found.masks.values()] == [0, 1, 1]
    assert found.told("no annotation file") == 1 and found.report.empty == 1
    assert "c.png" in run_import("cvat-coco", keep_unannotated=True).masks


def test_names_by_their_last_part(folders, run_import):
    folders.image("b.png")
    folders.text("instances_default.json", document([], [(1, "upload/b.png")]))
    assert list(run_import("cvat-coco").masks) == ["b.png"]
    folders.image("x/b.png")
    folders.image("y/b.png")
    folders.text("instances_default.json", document([], [(1, "x/b.png"), (2, "b.png")]))
    assert list(run_import("cvat-coco").masks) == ["b.png", "x/b.png"]
    folders.text("instances_default.json", document([], [(1, "z/b.png")]))
    with pytest.raises(BadFileError, match=r"z/b\.png may be"):
        run_import("cvat-coco")


def test_missing_images(folders, run_import):
    folders.image("a.png")
    folders.text("instances_default.json", document([], [(1, "a.png"), (2, "gone.png")]))
    with pytest.raises(BadFileError, match=r"gone\.png.*--allow-missing"):
        run_import("cvat-coco")
    assert run_import("cvat-coco", allow_missing=True).told("have no image") == 1


def test_contradictions(folders, run_import):
    folders.image("a.png")
    mask = scene()["ring"]
    with pytest.raises(BadFileError, match="no JSON file"):
        run_import("cvat-coco")
    folders.text("instances_default.json", document([], size=SIZE[::-1]))
    with pytest.raises(BadFileError, match=r"instances_default\.json.*37x53 .*53x37"):
        run_import("cvat-coco")
    folders.text("instances_default.json", document([annotation(1, plain_rle(mask.T), mask)]))
    with pytest.raises(BadFileError, match="another size"):
        run_import("cvat-coco")
    far = [[0, 0, 1e12, 0, 0, 30]]
    folders.text("instances_default.json", document([annotation(7, far, mask)]))
    with pytest.raises(BadFileError, match=r"a\.png, bbox .*beyond any image"):
        run_import("cvat-coco")
    folders.text("instances_default.json", document([]))
    folders.text("instances_more.json", document([]))
    with pytest.raises(BadFileError, match=r"a\.png: is listed in"):
        run_import("cvat-coco")
