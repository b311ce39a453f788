"""LabelMe's JSON: polygons, groups, rectangles, circles and masks."""

import base64
import io
import json

import numpy as np
import pytest
from import_scenes import SIZE, assert_same, outline, scene, whole_parts
from PIL import Image

from iaunet_d2.data.errors import BadFileError


def shape(label, points, kind="polygon", **further):
    return {
        "label": label,
        "points": np.asarray(points, float).tolist(),
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
        **further,
    }


def mask_shape(label, mask, beyond=0):
    """As LabelMe writes it: a PNG of the mask's box, whose second corner may be one further."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    buffer = io.BytesIO()
    Image.fromarray(mask[top : bottom + beyond, left : right + beyond]).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    second = [right - 1 + beyond, bottom - 1 + beyond]
    return shape(label, [[left, top], second], "mask", mask=encoded)


def document(shapes, **further):
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
        **further,
    }
    return json.dumps(content)


def test_polygons_groups_and_masks_in_one_file(folders, run_import):
    folders.image()
    shapes, expected = [], []
    for number, (name, mask) in enumerate(scene().items()):
        parts = whole_parts(mask)
        if any(len(outline(part)) > 1 for part in parts):  # a polygon has no hole
            shapes.append(mask_shape("with hole", mask))
        else:
            group = number if len(parts) > 1 else None
            shapes += [shape(name[0], outline(part)[0], group_id=group) for part in parts]
        expected.append(mask)
    folders.text("a.json", document(shapes, imageData="not looked at"))
    found = run_import("labelme")
    assert_same(found.masks["a.png"], expected)
    assert found.classes["a.png"][0] == "with hole" and found.report.findings == {}
    assert list(found.report.instances) == sorted(found.report.instances)


@pytest.mark.parametrize("beyond", [0, 1])
def test_masks_of_either_box_convention(folders, run_import, beyond):
    folders.image()
    masks = list(scene().values())
    if beyond:  # at the frame LabelMe cuts the picture and not the box
        masks = [m for m in masks if m[:-1, :-1].any()]
    folders.text("a.json", document([mask_shape("cell", m, beyond) for m in masks]))
    assert_same(run_import("labelme").masks["a.png"], masks)


def test_rectangles_and_circles(folders, run_import):
    folders.image()
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    shapes = [
        shape("box", [[30, 20], [10, 5]], "rectangle"),
        shape("box", [[10, 5], [30, 5], [30, 20], [10, 20]], "rectangle"),
        shape("disc", [[12, 20], [12, 27.2]], "circle"),
        shape("turned", [[20, 10], [30, 20], [20, 30], [10, 20]], "oriented_rectangle"),
    ]
    folders.text("a.json", document(shapes))
    box = (columns > 10) & (columns < 30) & (rows > 5) & (rows < 20)
    disc = np.hypot(columns - 12, rows - 20) < 7.2
    turned = np.abs(columns - 20) + np.abs(rows - 20) < 10
    found = run_import("labelme").masks["a.png"]
    # Centres on the turned one's sides belong to it or not; none is further in or out.
    assert_same(found[:3], [box, box, disc])
    assert not (found[3] & (np.abs(columns - 20) + np.abs(rows - 20) > 10)).any()
    assert (found[3] | ~turned).all()


def test_groups_join_one_label_alone(folders, run_import):
    folders.image()
    square = np.array([[2, 2], [6, 2], [6, 6], [2, 6]])
    right = np.array([20, 0])
    shapes = [
        shape("a", square, group_id=1),
        shape("b", square + 10, group_id=1),
        shape("a", square + right, group_id=1),
        shape("a", square + right * 1.5),
    ]
    folders.text("a.json", document(shapes))
    found = run_import("labelme")
    assert found.classes["a.png"] == ["a", "b", "a"]
    assert [int(m.sum()) for m in found.masks["a.png"]] == [32, 16, 16]


def test_shapes_without_area_are_told(folders, run_import):
    folders.image()
    shapes = [
        shape("a", [[2, 2], [9, 9]], "line"),
        shape("a", [[2, 2], [9, 9], [9, 2]], "linestrip"),
        shape("a", [[2, 2]], "point"),
        shape("a", [[4, 4]], "point"),
        shape("a", [[2, 2], [9, 9]]),
        shape("a", [[90, 2], [99, 2], [99, 9]]),
    ]
    folders.text("a.json", document(shapes))
    found = run_import("labelme")
    assert found.masks == {"a.png": []} and found.report.empty == 1
    assert found.told("'line'") == 1 and found.told("'linestrip'") == 1
    assert found.told("'point'") == 2
    assert found.told("no pixel centre") == 1 and found.told("wholly outside") == 1


def test_older_files_and_files_beside_the_images(folders, run_import):
    folders.image("sub/a.png")
    square = {"label": "old", "points": [[2, 2], [6, 2], [6, 6], [2, 6]]}
    content = {"version": "4.5.6", "shapes": [square], "imagePath": "..\\elsewhere\\a.png"}
    (folders.images / "sub" / "a.json").write_text(json.dumps(content))
    found = run_import("labelme", annotations=folders.images, recursive=True)
    assert found.classes == {"sub/a.png": ["old"]}


def test_another_size_names_both_files(folders, run_import):
    folders.image("a.png", (37, 40))
    path = folders.text("a.json", document([]))
    with pytest.raises(BadFileError, match=r"53x37 .*40x37") as error:
        run_import("labelme")
    assert str(path) in str(error.value) and "a.png" in str(error.value)


def test_a_file_of_another_image(folders, run_import):
    folders.image("a.png")
    folders.image("b.png")
    folders.text("a.json", document([], imagePath="b.png"))
    with pytest.raises(BadFileError, match=r"imagePath .*b\.png"):
        run_import("labelme")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a": 1}', "no list 'shapes'"),
        ("[]", "no list 'shapes'"),
        (document([5]), "shape 1: is a int"),
        (document([shape("", [[1, 1], [2, 2], [3, 1]])]), "shape 1: has the label ''"),
        (document([shape("a", [[1, 1], [2, 2], [3, 1]], group_id=[1])]), "group_id"),
        (document([shape("a", [[0, 0]], "circle")]), "1 points"),
        (document([shape("a", [[1, 1], [5, 5]], "mask", mask="%%%")]), "decoded"),
        (document([shape("a", [[1, 1], [5, 5]], "mask", mask="QUJD")]), "decoded"),
        (document([shape("a", [[1, 1], [5, 5]], "mask")]), "without its box"),
        (document([{**shape("a", [[0, 0]]), "points": [[1, 2], [3]]}]), "pairs of numbers"),
        (document([{**shape("a", [[0, 0]]), "points": [[1, None], [3, 2]]}]), "finite|pairs"),
    ],
)
def test_damaged_files(folders, run_import, content, told):
    folders.image()
    folders.text("a.json", content)
    with pytest.raises(BadFileError, match=told) as error:
        run_import("labelme")
    assert "a.json" in str(error.value)


def test_a_mask_of_another_size_than_its_box(folders, run_import):
    folders.image()
    wrong = mask_shape("a", scene()["ring"])
    wrong["points"][1][0] += 3
    folders.text("a.json", document([wrong]))
    with pytest.raises(BadFileError, match="in a box of"):
        run_import("labelme")
