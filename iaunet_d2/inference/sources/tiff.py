"""TIFF, BigTIFF, OME-TIFF, ImageJ stacks and whole slides, read in parts at full resolution."""

import functools
import logging
import math
import os
import struct
from typing import Any

import numpy as np
import tifffile

from ...data.errors import BadFileError
from ...data.tiff import ALPHA_SAMPLES, orient, page_orientation, plain_values, require_all_data
from .block import Block, Index
from .pixel_size import both
from .segments import PagedArray, SegmentCache, StoredPage, span
from .tiff_about import channel_names, pixel_size

logger = logging.getLogger(__name__)

_ADDITIONS = ("thumbnail", "label", "macro", "map")
"""tifffile's names of the pictures that slide scanners add to a slide."""
_MASK = 4


def open_tiff(path: str) -> list[Block]:
    """Read the headers: a block per image (OME image, scene, series of equal pages).

    Smaller copies of an image (pyramid levels, thumbnails) and the label of a slide are left out.
    Of an OME-TIFF in several files, the planes whose first channel is in this file are taken.

    Raises:
        BadFileError: there is no image, or the file is truncated.
        ValueError, ...: whatever tifffile raises on damaged files; see
            :data:`~iaunet_d2.data.readers.DECODER_ERRORS`.
    """
    with tifffile.TiffFile(path) as tif:
        chosen = _images(tif)
        if not chosen:
            raise BadFileError(f"{path}: holds no image. Save it again as a TIFF with one plane.")
        _require_all_pages(tif, path)
        _require_whole_stack(tif, chosen, path)
        cache = SegmentCache()
        blocks: list[Block] = []
        for k, series in chosen:
            part = f"series={len(blocks)}" if len(chosen) > 1 else ""
            blocks.append(_block(tif, series, k, path, part, cache))
        return blocks


def _images(tif: Any) -> list[tuple[int, Any]]:
    """The series, with their numbers, that are images of their own."""
    own = [
        (k, s)
        for k, s in enumerate(tif.series)
        if not s.keyframe.is_reduced and not int(s.keyframe.subfiletype) & _MASK
    ]
    return [(k, s) for k, s in own if (s.name or "").lower() not in _ADDITIONS] or own


def _require_all_pages(tif: Any, path: str) -> None:
    """Of a cut file, tifffile gives the pages up to the cut, and only logs that one is missing."""
    last, form, file = tif.pages[len(tif.pages) - 1], tif.tiff, tif.filehandle
    if last.offset <= 0:  # described by another page
        return
    file.seek(last.offset)
    (tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    file.seek(last.offset + form.tagnosize + tags * form.tagsize)
    following = struct.unpack(form.offsetformat, file.read(form.offsetsize))[0]
    if following >= file.size:
        raise BadFileError(
            f"{path}: is truncated: after image {len(tif.pages)}, the next one is at byte "
            f"{following}, the file has {file.size}. Copy it again from its source."
        )


def _require_whole_stack(tif: Any, chosen: list[tuple[int, Any]], path: str) -> None:
    """A cut ImageJ stack has its first image still, and tifffile would give that one alone."""
    if not tif.is_imagej or chosen[0][1].kind.lower() in ("imagej", "ome", "shaped"):
        return
    about = tif.imagej_metadata or {}
    declared = math.prod(int(about.get(key, 1)) for key in ("channels", "slices", "frames"))
    if declared > sum(len(s) for _, s in chosen):
        raise BadFileError(
            f"{path}: is truncated: ImageJ wrote {declared} images, the file has fewer. Copy it "
            "again from its source."
        )


def _block(tif: Any, series: Any, number: int, path: str, part: str, cache: SegmentCache) -> Block:
    frame = series.keyframe
    axes, shape = series.axes, tuple(series.shape)
    stored = _stored_values(tif, series, number, path, cache)
    read: Any = functools.partial(_plain, stored, frame)
    probe = plain_values(np.zeros((1, 1), series.dtype), frame)
    if probe.ndim > 2:  # a palette was looked up
        axes, shape = axes + "S", (*shape, probe.shape[2])
    size = pixel_size(tif, series, number)
    names = channel_names(tif, series, number)
    orientation = page_orientation(frame)
    if orientation != 1 and "Y" in axes and "X" in axes:
        y, x = axes.index("Y"), axes.index("X")
        if orientation >= 5:
            turned = list(shape)
            turned[y], turned[x] = shape[x], shape[y]
            shape = tuple(turned)
            size = size and both(size[1], size[0])
        read = functools.partial(_upright, read, orientation, shape, y, x)
    extra = tuple(frame.extrasamples or ())
    has_alpha = "S" in axes and bool(extra) and extra[-1] in ALPHA_SAMPLES
    present = _present(series, path)
    return Block(axes, shape, probe.dtype, read, has_alpha, size, names, part, present)


def _present(series: Any, path: str) -> np.ndarray | None:
    """Which pages of the stack are in this file, by their indices in it; None: all of them.

    An OME-TIFF can be spread over several files, each of which describes all of them, and an
    interrupted recording describes pages that were never written.
    """
    if series.kind.lower() != "ome" or (not series.is_multifile and None not in list(series)):
        return None
    here = [
        page is not None and os.path.samefile(page.parent.filehandle.path, path) for page in series
    ]
    if not series.is_multifile:
        logger.warning(
            "%s: %d of the %d images that its OME-XML names are not in it",
            path,
            here.count(False),
            len(here),
        )
    return np.array(here).reshape(series.shape[: len(series.shape) - len(series.keyframe.shape)])


def _stored_values(tif: Any, series: Any, number: int, path: str, cache: SegmentCache) -> Any:
    """The function that reads the array as it is stored."""
    shape, frame = tuple(series.shape), series.keyframe
    alone = not series.is_multifile and series.transform is None
    if alone and series.dataoffset is not None:
        dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
        end = series.dataoffset + math.prod(shape) * dtype.itemsize
        if end > tif.filehandle.size:
            raise BadFileError(
                f"{path}: is truncated: its pixels reach to byte {end}, the file has "
                f"{tif.filehandle.size}. Copy it again from its source."
            )
        return functools.partial(_mapped, path, dtype, series.dataoffset, shape)
    if not series.is_multifile:
        require_all_data(tif, series, path)
    if series.transform is None and shape[len(shape) - len(frame.shape) :] == tuple(frame.shape):
        pages = [None if page is None else StoredPage(page, cache) for page in series]
        return PagedArray(pages, shape, frame, path).read
    whole = functools.cache(functools.partial(_whole_series, path, number))
    return lambda index: whole()[index]


def _mapped(
    path: str, dtype: np.dtype, offset: int, shape: tuple[int, ...], index: Index
) -> np.ndarray:
    return np.array(np.memmap(path, dtype, "r", offset, shape)[index])


def _whole_series(path: str, number: int) -> np.ndarray:
    """For the few kinds that tifffile assembles in a way of its own."""
    with tifffile.TiffFile(path) as tif:
        return tif.series[number].asarray()


def _plain(stored: Any, frame: Any, index: Index) -> np.ndarray:
    """Values without palette and white-is-zero; a palette's samples are the last dimension."""
    if frame.photometric == tifffile.PHOTOMETRIC.PALETTE and frame.colormap is not None:
        return plain_values(stored(index[:-1]), frame)[..., index[-1]]
    return plain_values(stored(index), frame)


def _upright(
    read: Any, orientation: int, shape: tuple[int, ...], y: int, x: int, index: Index
) -> np.ndarray:
    """Read from an array that is stored in an EXIF orientation; ``shape`` is the upright one."""
    top, bottom, row = span(index[y])
    left, right, column = span(index[x])
    if orientation in (3, 4, 7, 8):
        top, bottom = shape[y] - bottom, shape[y] - top
    if orientation in (2, 3, 6, 7):
        left, right = shape[x] - right, shape[x] - left
    rows, columns = slice(top, bottom), slice(left, right)
    stored = list(index)
    stored[y], stored[x] = (columns, rows) if orientation >= 5 else (rows, columns)
    values = read(tuple(stored))
    # Integers took their dimensions away.
    y -= sum(isinstance(i, int) for i in stored[:y])
    x -= sum(isinstance(i, int) for i in stored[:x])
    values = np.moveaxis(orient(np.moveaxis(values, (y, x), (0, 1)), orientation), (0, 1), (y, x))
    rest: list[int | slice] = [slice(None)] * values.ndim
    rest[y], rest[x] = row, column
    return values[tuple(rest)]
