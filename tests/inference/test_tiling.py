"""The grid of tiles against counting pixels, and the choice of the overlap."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaunet_d2.inference.tiling import Rectangle, choose_overlap, plan_tiles


def counted(size, rectangles):
    """How many of the rectangles hold each pixel."""
    counts = np.zeros(size, dtype=int)
    for top, left, bottom, right in rectangles:
        counts[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] += 1
    return counts


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(1, 40).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1))),
)
def test_the_cores_partition_the_image(size, tile_and_overlap):
    tile, overlap = tile_and_overlap
    if (90 / (tile - overlap)) ** 2 > 600:
        overlap = tile // 2
    tiles = plan_tiles(size, tile, overlap)
    assert [t.number for t in tiles] == list(range(len(tiles)))
    assert (counted(size, [t.core for t in tiles]) == 1).all()
    shown = counted(size, [t.rectangle for t in tiles])
    assert shown.min() >= 1
    assert (counted(size, [t.alone for t in tiles]) == (shown == 1)).all()
    for t in tiles:
        top, left, bottom, right = t.rectangle
        assert 0 <= top <= t.core.top < t.core.bottom <= bottom <= size[0]
        assert 0 <= left <= t.core.left < t.core.right <= right <= size[1]
        assert (bottom - top, right - left) == (min(tile, size[0]), min(tile, size[1]))
        # Half an overlap between a core and a border inside the image.
        for gap, outside in (
            (t.core.top - top, top == 0),
            (t.core.left - left, left == 0),
            (bottom - t.core.bottom, bottom == size[0]),
            (right - t.core.right, right == size[1]),
        ):
            assert outside or gap >= overlap // 2


def test_tiles_by_hand():
    tiles = plan_tiles((100, 250), 100, 20)
    assert [t.rectangle for t in tiles] == [(0, 0, 100, 100), (0, 80, 100, 180), (0, 150, 100, 250)]
    assert [t.core for t in tiles] == [(0, 0, 100, 90), (0, 90, 100, 165), (0, 165, 100, 250)]
    assert [t.alone for t in tiles] == [(0, 0, 100, 80), (0, 100, 100, 150), (0, 180, 100, 250)]
    assert [t.row for t in plan_tiles((250, 100), 100, 20)] == [0, 1, 2]


def test_rows_come_one_after_the_other():
    tiles = plan_tiles((300, 500), 128, 32)
    places = [(t.rectangle.top, t.rectangle.left) for t in tiles]
    assert places == sorted(places) and len(set(places)) == len(places)


def test_an_image_smaller_than_a_tile_is_one_tile():
    (tile,) = plan_tiles((30, 70), 512, 64)
    assert tile.rectangle == tile.core == tile.alone == (0, 0, 30, 70)


@pytest.mark.parametrize(
    "size, tile, overlap", [((0, 5), 8, 2), ((5, 5), 8, 8), ((5, 5), 8, -1), ((5, 5), 0, 0)]
)
def test_refuses_what_is_no_grid(size, tile, overlap):
    with pytest.raises(ValueError):
        plan_tiles(size, tile, overlap)


def test_a_centre_on_a_seam_belongs_to_one_core():
    left, right = Rectangle(0, 0, 10, 8), Rectangle(0, 8, 10, 16)
    boxes = np.array([[7, 0, 8, 2], [7, 0, 9, 2], [8, 0, 9, 2]])  # centres at 7.5, 8, 8.5
    assert left.holds_centres(boxes).tolist() == [True, False, False]
    assert right.holds_centres(boxes).tolist() == [False, True, True]


def test_the_overlap_is_twice_the_largest_cell():
    assert choose_overlap(24, 512) == 48
    assert choose_overlap(25, 512) == 64
    assert choose_overlap(0, 512) == 16  # the margins alone
    assert choose_overlap(5, 512) == 16  # 5 + 2 * 4 + 1 = 14
    assert choose_overlap(128, 512) == 256


def test_small_tiles_are_said_to_be_small(caplog):
    with caplog.at_level(logging.WARNING):
        assert choose_overlap(200, 512) == 256
    assert "tiles of 800 would be better" in caplog.text
    assert choose_overlap(200, 800) == 400


def test_cells_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="at least 618 pixels"):
        choose_overlap(300, 512)
    assert choose_overlap(300, 618) == 309
    for side in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Not sizes"):
            choose_overlap(side, 512)
