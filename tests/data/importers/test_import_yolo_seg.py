"""YOLO's segmentation labels: normalised outlines, bridges, classes, boxes, malformed lines."""

import numpy as np
import pytest
from import_scenes import SIZE, assert_same, outline, scene

from iaunet_d2.data.errors import BadFileError


def bridged(rings):
    """One outline from several: out to each further ring and back along the same line."""
    rings = [ring[:-1] if np.array_equal(ring[0], ring[-1]) else ring for ring in rings]
    joined = rings[0]
    for ring in rings[1:]:
        distance = np.linalg.norm(joined[:, None] - ring[None], axis=2)
        here, there = np.unravel_index(distance.argmin(), distance.shape)
        around = np.roll(ring, -there, axis=0)
        joined = np.concatenate(
            [joined[: here + 1], around, around[:1], joined[here : here + 1], joined[here + 1 :]]
        )
    return joined


def line(kind, ring, digits=None):
    numbers = (ring / [SIZE[1], SIZE[0]]).ravel()
    return " ".join(
        [str(kind), *(repr(float(n)) if digits is None else f"{n:.{digits}f}" for n in numbers)]
    )


@pytest.mark.parametrize("digits", [None, 6])
def test_every_mask_as_one_outline(folders, run_import, digits):
    folders.image()
    lines = [line(k % 2, bridged(outline(m)), digits) for k, m in enumerate(scene().values())]
    folders.text("a.txt", "\n".join(lines) + "\n\n")
    folders.text("data.yaml", "names: [round, long]\nnc: 2\n")
    found = run_import("yolo-seg")
    assert_same(found.masks["a.png"], list(scene().values()))
    assert found.classes["a.png"] == ["round", "long"] * 5 + ["round"]
    assert found.report.findings == {}


SQUARE = np.array([[2.0, 2], [6, 2], [6, 6], [2, 6]])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("../data.yaml", "names:\n  0: a\n  4: b\n"),
        ("classes.txt", "a\nx\ny\nz\nb\n"),
        ("../dataset.yaml", "names: [a, x, y, z, b]"),
    ],
)
def test_files_of_class_names(folders, run_import, name, content):
    folders.image()
    folders.text("a.txt", line(4, SQUARE) + "\n" + line("0.0", SQUARE))
    folders.text(name, content)
    found = run_import("yolo-seg")
    assert found.classes["a.png"] == ["b", "a"]
    assert next(iter(found.report.instances)) == "a" and found.report.instances["b"] == 1


def test_classes_without_names_boxes_and_missing_files(folders, run_import):
    for name in ("a.png", "b.png", "c.png"):
        folders.image(name)
    folders.text("a.txt", line(3, SQUARE) + "\n3 0.5 0.5 0.1 0.1\n")
    folders.text("b.txt", "")
    found = run_import("yolo-seg")
    assert found.classes == {"a.png": ["class_3"], "b.png": [], "c.png": []}
    assert found.told("boxes without an outline") == 1 and found.told("class_<number>") == 1
    assert found.told("kept as images without objects") == 1 and found.report.empty == 2


def test_sub_folders_of_a_data_set(folders, run_import):
    folders.image("train/a.png")
    folders.image("val/a.png")
    folders.text("train/a.txt", line(0, SQUARE))
    folders.text("val/a.txt", line(0, SQUARE) + "\n" + line(0, SQUARE + 5))
    found = run_import("yolo-seg", recursive=True)
    assert [len(m) for m in found.masks.values()] == [1, 2]


def test_points_just_outside_are_clipped(folders, run_import):
    folders.image()
    ring = np.array([[-0.2, -0.1], [9, -0.1], [9, 5], [-0.2, 5]])
    folders.text("a.txt", line(0, ring))
    assert run_import("yolo-seg").masks["a.png"][0].sum() == 45


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0 0.1 0.1 0.2 0.2 0.3", "has 6 numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.9", "confidence"),
        ("0 0.1 0.1", "has 3 numbers"),
        ("cell 0.1 0.1 0.2 0.2 0.3 0.3", "something else than numbers"),
        ("-1 0.1 0.1 0.2 0.2 0.3 0.3", "class"),
        ("0.5 0.1 0.1 0.2 0.2 0.3 0.3", "class"),
        ("0 10 10 20 20 30 10", "from 10 to 30"),
        ("0 nan 0.1 0.2 0.2 0.3 0.3", "not finite"),
        ("9 0.1 0.1 0.2 0.2 0.3 0.3", "has the class 9"),
    ],
)
def test_malformed_lines(folders, run_import, text, told):
    folders.image()
    folders.text("classes.txt", "cell\n")
    folders.text("a.txt", f"{line(0, SQUARE)}\n\n{text}\n")
    with pytest.raises(BadFileError, match=told) as error:
        run_import("yolo-seg")
    assert "a.txt: line 3" in str(error.value)


@pytest.mark.parametrize("content", ["names: 5", "- 1", "a: [", "names: {x: 1}"])
def test_unusable_class_names(folders, run_import, content):
    folders.image()
    folders.text("a.txt", line(0, SQUARE))
    folders.text("data.yaml", content)
    with pytest.raises(BadFileError, match=r"data\.yaml"):
        run_import("yolo-seg")


def test_files_that_are_no_text(folders, run_import):
    folders.image()
    (folders.annotations / "a.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(BadFileError, match="not a text file"):
        run_import("yolo-seg")
