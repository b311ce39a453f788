"""Targets per pixel: by hand, and against a naive implementation on whole frames."""

import math

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.morphology import disk
from skimage.segmentation import find_boundaries

from iaunet_d2.networks import dense_target


def frame(*rectangles, size=(20, 20)):
    """Masks (N, H, W) of rectangles (top, left, bottom, right)."""
    masks = np.zeros((len(rectangles), *size), dtype=bool)
    for mask, (top, left, bottom, right) in zip(masks, rectangles, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def target(masks, labels=None, num_classes=1, **options):
    labels = np.zeros(len(masks), dtype=np.int64) if labels is None else np.array(labels)
    return dense_target(masks, labels, num_classes, **options)


def test_a_square_by_hand():
    # 100 pixels: radius ceil(10 / 40) = 1. The inner boundary is the outermost of the square's
    # rings; a disk of radius 1 adds the second ring and one pixel outside of each side.
    got = target(frame((5, 5, 15, 15)))
    expected = np.zeros((20, 20), dtype=np.int64)
    expected[4:16, 5:15] = expected[5:15, 4:16] = 2
    expected[7:13, 7:13] = 1
    assert got.classes.dtype == torch.int64 and got.distance.dtype == torch.float32
    np.testing.assert_array_equal(got.classes, expected)
    # Depth 1, 2, 3 in the rings of the interior, 0 on the boundary; sqrt(100) = 10.
    depth = np.zeros((20, 20))
    depth[7:13, 7:13], depth[8:12, 8:12], depth[9:11, 9:11] = 1, 2, 3
    field = np.zeros((20, 20))
    field[5:15, 5:15] = 1 / (1 + (3 - depth[5:15, 5:15]) / 10)
    np.testing.assert_allclose(got.distance, field, rtol=1e-6)
    assert got.distance.max() == 1 and got.distance[5, 5] == pytest.approx(1 / 1.3)


def test_the_boundary_is_as_wide_as_the_cell_asks():
    # sqrt(1600) = 40: radius 1; sqrt(1640) > 40: radius 2.
    narrow = target(frame((10, 10, 50, 50), size=(60, 60))).classes
    wide = target(frame((10, 10, 50, 51), size=(60, 60))).classes
    assert (narrow == 1).sum() == 36 * 36 and (wide == 1).sum() == 34 * 35
    assert narrow[30, 8:13].tolist() == [0, 2, 2, 2, 1]
    assert wide[30, 7:14].tolist() == [0, 2, 2, 2, 2, 2, 1]


def test_cells_that_touch_have_a_wall_between_them():
    got = target(frame((5, 2, 15, 12), (5, 12, 15, 22), size=(20, 24))).classes
    assert ndimage.label(got.numpy() == 1)[1] == 2
    assert got[10].tolist() == [0, 2, 2, 2, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2] + [1] * 6 + [2, 2, 2, 0]


def test_a_nucleus_stays_whole_on_its_cell():
    masks = frame((8, 8, 16, 16), (0, 0, 24, 24), size=(24, 24))
    for order in ([0, 1], [1, 0]):
        got = target(masks[order], np.array([1, 0])[order], 2)
        assert (got.classes[10:14, 10:14] == 2).all() and (got.classes == 2).sum() == 16
        # Around it: its boundary, one pixel outside and two inside, and the ring's, two wide.
        assert got.classes[12, :11].tolist() == [1] * 6 + [3] * 4 + [2]
        assert got.distance[12, 12] == 1
        # The frame's edge is no boundary; the ring is deepest in the corners.
        assert got.distance[0, 0] == 1 and 0 < got.distance[12, 7] < got.distance[12, 3] < 1


def test_of_equally_large_cells_the_first_is_on_top():
    masks = frame((0, 0, 12, 12), (0, 6, 12, 18), size=(12, 20))
    assert target(masks, [0, 1], 2, boundary=False).classes[5].tolist() == (
        [1] * 12 + [2] * 6 + [0, 0]
    )
    hidden = np.concatenate([masks[:1], masks[:1]])
    assert target(hidden, [0, 1], 2, boundary=False).classes.unique().tolist() == [0, 1]
    both = target(hidden, [0, 1], 2)
    alone = target(masks[:1], [0], 2)
    assert torch.equal(both.classes, alone.classes)
    assert torch.equal(both.distance, alone.distance)


@pytest.mark.parametrize(
    ("side", "min_interior", "interior"), [(3, 16, 0), (6, 16, 0), (8, 16, 16), (8, 17, 0)]
)
def test_a_tiny_interior_becomes_boundary(side, min_interior, interior):
    got = target(frame((5, 5, 5 + side, 5 + side)), min_interior=min_interior)
    assert (got.classes == 1).sum() == interior
    # All of the cell and one pixel around each side.
    assert (got.classes > 0).sum() == side * side + 4 * side
    assert (got.distance > 0).sum() == side * side
    if not interior:
        assert set(got.distance.unique().tolist()) == {0.0, 1.0}


def test_of_an_interior_in_two_parts_the_tiny_one_becomes_boundary():
    # A square of 10 and one of 6 (interiors of 37 and 5), joined by a bridge of one pixel.
    mask = frame((2, 2, 12, 12), (2, 15, 8, 21), (5, 12, 6, 15), size=(16, 24)).any(0)
    got = target(mask[None])
    # Where the bridge begins, the outermost ring has a pixel that is inside.
    assert (got.classes == 1).sum() == 37 and (got.classes[:, 12:] != 1).all()


def test_the_frame_s_edge_is_no_boundary():
    got = target(frame((0, 5, 10, 15)))
    # Two pixels go at the left, the right and the bottom, none at the top.
    assert (got.classes[:8, 7:13] == 1).all() and (got.classes == 1).sum() == 48
    depth = np.tile([1, 2, 3, 3, 2, 1], (5, 1))  # nothing is near in the upper rows
    np.testing.assert_allclose(got.distance[:5, 7:13], 1 / (1 + (3 - depth) / 10), rtol=1e-6)


def test_a_cell_that_fills_the_frame():
    got = target(frame((0, 0, 20, 20)))
    assert (got.classes == 1).all() and (got.distance == 1).all()


@pytest.mark.parametrize("boundary", [True, False])
def test_no_cells(boundary):
    got = target(frame(size=(7, 9)), boundary=boundary)
    assert got.classes.shape == got.distance.shape == (7, 9)
    assert not got.classes.any() and not got.distance.any()
    assert got.classes.dtype == torch.int64


def test_without_boundary_and_without_distance():
    masks = frame((0, 0, 4, 4), (4, 0, 8, 4), size=(10, 10))
    got = target(masks, [1, 0], 2, boundary=False, distance=False)
    assert got.distance is None
    np.testing.assert_array_equal(got.classes, 2 * masks[0] + masks[1])
    # Distances are each cell's own, not those of the joint foreground.
    got = target(masks, [0, 0], 1, boundary=False)
    assert got.distance[4, 2] == pytest.approx(1 / (1 + 1 / 4))


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match=r"\(2, 20, 20\) and labels \(1,\)"):
        dense_target(frame((0, 0, 5, 5), (5, 5, 9, 9)), np.array([0]), 1)
    with pytest.raises(ValueError, match=r"from 0 to 2 for 2 classes.*MODEL.NUM_CLASSES"):
        target(frame((0, 0, 5, 5), (5, 5, 9, 9)), [0, 2], 2)


def test_the_last_bit_of_a_depth_does_not_change_from_run_to_run(monkeypatch):
    masks = frame((3, 3, 60, 80), (40, 50, 90, 95), size=(96, 100))
    exact, up = cv2.distanceTransform, np.float32(np.inf)
    found = []
    for toward in (up, -up):  # OpenCV's rounding depends on the place in memory
        monkeypatch.setattr(
            cv2, "distanceTransform", lambda *args, to=toward: np.nextafter(exact(*args), to)
        )
        found.append(target(masks).distance)
    assert torch.equal(*found)


def naive(masks, labels, num_classes):
    """The definition, on whole frames, without any library's morphology of crops."""
    areas = masks.sum((1, 2))
    owner = np.full(masks.shape[1:], -1)
    for y, x in np.argwhere(masks.any(0)):
        covering = np.flatnonzero(masks[:, y, x])
        owner[y, x] = covering[areas[covering].argmin()]
    classes = np.zeros(masks.shape[1:], dtype=np.int64)
    for k in sorted(range(len(masks)), key=lambda k: (-areas[k], -k)):
        cell = owner == k
        if not cell.any():
            continue
        edge = find_boundaries(cell, mode="inner")
        edge = ndimage.binary_dilation(edge, disk(math.ceil(math.sqrt(cell.sum()) / 40)))
        parts = ndimage.label(cell & ~edge)[0]
        interior = np.isin(parts, [i for i in range(1, parts.max() + 1) if (parts == i).sum() > 15])
        classes[cell | edge] = num_classes + 1
        classes[interior] = labels[k] + 1
    field = np.zeros(masks.shape[1:])
    for k in range(len(masks)):
        inside = (owner == k) & (classes == labels[k] + 1)
        depth = np.zeros(masks.shape[1:])
        if inside.any():
            depth[inside] = cdist(np.argwhere(inside), np.argwhere(~inside)).min(1)
        cell = owner == k
        if cell.any():
            field[cell] = 1 / (1 + (depth[cell].max() - depth[cell]) / math.sqrt(cell.sum()))
    return classes, field


@pytest.mark.parametrize("seed", range(4))
def test_overlapping_cells_of_every_size_as_the_naive_way(seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:72, :90]
    masks = []
    for axes in [(34, 26), *rng.uniform(1.5, 15, (14, 2))]:  # the first has a wider boundary
        angle, cy, cx = rng.uniform(0, np.pi), rng.uniform(0, 72), rng.uniform(0, 90)
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        masks.append((along / axes[0]) ** 2 + (across / axes[1]) ** 2 < 1)
    masks, labels = np.array(masks), rng.integers(0, 3, 15)
    got = target(masks, labels, 3)
    classes, field = naive(masks, labels, 3)
    np.testing.assert_array_equal(got.classes, classes)
    np.testing.assert_allclose(got.distance, field, rtol=1e-5)
    assert len(np.unique(classes)) > 3  # the scene has something to tell apart
