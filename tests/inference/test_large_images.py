"""A perfect segmenter, tile by tile, against what is really there."""

import logging
import threading
import weakref

import numpy as np
import pytest
from tiled_scenes import (
    CoordinatePlane,
    PerfectSegmenter,
    as_set,
    cells_of,
    disc,
    errors_against,
    touching_cells,
)

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.inference.large import TileReport, segment_large, segment_tiles
from iaunet_d2.inference.sources.base import ArrayPlane
from iaunet_d2.inference.tiling import plan_tiles


def scattered(count, size, seed=0, radii=(6, 14)):
    """Discs that overlap at random, none twice."""
    rng = np.random.default_rng(seed)
    far = np.array(size) - 16
    return [disc(*rng.uniform(16, far), rng.uniform(*radii)) for _ in range(count)]


@pytest.fixture(scope="module")
def touching():
    return touching_cells(1024)


def test_touching_cells_are_each_found_once_and_whole(touching):
    assert len(touching) == 1849
    report = TileReport()
    segmenter = PerfectSegmenter(touching)
    cells = segment_large(CoordinatePlane((1024, 1024)), segmenter, 512, 64, report=report)
    assert as_set(cells) == as_set(cells_of(touching, (1024, 1024)))
    assert (report.cells, report.cut) == (1849, 0) and report.largest < 56
    assert (np.diff(cells.scores) <= 0).all()
    assert cells.pixel_size == (0.5, 0.25) and cells.channel_names == ("row", "column")


@pytest.mark.parametrize("seed", range(2))
def test_touching_cells_that_every_tile_sees_a_pixel_differently(touching, seed):
    segmenter = PerfectSegmenter(touching, jitter=True, seed=seed)
    cells = segment_large(CoordinatePlane((1024, 1024)), segmenter, 512, 64)
    assert errors_against(cells, touching, jitter=True) == (0, 0, 0)


@pytest.mark.parametrize("jitter", [False, True])
def test_heavily_overlapping_cells_all_survive(jitter):
    size = (220, 320)
    objects = scattered(460, size)
    covered = np.zeros(size, dtype=int)
    for top, left, crop in objects:
        covered[top : top + crop.shape[0], left : left + crop.shape[1]] += crop
    assert covered.mean() > 2  # each pixel lies in more than two cells on average
    segmenter = PerfectSegmenter(objects, jitter)
    cells = segment_large(CoordinatePlane(size), segmenter, 160, 64)
    if jitter:  # which is which cannot be told there, how many can
        assert abs(len(cells) - len(objects)) <= 4
    else:
        assert as_set(cells) == as_set(cells_of(objects, size))


def test_overlapping_pairs_on_seams_survive_jitter():
    # Pairs of equal discs, 60 % of each in the other, all along the seams.
    objects = []
    for k in range(20):
        for row, column in ((20 + 24 * k, 240 + 2 * (k % 5)), (240 + 2 * (k % 5), 20 + 24 * k)):
            objects += [disc(row, column, 9), disc(row + 2, column + 5, 9)]
    for seed in range(4):
        segmenter = PerfectSegmenter(objects, jitter=True, seed=seed)
        cells = segment_large(CoordinatePlane((512, 512)), segmenter, 272, 64)
        assert len(cells) == len(objects)


def test_a_cell_on_the_corner_of_four_tiles():
    tiles = plan_tiles((448, 448), 256, 64)
    corner = tiles[0].core.bottom
    assert len(tiles) == 4 and corner == tiles[0].core.right == 224
    for row in (corner - 2, corner, corner + 1):
        for jitter in (False, True):
            objects = [disc(row, corner, 10)]
            segmenter = PerfectSegmenter(objects, jitter)
            cells = segment_large(CoordinatePlane((448, 448)), segmenter, 256, 64)
            assert errors_against(cells, objects, jitter) == (0, 0, 0)
            if not jitter:
                assert as_set(cells) == as_set(cells_of(objects, (448, 448)))


@pytest.mark.parametrize("size", [(40, 70), (40, 500), (500, 40), (257, 256), (333, 517)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_sizes(size, batch_size):
    objects = scattered(size[0] * size[1] // 800, size, radii=(3, 9))
    plane, segmenter = CoordinatePlane(size), PerfectSegmenter(objects)
    steps = []
    cells = segment_large(
        plane, segmenter, 128, 32, batch_size=batch_size, progress=lambda *a: steps.append(a)
    )
    assert as_set(cells) == as_set(cells_of(objects, size))
    count = len(plan_tiles(size, 128, 32))
    assert plane.reads == [
        (top, left, bottom - top, right - left)
        for top, left, bottom, right in (t.rectangle for t in plan_tiles(size, 128, 32))
    ]
    assert sum(segmenter.batches) == count and max(segmenter.batches) == min(batch_size, count)
    assert steps == [(min(k + batch_size, count), count) for k in range(0, count, batch_size)]


@pytest.mark.parametrize("overlap", [0, 1, 40, 96])
def test_any_overlap_finds_small_cells_once(overlap):
    size = (300, 310)
    objects = scattered(30, size, radii=(2, 4)) if overlap else [disc(20, 20, 5), disc(200, 80, 5)]
    if overlap == 1:
        objects = objects[:0]
    cells = segment_large(CoordinatePlane(size), PerfectSegmenter(objects), 128, overlap)
    assert as_set(cells) == as_set(cells_of(objects, size))


def test_nothing_found():
    parts = list(segment_tiles(CoordinatePlane((300, 300)), PerfectSegmenter([]), 128, 32))
    assert [len(part) for part in parts] == [0, 0, 0]
    cells = segment_large(CoordinatePlane((300, 300)), PerfectSegmenter([]), 128, 32)
    assert len(cells) == 0 and cells.image_size == (300, 300)
    assert cells.class_names == ("cell", "other")


def test_a_cell_that_one_tile_misses_or_calls_differently():
    objects = [disc(60, 112 + k, 8) for k in (-2, 0, 2)]  # the seam is at column 112
    for k, thing in enumerate(objects):
        for blind_tile in (0, 96):
            segmenter = PerfectSegmenter(
                [thing], blind=lambda _, top, left, b=blind_tile: left == b
            )
            cells = segment_large(CoordinatePlane((128, 224)), segmenter, 128, 32)
            assert len(cells) == 1, (k, blind_tile)
        segmenter = PerfectSegmenter([thing], class_of=lambda _, top, left: int(left > 0))
        assert len(segment_large(CoordinatePlane((128, 224)), segmenter, 128, 32)) == 1


def test_cells_larger_than_the_overlap_are_counted(caplog):
    objects = [disc(64, 112, 30), disc(30, 30, 8), disc(64, 190, 30)]
    report = TileReport()
    with caplog.at_level(logging.WARNING):
        cells = segment_large(
            CoordinatePlane((128, 224)), PerfectSegmenter(objects), 128, 32, report=report
        )
    # The first is 61 wide: 46 columns of it in each tile. The image's border cuts the last: whole.
    assert report.cut == 1 and report.cells == len(cells) == 3
    assert "1 of 3 cells reach over" in caplog.text and "overlap by 32" in caplog.text
    assert report.largest == 61 and "at least 122 pixels" in report.warning(32)
    assert TileReport(3, 0, 61).warning(32) == ""


def test_cells_come_from_top_to_bottom_while_it_goes_on():
    size = (1248, 300)  # fifteen rows of tiles, none shifted
    objects = scattered(300, size)
    plane, segmenter = CoordinatePlane(size), PerfectSegmenter(objects, jitter=True)
    crops = []

    def watched(images):
        results = segmenter(images)
        crops.append([weakref.ref(crop) for cells in results for crop in cells.crops])
        return results

    tops = [*sorted({t.rectangle.top for t in plan_tiles(size, 128, 48)}), size[0]]
    across = len({t.rectangle.left for t in plan_tiles(size, 128, 48)})
    previous, total = 0, 0
    for row, part in enumerate(segment_tiles(plane, watched, 128, 48)):
        # A tile ahead is read, none of the next row is segmented.
        assert len(crops) == (row + 1) * across and len(plane.reads) <= len(crops) + 1
        if len(part):
            bottoms = part.boxes[:, 3]
            assert previous < bottoms.min() + 2 and bottoms.max() <= tops[row + 1] + 128
        previous = tops[row]
        total += len(part)
        del part
        alive = sum(ref() is not None for tile in crops[: (row - 1) * across] for ref in tile)
        assert row < 1 or alive == 0
    assert row == len(tops) - 2 and total == len(objects)


def reader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("tile-reader")]


def test_an_error_of_the_segmenter_ends_the_reading():
    plane = CoordinatePlane((1000, 1000))

    def segment(images):
        if len(plane.reads) > 3:
            raise RuntimeError("out of memory")
        return [cells_of([], image.shape[:2]) for image in images]

    with pytest.raises(RuntimeError, match="out of memory"):
        segment_large(plane, segment, 128, 32)
    assert reader_threads() == [] and len(plane.reads) <= 6


def test_closing_ends_the_reading():
    plane = CoordinatePlane((1000, 1000))
    parts = segment_tiles(plane, PerfectSegmenter([]), 128, 32)
    next(parts)
    assert reader_threads()
    parts.close()
    assert reader_threads() == [] and len(plane.reads) <= 12


def test_a_damaged_part_of_the_file_is_an_error():
    class Damaged(CoordinatePlane):
        def read(self, top, left, height, width):
            if left > 200:
                raise BadFileError("a.tif is damaged")
            return super().read(top, left, height, width)

    with pytest.raises(BadFileError, match=r"a\.tif is damaged"):
        segment_large(Damaged((100, 1000)), PerfectSegmenter([]), 100, 20)
    assert reader_threads() == []


def test_the_next_tile_is_read_while_one_is_segmented():
    reading = threading.Event()

    class Watched(CoordinatePlane):
        def read(self, top, left, height, width):
            if left > 0:
                reading.set()
            return super().read(top, left, height, width)

    def segment(images):
        assert reading.wait(10)
        return [cells_of([], image.shape[:2]) for image in images]

    assert len(segment_large(Watched((100, 180)), segment, 100, 20)) == 0


def test_refuses_answers_that_do_not_fit():
    plane = ArrayPlane(np.zeros((100, 200, 1), np.uint8))
    with pytest.raises(ValueError, match="1 tiles were segmented, but 0"):
        segment_large(plane, lambda images: [], 128, 32)
    with pytest.raises(ValueError, match=r"\(100, 128\) pixels is for \(5, 5\)"):
        segment_large(plane, lambda images: [cells_of([], (5, 5))], 128, 32)


def test_refuses_impossible_settings_at_once():
    plane = CoordinatePlane((100, 100))
    for settings in ({"margin": -1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="Not possible"):
            segment_tiles(plane, PerfectSegmenter([]), 128, 32, **settings)
    with pytest.raises(ValueError, match="cannot overlap"):
        segment_tiles(plane, PerfectSegmenter([]), 128, 128)
