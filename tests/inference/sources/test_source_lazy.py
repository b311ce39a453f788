"""Only what a rectangle touches is read, and once; nothing stays open."""

import gc
import os
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from source_files import one

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.inference.sources import open_planes
from iaunet_d2.inference.sources.segments import SegmentCache

SIDE = 4000
IMAGE_BYTES = SIDE * SIDE * 2


def pattern(rows: slice, columns: slice) -> np.ndarray:
    """A different value in every pixel of a neighbourhood."""
    y = np.arange(rows.start, rows.stop, dtype=np.uint16) * np.uint16(13)
    x = np.arange(columns.start, columns.stop, dtype=np.uint16) * np.uint16(7)
    return y[:, None] + x


def peak_of_reading(path: Path, top: int, left: int, size: int) -> int:
    """Bytes allocated at most while a rectangle is read and found right."""
    expected = pattern(slice(top, top + size), slice(left, left + size))[..., None]
    tracemalloc.start()
    try:
        values = one(path).read(top, left, size, size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(values, expected)
    return peak


@pytest.mark.parametrize(
    "storage",
    [
        {},
        {"tile": (256, 256)},
        {"tile": (256, 256), "compression": "zlib", "compressionargs": {"level": 1}},
        {"rowsperstrip": 16, "compression": "zlib", "compressionargs": {"level": 1}},
    ],
    ids=["mapped", "tiles", "zlib tiles", "zlib strips"],
)
def test_a_corner_of_a_large_image_takes_little_memory(tmp_path: Path, storage: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pattern(slice(0, SIDE), slice(0, SIDE)), **storage)
    assert peak_of_reading(path, 3000, 2100, 256) < IMAGE_BYTES / 6


def test_400_megapixels_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = tifffile.memmap(path, shape=(20_000, 20_000), dtype=np.uint16)
    pixels[19_000:19_256, 5_000:5_256] = pattern(slice(19_000, 19_256), slice(5_000, 5_256))
    pixels.flush()
    del pixels
    assert os.stat(path).st_size > 800_000_000
    assert peak_of_reading(path, 19_000, 5_000, 256) < 2_000_000


def test_pages_that_are_not_contiguous_are_mapped_each(tmp_path: Path) -> None:
    array = pattern(slice(0, 1000), slice(0, 1000))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for k in range(3):
            tif.write(array + np.uint16(k), metadata=None, rowsperstrip=1000)
    planes = open_planes(tmp_path / "a.tif", axes="TYX")
    tracemalloc.start()
    try:
        values = planes[2].read(990, 0, 10, 1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(values[..., 0], array[990:] + np.uint16(2))
    assert peak < array.nbytes / 10


@pytest.mark.parametrize("storage", [{"tile": (64, 64)}, {"rowsperstrip": 64}])
def test_damage_elsewhere_is_not_met(tmp_path: Path, storage: Any) -> None:
    """The segment at (64, 64) is damaged: only rectangles that touch it fail."""
    path = tmp_path / "a.tif"
    array = pattern(slice(0, 256), slice(0, 256))
    tifffile.imwrite(path, array, compression="zlib", **storage)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        number = 5 if "tile" in storage else 1
        offset, size = page.dataoffsets[number], page.databytecounts[number]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * size)
    plane = one(path)
    for top, height in [(0, 64), (128, 128)]:
        np.testing.assert_array_equal(
            plane.read(top, 0, height, 256)[..., 0], array[top : top + height]
        )
    with pytest.raises(BadFileError, match=r"a\.tif: rows 60 to 64, columns 60 to 69 cannot be"):
        plane.read(60, 60, 5, 10)


def test_neighbours_decode_a_strip_once(tmp_path: Path) -> None:
    """After the first read the pixels are wiped from the file: the second finds them decoded."""
    path = tmp_path / "a.tif"
    array = pattern(slice(0, 128), slice(0, 256))
    tifffile.imwrite(path, array, compression="zlib", rowsperstrip=32)
    plane = one(path)
    plane.read(0, 0, 64, 100)
    path.write_bytes(b"\xff" * path.stat().st_size)
    np.testing.assert_array_equal(plane.read(0, 100, 64, 156)[..., 0], array[:64, 100:])
    with pytest.raises(BadFileError):
        plane.read(64, 0, 1, 1)


def test_the_cache_keeps_the_most_recent_up_to_its_limit() -> None:
    decoded: list[int] = []

    def get(cache: SegmentCache, k: int) -> None:
        def decode() -> np.ndarray:
            decoded.append(k)
            return np.full(10, k, np.uint8)

        np.testing.assert_array_equal(cache.get(k, decode), np.full(10, k))

    cache = SegmentCache(limit=20)
    for k in (0, 1, 0, 2, 0, 1, 2):
        get(cache, k)
    # 2 drops 1 (0 was used later), 1 drops 2, and 2 drops 0.
    assert decoded == [0, 1, 2, 1, 2]
    decoded.clear()
    tiny = SegmentCache(limit=1)
    for k in (0, 0, 1, 1):
        get(tiny, k)
    assert decoded == [0, 1]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to count open files")
def test_files_are_closed_again(tmp_path: Path) -> None:
    array = pattern(slice(0, 64), slice(0, 64))
    tifffile.imwrite(tmp_path / "a.tif", array)
    tifffile.imwrite(tmp_path / "b.tif", array, tile=(16, 16), compression="zlib")
    before = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        planes = [one(tmp_path / "a.tif"), one(tmp_path / "b.tif")]
        for plane in planes:
            plane.read(10, 10, 20, 20)
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before
