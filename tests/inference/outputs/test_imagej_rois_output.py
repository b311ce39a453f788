"""ROI archives, opened again by roifile, by hand, and by the package's own importer."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from outline_scenes import (
    SIZE,
    assert_same_masks,
    awkward_cells,
    awkward_masks,
    box,
    cells_of,
    drawn,
)
from PIL import Image
from pycocotools import mask as mask_util
from roifile import ROI_TYPE, ImagejRoi, roiread

from iaunet_d2.data import load_coco
from iaunet_d2.data.importers import import_annotations
from iaunet_d2.data.segmentation import annotation_masks
from iaunet_d2.inference.cells import Cells, no_cells


def rois_of(cells: Cells, folder: Path) -> list[ImagejRoi]:
    cells.to_rois(folder / "a.rois.zip")
    return list(roiread(folder / "a.rois.zip"))


def far_cell(crop: np.ndarray, top: int, left: int, size: tuple[int, int]) -> Cells:
    return Cells([crop], np.array([[top, left]]), np.ones(1), np.zeros(1, int), size)


def test_roifile_draws_the_same_masks(tmp_path: Path) -> None:
    cells = awkward_cells()
    rois = rois_of(cells, tmp_path)
    assert_same_masks([drawn(roi.coordinates(multi=True)) for roi in rois], cells)
    kinds = dict(zip(awkward_masks(), (roi.roitype for roi in rois), strict=True))
    assert kinds["disc"] == kinds["one pixel"] == kinds["left edge"] == ROI_TYPE.TRACED
    assert kinds["ring"] == kinds["two parts"] == ROI_TYPE.RECT
    boxes = [(roi.left, roi.top, roi.right, roi.bottom) for roi in rois]
    assert boxes == [tuple(b) for b in cells.boxes.tolist()]


def test_bytes_of_a_rectangle_by_hand(tmp_path: Path) -> None:
    """As ij.io.RoiDecoder reads it: big-endian, points from the box's corner, all x, then all y."""
    cells_of([box(3, 10, 5, 14)]).to_rois(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        (entry,) = archive.infolist()
        data = archive.read(entry)
    assert entry.filename == "0001-cell-0.988.roi"
    assert entry.date_time == (1980, 1, 1, 0, 0, 0)  # no clock in the file
    assert data[:4] == b"Iout" and data[6] == 8  # traced
    top, left, bottom, right, count = struct.unpack(">5h", data[8:18])
    assert (top, left, bottom, right, count) == (3, 10, 5, 14, 4)
    assert struct.unpack(">i", data[36:40]) == (0,)  # not compound
    assert struct.unpack(">2h", data[48:52]) == (0, 0)  # no subtype, no options
    assert struct.unpack(">8h", data[64:80]) == (0, 4, 4, 0, 0, 0, 2, 2)


def test_bytes_of_a_compound_by_hand(tmp_path: Path) -> None:
    cells_of([box(0, 1, 1, 2) | box(0, 3, 1, 4)]).to_rois(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        data = archive.read(archive.namelist()[0])
    (size,) = struct.unpack(">i", data[36:40])
    assert data[6] == 1 and size == 2 * (4 * 3 + 1)  # four points with their kind, and the end
    path = struct.unpack(f">{size}f", data[64 : 64 + 4 * size])
    assert path[:13] == (0, 1, 0, 1, 2, 0, 1, 2, 1, 1, 1, 1, 4)
    assert path[13:] == (0, 3, 0, 1, 4, 0, 1, 4, 1, 1, 3, 1, 4)


def test_names_are_unique_and_tell_number_class_and_score(tmp_path: Path) -> None:
    same = box(3, 10, 8, 14)
    cells = cells_of([same] * 3, class_names=("cell", "in/division: ü"))
    rois = rois_of(cells, tmp_path)
    names = [roi.name for roi in rois]
    assert names == ["0001-cell-0.988", "0002-in_division_ü-0.644", "0003-cell-0.300"]
    with zipfile.ZipFile(tmp_path / "a.rois.zip") as archive:
        assert archive.namelist() == [f"{name}.roi" for name in names]
        assert archive.testzip() is None
    assert [roi.group for roi in rois] == [1, 2, 1]


def test_one_class_is_no_group(tmp_path: Path) -> None:
    assert [roi.group for roi in rois_of(cells_of([box(1, 1, 3, 3)]), tmp_path)] == [0]


def test_written_twice_is_the_same_and_holds_each_cell_once(tmp_path: Path) -> None:
    cells = awkward_cells()
    first, again = (rois_of(cells, tmp_path) for _ in range(2))
    assert len(first) == len(again) == len(cells)
    before = (tmp_path / "a.rois.zip").read_bytes()
    cells.to_rois(tmp_path / "b.zip")
    assert (tmp_path / "b.zip").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.rois.zip", "b.zip"]


def test_no_cells(tmp_path: Path) -> None:
    cells_of([]).to_rois(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == []


@pytest.mark.parametrize("name", ["ragged", "disc", "one pixel", "ring"])
@pytest.mark.parametrize(("top", "left"), [(32700, 100), (20, 32740), (41000, 69000)])
def test_beyond_sixteen_bits(name: str, top: int, left: int, tmp_path: Path) -> None:
    crop = cells_of([awkward_masks()[name]]).crops[0]
    (roi,) = rois_of(far_cell(crop, top, left, (50000, 70000)), tmp_path)
    rings = [ring - [left, top] for ring in roi.coordinates(multi=True)]
    assert np.array_equal(drawn(rings, crop.shape), crop)


def test_the_last_coordinate_of_sixteen_bits_is_whole_the_next_a_float(tmp_path: Path) -> None:
    crop = np.ones((1, 1), bool)
    (near,) = rois_of(far_cell(crop, 0, 32766, (9, 40000)), tmp_path)
    assert near.subpixel_coordinates is None and near.right == 32767
    (far,) = rois_of(far_cell(crop, 0, 32767, (9, 40000)), tmp_path)
    assert far.subpixelresolution
    assert far.subpixel_coordinates.tolist() == [[32767, 0], [32768, 0], [32768, 1], [32767, 1]]


def test_more_corners_than_sixteen_bits_count(tmp_path: Path) -> None:
    comb = np.zeros((3, 40001), bool)
    comb[1] = comb[0, ::2] = True
    (roi,) = rois_of(far_cell(comb, 5, 7, (9, 40100)), tmp_path)
    (ring,) = roi.coordinates(multi=True)
    assert len(ring) == 80004 + 1  # closed
    x, y = (ring[:-1] - [7, 5]).T
    assert abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 == comb.sum()


def test_an_image_that_floats_cannot_count(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"big: .*16777216.*16777217.*geojson"):
        no_cells((10, 2**24 + 1), name="big").to_rois(tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


def test_own_importer_draws_the_same_masks(tmp_path: Path) -> None:
    cells = awkward_cells()
    for name in ("images", "annotations"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "images" / "a.png")
    cells.to_rois(tmp_path / "annotations" / "a.zip")
    report = import_annotations(
        "imagej-roi",
        tmp_path / "images",
        tmp_path / "annotations",
        tmp_path / "out.json",
        progress=False,
    )
    assert report.findings == {}
    content = load_coco(str(tmp_path / "out.json"), str(tmp_path / "images"))
    annotations = content.dicts[0]["annotations"]
    assert_same_masks(
        [mask_util.decode(a["segmentation"]).astype(bool) for a in annotations], cells
    )


@pytest.mark.parametrize("pack", ["bbbc010_worms", "usiigaci_phase"])
def test_real_masks(pack: str, shared_data, tmp_path: Path) -> None:
    folder = shared_data / pack
    content = load_coco(str(folder / "val.json"), str(folder / "images"), tell=False)
    cells = cells_of([m for m in annotation_masks(content.dicts[0]) if m.any()])
    assert len(cells)
    for i, roi in enumerate(rois_of(cells, tmp_path)):
        corner = cells.corners[i, ::-1]
        rings = [ring - corner for ring in roi.coordinates(multi=True)]
        assert np.array_equal(drawn(rings, cells.crops[i].shape), cells.crops[i])
