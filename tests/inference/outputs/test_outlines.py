"""Outlines: exact, valid, in order and direction, for every small pattern and any size."""

import numpy as np
import pytest
import shapely
from outline_scenes import SIZE, awkward_masks, cells_of, drawn
from scipy import ndimage

from iaunet_d2.data import load_coco
from iaunet_d2.data.segmentation import annotation_masks
from iaunet_d2.inference.outputs.outlines import outline

PATTERNS = [(np.arange(512)[k] >> np.arange(9) & 1).astype(bool).reshape(3, 3) for k in range(512)]


def check(mask: np.ndarray) -> None:
    """Against shapely's rules for polygons, its rasterisation, and scipy's parts."""
    polygons = outline(mask)
    shape = shapely.MultiPolygon([shapely.Polygon(e, holes) for e, holes in polygons])
    assert shape.is_valid, shapely.is_valid_reason(shape)
    assert len(polygons) == ndimage.label(mask)[1]
    assert shape.area == mask.sum()
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    assert np.array_equal(shapely.contains_xy(shape, columns + 0.5, rows + 0.5), mask)
    for exterior, holes in polygons:
        assert shapely.LinearRing(exterior).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)
        for ring in (exterior, *holes):
            assert ring.dtype == np.int64
            steps = np.roll(ring, -1, axis=0) - ring
            sideways = steps[:, 0] != 0
            # A corner at every point: sideways and upright in turn.
            assert ((steps != 0).sum(axis=1) == 1).all()
            assert (sideways != np.roll(sideways, 1)).all()
            assert len(np.unique(ring, axis=0)) == len(ring)


def test_every_pattern_of_three_by_three() -> None:
    assert len({p.tobytes() for p in PATTERNS}) == 512
    assert outline(PATTERNS[0]) == []
    for pattern in PATTERNS[1:]:
        check(pattern)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6, 0.8, 0.95])
def test_noise_of_any_shape(share: float) -> None:
    rng = np.random.default_rng(int(share * 100))
    for size in [(1, 1), (1, 17), (23, 1), (2, 2), (9, 14), (40, 31)] * 4:
        mask = rng.random(size) < share
        if mask.any():
            check(mask)


@pytest.mark.parametrize("name", awkward_masks())
def test_awkward_masks(name: str) -> None:
    check(awkward_masks()[name])


def test_one_pixel_and_a_hole_by_hand() -> None:
    ((exterior, holes),) = outline(np.ones((1, 1), bool))
    assert exterior.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]] and holes == []
    ring = np.ones((3, 4), bool)
    ring[1, 1:3] = False
    ((exterior, holes),) = outline(ring)
    assert exterior.tolist() == [[0, 0], [4, 0], [4, 3], [0, 3]]
    (hole,) = holes
    assert sorted(hole.tolist()) == [[1, 1], [1, 2], [3, 1], [3, 2]]


def test_diagonal_pixels_are_two_parts() -> None:
    first, second = outline(np.eye(2, dtype=bool))
    assert first.exterior.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]
    assert second.exterior.tolist() == [[1, 1], [2, 1], [2, 2], [1, 2]]


def test_holes_go_with_their_part() -> None:
    mask = awkward_masks()["ring with an island"]
    outer, island = outline(mask)
    assert len(outer.holes) == 1 and island.holes == []
    hole = shapely.Polygon(outer.holes[0])
    assert shapely.Polygon(island.exterior).within(hole)
    # Two rings, one in the other's hole: which hole is whose cannot be told from their order.
    nested = np.zeros((9, 9), bool)
    nested[:] = True
    nested[1:8, 1:8] = False
    nested[2:7, 2:7] = True
    nested[4, 4] = False
    big, small = outline(nested)
    assert np.ptp(big.exterior) == 9 and [np.ptp(h) for h in big.holes] == [7]
    assert np.ptp(small.exterior) == 5 and [np.ptp(h) for h in small.holes] == [1]


def test_corner_is_added_and_the_crop_left_as_it_is() -> None:
    crop = np.array([[1, 1, 0], [0, 1, 1]], bool)
    before = crop.copy()
    ((here, _),), ((there, _),) = outline(crop), outline(crop, (1000, 70000))
    assert np.array_equal(there - here, np.broadcast_to([70000, 1000], here.shape))
    assert np.array_equal(crop, before)
    assert np.array_equal(drawn([here], crop.shape), crop)


def test_other_layouts_and_types() -> None:
    mask = awkward_masks()["ragged"]
    expected = [e.tolist() for e, _ in outline(mask)]
    for other in (np.asfortranarray(mask), np.flipud(np.flipud(mask)), mask.astype(np.uint8) * 255):
        assert [e.tolist() for e, _ in outline(other)] == expected
    assert outline(np.zeros(SIZE, bool)) == [] and outline(np.zeros((0, 0), bool)) == []


@pytest.mark.parametrize("pack", ["bbbc010_worms", "dsb2018_nuclei", "usiigaci_phase"])
def test_real_masks(pack: str, shared_data) -> None:
    folder = shared_data / pack
    content = load_coco(str(folder / "val.json"), str(folder / "images"), tell=False)
    masks = [m for record in content.dicts[:3] for m in annotation_masks(record) if m.any()][:60]
    assert masks
    for mask in masks:
        check(cells_of([mask]).crops[0])
