"""Parts of TIFF pages: memory-mapped where the file allows it, else the tiles or strips met."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from ...data.errors import BadFileError
from .block import Index

CACHE_BYTES = 256 * 2**20
"""Of decoded tiles and strips kept per file: a row of image tiles 1,024 high across strips of
20,000 RGB pixels of 16 bits takes half of it, so each strip is decoded once on the way."""

_JPEG = (6, 7, 34892, 33007)


class SegmentCache:
    """The most recently used decoded segments, up to a number of bytes (and at least one)."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The segment of that key; decoded if it is not at hand."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        segment = decode()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = segment
                self._size += segment.nbytes
            while self._size > self._limit and len(self._kept) > 1:
                self._size -= self._kept.popitem(last=False)[1].nbytes
        return segment


class StoredPage:
    """One page of a TIFF: where its bytes are and how they are decoded.

    It holds no open file: each reading opens it and closes it again.
    """

    def __init__(self, page: Any, cache: SegmentCache) -> None:
        """``page``: tifffile's, of a file that is open."""
        self._path: str = page.parent.filehandle.path
        self._offsets, self._sizes = page.dataoffsets, page.databytecounts
        frame = self._frame = page.keyframe
        self._cache = cache
        # Asked for now, because both read from the open file.
        self._decode = frame.decode
        self._options: dict[str, Any] = {}
        if frame.compression in _JPEG:
            self._options = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader}
        self._mapped = frame.is_final and frame.dtype is not None and self._is_contiguous()
        self._stored = np.dtype(frame.dtype).newbyteorder(page.parent.byteorder)

    def _is_contiguous(self) -> bool:
        ends = [o + n for o, n in zip(self._offsets, self._sizes, strict=False)]
        return sum(self._sizes) == self._frame.nbytes and list(self._offsets[1:]) == ends[:-1]

    def rectangle(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """(separate samples, depth, bottom - top, right - left, interleaved samples)."""
        if self._mapped:
            whole = np.memmap(self._path, self._stored, "r", self._offsets[0], self._frame.shaped)
            return np.array(whole[:, :, top:bottom, left:right])
        separate, depth, _, _, samples = self._frame.shaped
        out = np.full(
            (separate, depth, bottom - top, right - left, samples),
            self._frame.nodata,
            dtype=self._frame.dtype,
        )
        with open(self._path, "rb") as file:
            for number in self._segments_met(top, bottom, left, right):
                self._place(out, number, file, top, left)
        return out

    def _segments_met(self, top: int, bottom: int, left: int, right: int) -> list[int]:
        """Numbers of the segments that a rectangle touches, in all samples and depths."""
        frame = self._frame
        separate, depth, height, width, _ = frame.shaped
        if frame.is_tiled:
            high, wide = frame.tilelength, frame.tilewidth
            depth = math.ceil(depth / frame.tiledepth)
        else:
            high, wide = min(frame.rowsperstrip, height), width
        across, down = math.ceil(width / wide), math.ceil(height / high)
        return [
            (k * down + i) * across + j
            for k in range(separate * depth)
            for i in range(top // high, math.ceil(bottom / high))
            for j in range(left // wide, math.ceil(right / wide))
        ]

    def _place(self, out: np.ndarray, number: int, file: Any, top: int, left: int) -> None:
        """Copy the part of a segment that lies in the rectangle; an absent segment has none."""
        if number >= len(self._offsets) or not self._sizes[number]:
            return

        def decode() -> np.ndarray:
            file.seek(self._offsets[number])
            data = file.read(self._sizes[number])
            if len(data) < self._sizes[number]:
                raise BadFileError(
                    f"{self._path}: is truncated: its tile or strip {number} reaches to byte "
                    f"{self._offsets[number] + self._sizes[number]}. Copy the file again from its "
                    "source."
                )
            return self._decode(data, number, **self._options)[0]

        (s, d, y, x, _), _ = self._decode(None, number, **self._options)[1:]
        segment = self._cache.get((self._path, number, self._offsets[number]), decode)
        target = out[s, d : d + segment.shape[0]]
        y0, x0 = max(y, top), max(x, left)
        y1 = min(y + segment.shape[1], top + out.shape[2])
        x1 = min(x + segment.shape[2], left + out.shape[3])
        target[:, y0 - top : y1 - top, x0 - left : x1 - left] = segment[
            : target.shape[0], y0 - y : y1 - y, x0 - x : x1 - x
        ]


class PagedArray:
    """The array of a series of equal pages, read page by page and rectangle by rectangle."""

    def __init__(
        self, pages: Sequence[StoredPage | None], shape: Sequence[int], frame: Any, path: str
    ) -> None:
        """``shape``: of the series; its last dimensions are those of ``frame``, tifffile's page."""
        self._pages, self._path = pages, path
        stack = tuple(shape[: len(shape) - len(frame.shape)])
        self._numbers = np.arange(len(pages)).reshape(stack)
        self._page_shape, self._page_axes = tuple(frame.shape), frame.axes

    def read(self, index: Index) -> np.ndarray:
        """See :class:`.block.Block`."""
        stack = self._numbers.ndim
        numbers = self._numbers[index[:stack]]
        parts = [self._page(int(k), index[stack:]) for k in np.ravel(numbers)]
        return np.stack(parts).reshape(np.shape(numbers) + parts[0].shape)

    def _page(self, number: int, index: Index) -> np.ndarray:
        page = self._pages[number]
        if page is None:
            raise BadFileError(
                f"{self._path}: lacks image {number} of the stack that it describes. Copy it again "
                "from its source, with the other files of its set."
            )
        y, x = self._page_axes.index("Y"), self._page_axes.index("X")
        top, bottom, row = span(index[y])
        left, right, column = span(index[x])
        shape = list(self._page_shape)
        shape[y], shape[x] = bottom - top, right - left
        rest = list(index)
        rest[y], rest[x] = row, column
        return page.rectangle(top, bottom, left, right).reshape(shape)[tuple(rest)]


def span(index: int | slice) -> tuple[int, int, int | slice]:
    """Start and stop of what an index covers, and the index within that."""
    if isinstance(index, slice):
        return index.start, index.stop, slice(0, index.stop - index.start)
    return index, index + 1, 0
