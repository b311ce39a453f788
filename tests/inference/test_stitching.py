"""What is one cell and what are two, in scenes worked out by hand and against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiled_scenes import cells_of, disc

from iaunet_d2.inference.stitching import Stitcher, near_pairs, seen_in, shared_pixels
from iaunet_d2.inference.tiling import plan_tiles

SIZE = (100, 180)
LEFT, RIGHT = plan_tiles(SIZE, 100, 20)  # columns 0 to 100 and 80 to 180, the seam at 90


def block(top, left, height, width):
    return top, left, np.ones((height, width), dtype=bool)


def stitched(left, right, margin=4):
    """Boxes and scores of what stays of two tiles' results: (objects, scores[, classes])."""
    results = []
    for tile, (objects, *about) in ((LEFT, left), (RIGHT, right)):
        moved = [(top, at - tile.rectangle.left, crop) for top, at, crop in objects]
        results.append((tile, cells_of(moved, (100, 100), *about)))
    seen = Stitcher([LEFT, RIGHT], SIZE, margin).add_row(results)
    order = np.lexsort((seen.boxes[:, 1], seen.boxes[:, 0]))
    scores = np.round(seen.cells.scores[order].astype(float), 3)
    return seen.boxes[order].tolist(), scores.tolist()


NONE = ([], [])


def test_each_tile_keeps_what_is_in_its_core():
    in_left, in_right = block(10, 40, 10, 10), block(10, 140, 10, 10)
    boxes, _ = stitched(([in_left], [0.9]), ([in_right], [0.9]))
    assert boxes == [[40, 10, 50, 20], [140, 10, 150, 20]]


def test_what_belongs_to_the_other_tile_is_left_to_it():
    far_in_right, piece = block(10, 92, 6, 6), block(40, 94, 10, 6)
    assert stitched(([far_in_right], [0.9]), NONE) == ([], [])
    assert stitched(([piece], [0.9]), NONE) == ([], [])


@pytest.mark.parametrize("scores, winner", [((0.9, 0.5), 0), ((0.5, 0.9), 1)])
def test_of_two_views_the_better_score_stays(scores, winner):
    views = block(10, 82, 12, 15), block(11, 84, 12, 15)  # centres at 89.5 and 91.5
    boxes, kept = stitched(([views[0]], [scores[0]]), ([views[1]], [scores[1]]))
    assert kept == [0.9] and boxes[0][0] == views[winner][1]


def test_of_equal_scores_the_one_farther_from_its_tiles_border_stays():
    views = block(10, 82, 12, 12), block(10, 83, 12, 12)
    boxes, _ = stitched(([views[0]], [0.5]), ([views[1]], [0.5]))
    assert boxes == [[82, 10, 94, 22]]  # 6 pixels from column 100; the other 3 from column 80


def test_a_whole_cell_wins_over_a_piece_of_it():
    whole, piece = block(10, 70, 20, 28), block(10, 80, 20, 18)
    boxes, scores = stitched(([whole], [0.1]), ([piece], [0.9]))
    assert (boxes, scores) == ([[70, 10, 98, 30]], [0.1])


def test_a_centre_within_the_margin_is_enough_where_the_other_tile_saw_nothing():
    view = block(10, 88, 10, 10)  # centre at 93
    assert stitched(([view], [0.9]), NONE)[0] == [[88, 10, 98, 20]]
    assert stitched(([view], [0.9]), NONE, margin=2)[0] == []


def test_each_tile_thinking_that_it_is_the_others_does_not_lose_a_cell():
    left_view, right_view = block(10, 85, 10, 13), block(10, 82, 10, 13)  # at 91.5 and 88.5
    for margin in (0, 1, 4):
        boxes, _ = stitched(([left_view], [0.6]), ([right_view], [0.9]), margin)
        assert boxes == [[82, 10, 95, 20]]


def test_equal_shapes_overlapping_by_three_fifths_are_two_if_one_tile_saw_both():
    both = [block(10, 82, 10, 10), block(10, 86, 10, 10)]  # centres at 87 and 91
    expected = [[82, 10, 92, 20], [86, 10, 96, 20]]
    assert stitched((both, [0.9, 0.8]), NONE)[0] == expected
    assert stitched((both, [0.9, 0.8]), (both, [0.7, 0.85]))[0] == expected
    assert stitched((both, [0.9, 0.8]), ([both[1]], [0.99]))[0] == expected
    assert stitched(([both[0]], [0.99]), (both, [0.9, 0.8]))[0] == expected


def test_overlapping_cells_with_centres_on_both_sides_beyond_the_margin():
    both = [block(10, 72, 10, 26), block(10, 84, 10, 24)]  # centres at 85 and 96
    expected = [[72, 10, 98, 20], [84, 10, 108, 20]]
    left = [both[0], block(10, 84, 10, 16)]  # the second is cut in the left tile
    right = [block(10, 80, 10, 18), both[1]]  # the first in the right
    assert stitched((left, [0.9, 0.8]), (right, [0.7, 0.6]))[0] == expected


def test_a_witness_in_the_owners_neighbour_keeps_two_cells_apart():
    # Centres at 89 and 95: the right tile misses the first, the left one does not own the second,
    # but has seen both.
    one, two = block(10, 83, 10, 12), block(10, 90, 10, 9)
    assert shared_pixels(cells_of([one, two], SIZE), 0, 1) == 50  # of 90
    boxes, _ = stitched(([one, two], [0.6, 0.5]), ([two], [0.9]))
    assert boxes == [[83, 10, 95, 20], [90, 10, 99, 20]]
    # Without the witness they are taken for one.
    assert len(stitched(([one], [0.6]), ([two], [0.9]))[0]) == 1


def test_a_cell_that_one_tile_split_does_not_leave_a_piece():
    whole = block(10, 82, 10, 16)  # centre at 90
    halves = [block(10, 82, 10, 9), block(10, 91, 10, 7)]  # centres at 86.5 and 94.5
    boxes, _ = stitched(([whole], [0.9]), (halves, [0.5, 0.6]))
    assert boxes == [[82, 10, 98, 20]]


def test_a_view_that_ends_above_the_next_row_waits_for_one_that_does_not():
    tiles = plan_tiles((180, 180), 100, 20)  # the second row begins at row 80
    stitcher = Stitcher(tiles, (180, 180))
    left, right = block(70, 84, 10, 12), block(71, 4, 10, 12)  # to rows 80 and 81, at column 84
    empty = cells_of([], (100, 100))
    first = [cells_of([left], (100, 100), [0.4]), cells_of([right], (100, 100), [0.6])]
    rows = [zip(tiles[:2], first, strict=True), zip(tiles[2:], [empty] * 2, strict=True)]
    assert [stitcher.add_row(row).boxes.tolist() for row in rows] == [[], [[84, 71, 96, 81]]]


def test_classes():
    views = block(10, 83, 10, 12), block(10, 84, 10, 12)
    boxes, scores = stitched(([views[0]], [0.5], [0]), ([views[1]], [0.9], [1]))
    assert scores == [0.9]  # IoU 11/13: one cell, called differently
    cell, nucleus = block(10, 82, 16, 16), block(14, 86, 6, 6)
    boxes, _ = stitched(([cell], [0.5], [0]), ([nucleus], [0.9], [1]))
    assert len(boxes) == 2  # never one where the classes differ
    boxes, _ = stitched(([cell], [0.5], [0]), ([nucleus], [0.9], [0]))
    assert len(boxes) == 1  # a smaller idea of the same cell


def test_empty_tiles():
    assert stitched(NONE, NONE) == ([], [])


def test_pixels_of_a_tile_are_not_kept():
    cells = cells_of([block(1, 1, 2, 2)], (100, 100))
    seen = seen_in(RIGHT, cells, SIZE, 4)
    assert seen.cells.pixels is None and seen.cells.image_size == SIZE
    assert seen.boxes.tolist() == [[81, 1, 83, 3]] and seen.depth.tolist() == [1]
    assert seen.whole.tolist() == [True] and seen.own.tolist() == [False]


boxes_strategy = st.lists(
    st.tuples(
        st.integers(0, 120), st.integers(0, 120), st.integers(1, 70), st.integers(1, 70)
    ),
    max_size=25,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(boxes_strategy, st.randoms(use_true_random=False))
def test_pairs_against_comparing_all_with_all(places, random):
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in places]).reshape(-1, 4)
    tiles = np.array([random.randrange(3) for _ in places], dtype=np.int64)
    areas = np.array([random.randint(1, w * h) for _, _, w, h in places], dtype=np.int64)
    expected = []
    for i in range(len(places)):
        for j in range(i + 1, len(places)):
            width = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            height = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            if tiles[i] != tiles[j] and width > 0 and height > 0:
                if width * height >= 0.5 * min(areas[i], areas[j]):
                    expected.append([i, j])
    assert sorted(near_pairs(boxes, tiles, areas).tolist()) == expected


def test_shared_pixels_against_full_frames():
    rng = np.random.default_rng(1)
    things = [disc(*rng.uniform(20, 60, 2), rng.uniform(3, 15)) for _ in range(30)]
    cells = cells_of(things, (90, 90))
    for i in range(30):
        for j in range(i):
            expected = np.count_nonzero(cells.mask(i) & cells.mask(j))
            assert shared_pixels(cells, i, j) == expected
