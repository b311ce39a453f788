"""ImageJ's ROIs: areas of every kind, holes in compound ROIs, archives, and what has no area."""

import zipfile

import numpy as np
import pytest
from import_scenes import SIZE, assert_same, outline, scene
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi, roiwrite

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.importers.imagej_shapes import compound_rings, rectangle_ring
from iaunet_d2.data.importers.polygons import draw_parts


def compound(mask, name=""):
    """As ImageJ stores a selection with holes or several parts: a path of segments."""
    path = []
    for ring in outline(mask):
        path += [0, *ring[0]]
        for point in ring[1:-1]:
            path += [1, *point]
        path.append(4)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return ImagejRoi(
        roitype=ROI_TYPE.RECT,
        name=name,
        top=int(rows[0]),
        left=int(columns[0]),
        bottom=int(rows[-1]) + 1,
        right=int(columns[-1]) + 1,
        shape_roi_size=len(path),
        multi_coordinates=np.array(path, dtype=np.float32),
    )


def polygon(points, kind=ROI_TYPE.POLYGON, **further):
    roi = ImagejRoi.frompoints(np.asarray(points), name="p")
    roi.roitype = kind
    for key, value in further.items():
        setattr(roi, key, value)
    return roi


def write(folders, rois, name="a.zip"):
    path = folders.annotations / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".zip"):
        names = [f"{k:04}" for k in range(len(rois))]
        roiwrite(path, rois, name=names, mode="w")
    else:
        path.write_bytes(rois[0].tobytes())
    return path


def test_holes_parts_and_overlaps(folders, run_import):
    folders.image()
    rois = []
    for name, mask in scene().items():
        rings = outline(mask)
        single = polygon(rings[0], ROI_TYPE.FREEHAND)  # sub-pixel coordinates
        rois.append(single if len(rings) == 1 else compound(mask, name))
    write(folders, rois)
    found = run_import("imagej-roi", class_name="worm")
    assert_same(found.masks["a.png"], list(scene().values()))
    assert set(found.classes["a.png"]) == {"worm"} and found.report.findings == {}


@pytest.mark.parametrize("kind", [ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED])
def test_whole_coordinates_are_pixel_edges(folders, run_import, kind):
    folders.image()
    corner = np.array([[5, 3], [20, 3], [20, 9], [11, 9], [11, 15], [5, 15]])
    write(folders, [polygon(corner, kind)], "a.roi")
    mask = np.zeros(SIZE, bool)
    mask[3:9, 5:20] = mask[9:15, 5:11] = True
    assert_same(run_import("imagej-roi").masks["a.png"], [mask])


def test_rectangles_and_ovals(folders, run_import):
    folders.image()
    place = {"top": 4, "left": 7, "bottom": 24, "right": 37}
    sub_pixel = {
        "version": 229,  # roifile before 2026 writes one without fractions
        "options": ROI_OPTIONS.SUB_PIXEL_RESOLUTION,
        "xd": 7.6,
        "yd": 4.4,
        "widthd": 29.0,
        "heightd": 19.0,
    }
    kinds = (ROI_TYPE.RECT, ROI_TYPE.OVAL)
    rois = [ImagejRoi(roitype=k, **place, **more) for more in ({}, sub_pixel) for k in kinds]
    write(folders, rois)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    expected = []
    for left, top, width, height in ((7, 4, 30, 20), (7.6, 4.4, 29, 19)):
        x, y = (columns - left) / width, (rows - top) / height
        expected.append((x > 0) & (x < 1) & (y > 0) & (y < 1))
        expected.append((2 * x - 1) ** 2 + (2 * y - 1) ** 2 < 1)
    assert_same(run_import("imagej-roi").masks["a.png"], expected)


def test_rounded_rectangles():
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    frame = np.zeros(SIZE, bool)
    draw_parts([[rectangle_ring(5, 3, 45, 33, 12)]], SIZE).paste(frame)
    # Distance from the inner rectangle that the corners' centres span.
    away = np.hypot(np.maximum(abs(columns - 25) - 14, 0), np.maximum(abs(rows - 18) - 9, 0))
    assert np.array_equal(frame, away < 6)
    frame[:] = False
    draw_parts([[rectangle_ring(5, 3, 45, 33, 0)]], SIZE).paste(frame)
    assert frame.sum() == 40 * 30


def test_curves_of_compound_rois():
    # A circle of four cubic curves (within 0.03 % of the radius), a hole of quadratic ones.
    k, r, c = 0.5522847498, 12.0, 18.0
    circle = [0, c + r, c]
    for step in range(4):
        turn = np.array([[0, -1], [1, 0]])
        points = np.array([[r, k * r], [k * r, r], [0, r]])
        for _ in range(step):
            points = points @ turn.T
        circle += [3, *(points + c).ravel()]
    hole = [4, 0, 14, 18, 2, 18, 10, 22, 18, 2, 18, 26, 14, 18, 4]
    rings = compound_rings([*circle, *hole])
    frame = np.zeros(SIZE, bool)
    draw_parts([rings], SIZE).paste(frame)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    x, y = columns - c, rows - c
    # Each parabola reaches half as far as its control point: y = 4 (1 - (x / 4)^2).
    expected = (np.hypot(x, y) < r) & ~(abs(y) < 4 * (1 - (x / 4) ** 2))
    assert np.array_equal(frame, expected)


@pytest.mark.parametrize("path", [[7, 1, 2], [0, 1], [1, 2, 3], [4], [0, 1, 2, 3, 4, 5], [0.5, 1]])
def test_damaged_paths(path):
    with pytest.raises(ValueError, match="its path"):
        compound_rings(path)


def test_rois_without_area_planes_and_splines(folders, run_import):
    folders.image()
    square = [[2, 2], [6, 2], [6, 6], [2, 6]]
    rois = [
        polygon(square, ROI_TYPE.POLYLINE),
        polygon(square, ROI_TYPE.FREELINE),
        polygon(square, ROI_TYPE.ANGLE),
        polygon(square, ROI_TYPE.POINT),
        polygon(square, ROI_TYPE.POINT),
        ImagejRoi(roitype=ROI_TYPE.LINE, x1=2, y1=2, x2=9, y2=9),
        ImagejRoi(roitype=ROI_TYPE.RECT, subtype=ROI_SUBTYPE.TEXT, text="x", right=5, bottom=5),
        polygon(square, position=3),
        polygon(square, position=1),
        polygon(square, options=ROI_OPTIONS.SPLINE_FIT),
        polygon([[60, 2], [70, 2], [70, 8]]),
    ]
    write(folders, rois)
    found = run_import("imagej-roi")
    assert len(found.masks["a.png"]) == 3
    assert found.told("'point'") == 2 and found.told("'line'") == 1
    assert found.told("'polyline'") == found.told("'freeline'") == found.told("'angle'") == 1
    assert found.told("'text'") == 1 and found.told("wholly outside") == 1
    assert found.told("of a stack") == 1 and found.told("spline") == 1


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["a.zip"], 2),
        (["a_rois.zip"], 2),
        (["a_RoiSet.zip"], 2),
        (["a.roi"], 1),
        (["a/x.roi", "a/y.roi"], 2),
        (["RoiSet.zip"], 2),
        (["RoiSet_1.zip"], 2),
    ],
)
def test_names(folders, run_import, names, count):
    folders.image("a.tif")
    for name in names:
        write(folders, [compound(scene()["ring"]), compound(scene()["two parts"])], name)
    assert len(run_import("imagej-roi").masks["a.tif"]) == count


def test_files_beside_the_images_and_in_sub_folders(folders, run_import):
    folders.image("day/a.png")
    folders.image("day/b.png")
    folders.image("c.png")
    write(folders, [compound(scene()["ring"])], "day/a.zip")
    write(folders, [compound(scene()["ring"])], "day/b/1.roi")
    write(folders, [compound(scene()["two parts"])], "day/b/2.roi")
    found = run_import("imagej-roi", recursive=True)
    assert {name: len(m) for name, m in found.masks.items()} == {"day/a.png": 1, "day/b.png": 2}
    assert found.told("no annotation file") == 1


def test_a_roi_set_and_two_images(folders, run_import):
    folders.image("a.png")
    folders.image("b.png")
    write(folders, [compound(scene()["ring"])], "RoiSet.zip")
    with pytest.raises(BadFileError, match=r"RoiSet\.zip: there is no image"):
        run_import("imagej-roi")


def test_archives_are_never_unpacked(folders, run_import, tmp_path):
    folders.image()
    path = write(folders, [compound(scene()["ring"])])
    escape = tmp_path / "escaped.roi"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../escaped.roi", compound(scene()["one pixel"]).tobytes())
        archive.writestr(str(escape), compound(scene()["one pixel"]).tobytes())
        archive.writestr("__MACOSX/._x.roi", b"rubbish")
        archive.writestr("notes.txt", b"rubbish")
    before = sorted(tmp_path.rglob("*"))
    found = run_import("imagej-roi")
    assert len(found.masks["a.png"]) == 3 and found.told("no .roi") == 1
    after = sorted(p for p in tmp_path.rglob("*") if p.name != "out.json")
    assert (
        after == before and not escape.exists() and not (tmp_path.parent / "escaped.roi").exists()
    )


def test_an_archive_of_several_gigabytes_is_not_read_whole(folders, run_import, monkeypatch):
    monkeypatch.setattr("iaunet_d2.data.importers.imagej_roi._LARGEST", 1 << 12)
    folders.image()
    with zipfile.ZipFile(folders.annotations / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.roi", compound(scene()["ring"]).tobytes()[:64] + bytes(1 << 20))
    with pytest.raises(BadFileError, match=r"x\.roi"):
        run_import("imagej-roi")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 cut off", b"no archive at all, only text" * 9]
)
def test_damaged_archives(folders, run_import, content):
    folders.image()
    (folders.annotations / "a.zip").write_bytes(content)
    with pytest.raises(BadFileError, match=r"a\.zip: cannot be read"):
        run_import("imagej-roi")


@pytest.mark.parametrize("cut", [10, 70, 100])
def test_damaged_rois(folders, run_import, cut):
    folders.image()
    path = write(folders, [polygon(outline(scene()["over the ring"])[0])], "a.roi")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BadFileError, match=r"a\.roi: a\.roi cannot be read as an ImageJ ROI"):
        run_import("imagej-roi")
