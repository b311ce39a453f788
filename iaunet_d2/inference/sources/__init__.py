"""Image files and arrays as planes: two-dimensional images that are read in parts.

One module per kind of file gives a :class:`.block.Block` (an array with named dimensions, read
lazily); :mod:`.block` cuts it into planes. Planes, channels and series are counted from 0.
"""

import os
from collections.abc import Sequence

import numpy as np

from ...data.errors import BadFileError
from ...data.readers import DECODER_ERRORS, TIFF_STARTS, first_bytes, undecodable
from .axes import check_axes, describe, fitting_axes
from .base import ArrayPlane, Plane
from .bio import PLUGINS, open_bio
from .block import Block, planes_of
from .pixel_size import given_size
from .raster import open_raster
from .tiff import open_tiff
from .zarr import open_zarr

__all__ = ["SUFFIXES", "ArrayPlane", "Plane", "array_planes", "check_axes", "open_planes"]

SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".tif",
    ".tiff",
    ".btf",
    ".tf8",
    ".lsm",
    ".svs",
    ".bmp",
    ".webp",
    ".zarr",
    *PLUGINS,
)
"""Endings, in small letters, of what is an image in a folder; ``.zarr`` is a folder itself."""

_MOST_SAMPLES = 4
"""Of a colour pixel: red, green, blue, transparency."""


def open_planes(
    path: str | os.PathLike[str],
    axes: str = "",
    channels: Sequence[int] = (),
    pixel_size: float | Sequence[float] | None = None,
) -> list[Plane]:
    """Open an image file, or an OME-Zarr folder; its pixels are read later, part by part.

    What a dimension is comes from the file (OME-XML, ImageJ, OME-Zarr) or from ``axes``, never
    from its size. Depth, time, positions and series give a plane each.

    Args:
        path: PNG, JPEG, TIFF of any kind, OME-Zarr, CZI, ND2, LIF. Which it is says the content,
            except for the last three.
        axes: a letter per dimension, such as ``ZYX``, instead of what the file says: Y rows,
            X columns, C channels, S samples of a colour pixel, Z depth, T time, P positions.
        channels: numbers of the channels to take, from 0, in this order; empty takes all but
            transparency.
        pixel_size: µm per pixel, or the pair (vertical, horizontal), instead of what the file says.

    Returns:
        At least one plane, each named after the file and its place in it: ``a.tif [z=3, t=1]``.

    Raises:
        BadFileError: the file cannot be used; the message says why and what to do.
        ValueError: ``axes`` or ``pixel_size`` cannot be read.
    """
    name = os.fspath(path)
    axes, size = check_axes(axes), given_size(pixel_size)
    try:
        blocks = _blocks(name, axes)
    except BadFileError:
        raise
    except DECODER_ERRORS as error:
        raise undecodable(name, error) from error
    file = os.path.basename(os.path.normpath(name))
    return [
        plane for block in blocks for plane in planes_of(block, name, file, axes, channels, size)
    ]


def array_planes(
    array: np.ndarray,
    axes: str = "",
    channels: Sequence[int] = (),
    pixel_size: float | Sequence[float] | None = None,
    name: str = "image",
) -> list[Plane]:
    """The planes of an array in memory (or memory-mapped), without a copy.

    Args:
        array: real numbers or bool. Without ``axes``, (H, W) or (H, W, C) with at most four
            channels: one plane.
        axes: a letter per dimension, see :func:`open_planes`.
        channels: see :func:`open_planes`.
        pixel_size: see :func:`open_planes`.
        name: for people.

    Raises:
        BadFileError: the array cannot be used, or may be a stack as well as channels.
        ValueError: ``axes`` or ``pixel_size`` cannot be read.
    """
    array, size = np.asarray(array), given_size(pixel_size)
    letters = fitting_axes(axes, array.shape, name) if axes else ""
    if not letters:
        letters = {2: "YX", 3: "YXC"}.get(array.ndim, "")
        if not letters or (array.ndim == 3 and array.shape[2] > _MOST_SAMPLES):
            raise BadFileError(
                f"{name}: is an array of {describe(array.shape) or 'no'} dimensions, of which "
                "nothing says what they are. Without axes, (H, W) and (H, W, C) with at most "
                f'{_MOST_SAMPLES} channels are taken; else name them: axes="ZYX" for a stack, '
                '"CYX" or "YXC" for channels.'
            )
    block = Block(letters, array.shape, array.dtype, array.__getitem__)
    return planes_of(block, name, name, "", channels, size)


def _blocks(name: str, axes: str) -> list[Block]:
    if not os.path.exists(name):
        raise BadFileError(f"{name}: does not exist. Check its spelling.")
    if os.path.isdir(name):
        return open_zarr(name, axes)
    start = first_bytes(name)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in PLUGINS:
        return open_bio(name, suffix)
    return open_tiff(name) if start[:4] in TIFF_STARTS else [open_raster(name)]
