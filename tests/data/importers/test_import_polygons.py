"""Exact rasterisation: against brute force, shapely, and masks that outlines were drawn around."""

import numpy as np
import pytest
from import_scenes import SIZE, outline, scene
from pycocotools import mask as mask_util

from iaunet_d2.data.importers.polygons import (
    as_ring,
    box_ring,
    draw_parts,
    ellipse_ring,
    paste_mask,
    union,
)
from iaunet_d2.data.rasterise import Patch, encode_patch
from iaunet_d2.data.segmentation import encode_mask


def drawn(parts, size=SIZE):
    frame = np.zeros(size, dtype=bool)
    patch = draw_parts(parts, size)
    if patch is not None:
        assert patch.pixels.any()
        patch.paste(frame)
    return frame


def brute_force(parts, size):
    """Even-odd rule, one centre at a time: edges that a ray to the left meets."""
    mask = np.zeros(size, dtype=bool)
    for row in range(size[0]):
        for column in range(size[1]):
            x, y = column + 0.5, row + 0.5
            for rings in parts:
                crossings = 0
                for ring in rings:
                    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                        if (y0 <= y) != (y1 <= y):
                            crossings += x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x
                mask[row, column] |= crossings % 2 == 1
    return mask


@pytest.mark.parametrize("name", list(scene()))
def test_outlines_give_the_mask_back(name):
    mask = scene()[name]
    assert np.array_equal(drawn([outline(mask)]), mask)


def test_random_polygons_equal_brute_force():
    rng = np.random.default_rng(0)
    size = (17, 23)
    for trial in range(25):
        parts = [
            [rng.uniform(-6, 29, (rng.integers(3, 9), 2)) for _ in range(rng.integers(1, 3))]
            for _ in range(1 + trial % 2)
        ]
        assert np.array_equal(drawn(parts, size), brute_force(parts, size))


def test_polygons_with_holes_equal_shapely():
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    for _ in range(10):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        rays = np.stack([np.cos(angles), np.sin(angles)], 1)
        centre = rng.uniform(10, 30, 2)
        outer = centre + rays * rng.uniform(8, 16, (12, 1))
        hole = centre + rays * 3
        polygon = shapely.Polygon(outer).difference(shapely.Polygon(hole))
        expected = shapely.contains_xy(polygon, columns + 0.5, rows + 0.5)
        assert np.array_equal(drawn([[outer, hole]]), expected)


def test_shared_edges_leave_no_gap_and_no_overlap():
    rng = np.random.default_rng(2)
    path = np.stack([np.linspace(0, SIZE[1], 12), rng.uniform(8, 28, 12)], 1)
    above = np.concatenate([path, [[SIZE[1], 0], [0, 0]]])
    below = np.concatenate([path[::-1], [[0, SIZE[0]], [SIZE[1], SIZE[0]]]])
    assert np.array_equal(drawn([[above]]), ~drawn([[below]]))


def test_an_edge_through_centres_belongs_to_one_side():
    left, right = box_ring(1.5, 1.5, 4.5, 4.5), box_ring(4.5, 1.5, 8.5, 4.5)
    both = drawn([[left]]).astype(int) + drawn([[right]])
    assert both.max() == 1 and both.sum() == 3 * 7


def test_parts_are_joined_and_rings_of_a_part_cut():
    one, other = box_ring(2, 2, 10, 10), box_ring(6, 6, 14, 14)
    assert drawn([[one], [other]]).sum() == 64 + 64 - 16
    assert drawn([[one, other]]).sum() == 64 + 64 - 32


def test_a_bridge_encloses_nothing():
    near, far = [[2, 2], [6, 2], [6, 6]], [[20.3, 19.7], [24, 20], [24, 24], [20, 24]]
    bridged = np.array([*near, *far, far[0], near[-1], [2, 6]], dtype=float)
    separate = [[bridged[[0, 1, 2, 9]]], [bridged[3:7]]]
    assert np.array_equal(drawn([[bridged]]), drawn(separate))


def test_beyond_the_frame():
    assert drawn([[box_ring(-1e7, -1e7, 1e7, 1e7)]]).all()
    assert draw_parts([[box_ring(60, 2, 70, 9)]], SIZE) is None
    assert draw_parts([[box_ring(-9, 2, 0, 9)]], SIZE) is None
    assert draw_parts([[box_ring(3.6, 3.6, 4.4, 4.4)]], SIZE) is None  # between four centres
    assert draw_parts([[np.zeros((2, 2))]], SIZE) is None
    assert draw_parts([], SIZE) is None


@pytest.mark.parametrize(
    "box", [(3, 4, 30, 20), (5.2, 3.1, 6.9, 30.4), (2, 2, 3, 3), (-8, -8, 20, 12)]
)
def test_ellipses_by_their_equation(box):
    left, top, right, bottom = box
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    x = (columns - (left + right) / 2) / ((right - left) / 2)
    y = (rows - (top + bottom) / 2) / ((bottom - top) / 2)
    distance = np.hypot(x, y)
    clear = np.abs(distance - 1) > 1e-3  # chords are that near to the arc
    assert (~clear).sum() <= 2
    assert np.array_equal(drawn([[ellipse_ring(*box)]])[clear], (distance < 1)[clear])


@pytest.mark.parametrize("name", list(scene()))
def test_run_lengths_of_a_window_are_those_of_the_frame(name):
    mask = scene()[name]
    patch = draw_parts([outline(mask)], SIZE)
    assert encode_patch(patch, SIZE) == encode_mask(mask)


def test_run_lengths_that_go_on_in_the_next_column():
    size = (4, 5)
    for mask in (np.ones(size, bool), np.tri(4, 5, dtype=bool), ~np.tri(4, 5, dtype=bool)):
        encoded = encode_patch(Patch(0, 0, mask), size)
        assert encoded == encode_mask(mask)
        assert np.array_equal(mask_util.decode(encoded), mask)


def test_union_and_paste():
    one = paste_mask(np.ones((3, 4)), -1, -2, SIZE)
    assert (one.top, one.left, one.pixels.shape) == (0, 0, (2, 2))
    assert paste_mask(np.ones((3, 4)), 40, 2, SIZE) is None
    assert paste_mask(np.zeros((3, 4)), 2, 2, SIZE) is None
    far = paste_mask(np.ones((9, 9)), 30, 50, SIZE)
    assert far.pixels.shape == (7, 3)
    joined = union([one, far])
    assert joined.pixels.shape == SIZE and joined.pixels.sum() == 4 + 21
    assert union([]) is None


@pytest.mark.parametrize(
    "points", [[[1, 2], [3]], [["a", "b"]], [1, 2, 3], [[1, np.nan]], [[np.inf, 1]], [[1e12, 0]]]
)
def test_points_that_are_none(points):
    with pytest.raises(ValueError, match=r"pairs of numbers|not finite"):
        as_ring(points)


def test_points_may_have_a_third_coordinate():
    assert as_ring([[1, 2, 0], [3, 4, 0]]).tolist() == [[1, 2], [3, 4]]
    assert as_ring([]).shape == (0, 2)
