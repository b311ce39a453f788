"""Label maps: parts, holes, growth and scores by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.segmentation import watershed

from iaunet_d2.networks import (
    components,
    grown,
    scored_label_map,
    without_holes,
    without_rim,
    without_small,
)


def picture(*rows):
    """A label map from text, "." being 0."""
    return np.array([[0 if c == "." else int(c) for c in row] for row in rows], dtype=np.int32)


def test_parts_hang_together_by_edges():
    got = components(picture("11.", "..1", "1.1") > 0)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, picture("11.", "..2", "3.2"))
    assert not components(np.zeros((2, 3), dtype=bool)).any()


def test_small_labels_go_and_the_others_close_up():
    labels = picture("1122", "3.22", "35..")
    np.testing.assert_array_equal(without_small(labels, 2), picture("1122", "3.22", "3..."))
    np.testing.assert_array_equal(without_small(labels, 3), picture("..11", "..11", "...."))
    assert not without_small(labels, 5).any()
    # The gap in the numbers (there is no 4) closes anyway.
    assert without_small(labels, 0).max() == 4
    assert without_small(np.zeros((2, 2), np.int32), 3).tolist() == [[0, 0], [0, 0]]


def test_holes_are_filled_but_not_with_what_belongs_to_another():
    labels = picture("11111..", "1...1.2", "1.3.1..", "1...1..", "11111..")
    filled = without_holes(labels)
    np.testing.assert_array_equal(
        filled, picture("11111..", "11111.2", "11311..", "11111..", "11111..")
    )
    assert labels[1, 1] == 0  # the argument stays
    # Open to the frame's edge, or round a corner only by diagonals: the first is no hole.
    np.testing.assert_array_equal(without_holes(picture("1.1", "1.1", "111"))[0], [1, 0, 1])
    np.testing.assert_array_equal(without_holes(picture(".1.", "1.1", ".1."))[1], [1, 1, 1])


def test_two_markers_meet_on_the_ridge():
    markers = np.zeros((3, 9), np.int32)
    markers[1, 1], markers[1, 7] = 1, 2
    landscape = np.zeros((3, 9))
    landscape[:, 5] = 1  # nearer to the second
    foreground = np.ones((3, 9), dtype=bool)
    foreground[:, 8] = False
    got = grown(markers, foreground, landscape)
    assert got.dtype == np.int32
    assert (got[:, :5] == 1).all() and (got[:, 6:8] == 2).all() and not got[:, 8].any()


def test_foreground_out_of_reach_stays_background():
    foreground = picture("1.1", "1.1") > 0
    markers = picture("7..", "...")
    np.testing.assert_array_equal(grown(markers, foreground), picture("7..", "7.."))
    assert not grown(np.zeros_like(markers), foreground).any()
    assert not grown(markers, np.zeros((2, 3), dtype=bool)).any()


def test_growth_in_a_rectangle_is_growth_in_the_frame():
    rng = np.random.default_rng(0)
    landscape = rng.random((40, 50))
    foreground = np.zeros((40, 50), dtype=bool)
    foreground[7:31, 11:44] = rng.random((24, 33)) < 0.8
    markers = np.where(foreground, rng.integers(1, 400, (40, 50)), 0).astype(np.int32)
    markers[markers > 9] = 0
    expected = watershed(landscape, markers, mask=foreground)
    np.testing.assert_array_equal(grown(markers, foreground, landscape), expected)


def square(side, margin, frame=40, at=4):
    """A square label of ``side`` pixels with the corner-free margin that a boundary class adds."""
    labels = np.zeros((frame, frame), dtype=np.int32)
    labels[at : at + side, at : at + side] = 1
    y, x = np.ogrid[-margin : margin + 1, -margin : margin + 1]
    return ndimage.binary_dilation(labels, x * x + y * y <= margin * margin).astype(np.int32)


@pytest.mark.parametrize(("side", "margin"), [(1, 1), (6, 1), (40, 1), (41, 2), (80, 2), (81, 3)])
def test_the_rim_is_as_wide_as_the_cell_has_it(side, margin):
    """ceil(side / 40), of the cell without it."""
    fat = square(side, margin, side + 10)
    np.testing.assert_array_equal(without_rim(fat), square(side, 0, side + 10))


def test_a_rim_is_taken_off_towards_the_background_alone():
    labels = picture("....", "1122", "1122", "1122", "1122")
    np.testing.assert_array_equal(
        without_rim(labels), picture("....", "....", "1122", "1122", "1122")
    )
    full = np.ones((4, 5), dtype=np.int32)
    np.testing.assert_array_equal(without_rim(full), full)
    assert not without_rim(np.zeros((4, 5), dtype=np.int32)).any()


def test_a_rim_is_wider_in_a_larger_image():
    labels = np.repeat(np.repeat(square(6, 1), 3, 0), 3, 1)
    np.testing.assert_array_equal(
        without_rim(labels, 3.0)[15:27, 15:27], np.ones((12, 12), dtype=np.int32)
    )
    assert without_rim(labels, 3.0).sum() == pytest.approx(18 * 18, rel=0.1)


def test_scores_and_classes_by_hand():
    labels = picture("11.", "1.4", "..4")
    background = np.array([[0.1, 0.2, 0.9], [0.3, 0.9, 0.05], [0.9, 0.9, 0.15]])
    first = np.array([[0.5, 0.1, 0.1], [0.2, 0.1, 0.9], [0.1, 0.1, 0.2]])
    second = 0.97 - background - first  # the rest is boundary
    probabilities = np.stack([background, first, second, np.full((3, 3), 0.03)])
    found = scored_label_map(labels, probabilities.astype(np.float32), 2, 100)
    # Label 4: 1 - 0.1, classes 1.1 to 0.64. Label 1: 1 - 0.2, classes 0.8 to 1.51.
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    assert found.classes.tolist() == [0, 1] and found.size == (3, 3)
    np.testing.assert_array_equal(found.dense(), np.stack([labels == 4, labels == 1]))
    assert found.boxes().tolist() == [[2, 1, 3, 3], [0, 0, 2, 2]]
    best = scored_label_map(labels, probabilities, 2, 1)
    assert len(best) == 1 and best.scores.tolist() == pytest.approx([0.9])


def test_a_class_is_voted_for_by_probability():
    labels = np.ones((1, 4), np.int32)
    # Three pixels are a little for the first class, one is wholly for the second.
    interior = np.array([[[0.02, 0.02, 0.02, 0.0]], [[0.01, 0.01, 0.01, 0.9]]])
    probabilities = np.concatenate([np.zeros((1, 1, 4)), interior])
    assert scored_label_map(labels, probabilities, 2, 9).classes.tolist() == [1]
    assert scored_label_map(labels, probabilities[[0, 1, 1]], 2, 9).classes.tolist() == [0]


def test_a_map_of_nothing():
    found = scored_label_map(np.zeros((4, 5), np.int32), np.ones((2, 4, 5), np.float32), 1, 10)
    assert len(found) == 0 and found.dense().shape == (0, 4, 5)
    assert found.boxes().shape == (0, 4) and found.classes.dtype == torch.int64
