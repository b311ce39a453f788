"""TIFF, OME-TIFF and ImageJ TIFF: one plane with its channels, by the axes that the file names."""

from typing import Any

import numpy as np
import tifffile

from .errors import BadFileError

_MINISWHITE, _PALETTE = 0, 3
ALPHA_SAMPLES = (1, 2)


def read_tiff(path: str, planes_are_channels: bool = False) -> tuple[np.ndarray, bool]:
    """Read the one image of a TIFF.

    Args:
        path: the file.
        planes_are_channels: take an axis without a name (pages, or ImageJ's or tifffile's unnamed
            ones) as channels.

    Returns:
        (H, W, C) in the file's own type, and whether the last channel is transparency.

    Raises:
        BadFileError: several images or a stack, naming the axes.
    """
    with tifffile.TiffFile(path) as tif:
        series = _only_series(tif, path)
        require_all_data(tif, series, path)
        axes, shape = series.axes, series.shape
        channel = _channel_axis(path, axes, shape, planes_are_channels)
        page = series.keyframe
        array = plain_values(series.asarray(), page)
        if array.ndim > len(axes):  # a palette was looked up
            axes, channel = axes + "S", "S"
        array = _to_hwc(array, axes, channel)
        extra = tuple(page.extrasamples or ())
        has_alpha = channel == "S" and bool(extra) and extra[-1] in ALPHA_SAMPLES
        return orient(array, page_orientation(page)), has_alpha


def tiff_size(path: str) -> tuple[int, int]:
    """Height and width of a TIFF, from its header; also checks that its data lie within the file.

    Raises:
        BadFileError: several images, no image plane, or data beyond the end of the file.
    """
    with tifffile.TiffFile(path) as tif:
        series = _only_series(tif, path)
        require_all_data(tif, series, path)
        _channel_axis(path, series.axes, series.shape, planes_are_channels=True)
        height, width = (series.shape[series.axes.index(axis)] for axis in "YX")
        return (width, height) if page_orientation(series.keyframe) >= 5 else (height, width)


def orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Set an array (H, W, C) upright that is stored in an EXIF orientation (1 to 8)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # After the transposition of codes 5 to 8: which of the axes is reversed.
    reverse_rows = orientation in (3, 4, 7, 8)
    reverse_columns = orientation in (2, 3, 6, 7)
    return pixels[:: -1 if reverse_rows else 1, :: -1 if reverse_columns else 1]


def _only_series(tif: Any, path: str) -> Any:
    """The one series; smaller copies of the same image (thumbnails) do not count."""
    full = [s for s in tif.series if not s.keyframe.is_reduced]
    if not full:
        raise BadFileError(f"{path}: holds no image. Save it again as a TIFF with one plane.")
    if len(full) > 1:
        shapes = ", ".join(f"{s.axes} {s.shape}" for s in full[:5])
        raise BadFileError(f"{path}: holds {len(full)} images ({shapes}). Save one image per file.")
    return full[0]


def require_all_data(tif: Any, series: Any, path: str) -> None:
    """Refuse a truncated file, of which tifffile might give zeros.

    Raises:
        BadFileError: pixels lie beyond the file's end.
    """
    size = tif.filehandle.size
    for page in series.pages:
        if page is None:
            continue
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if ends and max(ends) > size:
            raise BadFileError(
                f"{path}: is truncated: its pixels reach to byte {max(ends)}, the file has {size}. "
                "Copy it again from its source."
            )


def _channel_axis(
    path: str, axes: str, shape: tuple[int, ...], planes_are_channels: bool
) -> str | None:
    """The letter of the channel axis; None for a grey image.

    tifffile's letters: Y, X; S samples and C channels; Z, T and so on as named by the file; I pages
    and Q unnamed.
    """
    described = ", ".join(f"{a}={n}" for a, n in zip(axes, shape, strict=True))
    if "Y" not in axes or "X" not in axes:
        raise BadFileError(f"{path}: has no image plane (axes {described}).")
    further = [a for a, n in zip(axes, shape, strict=True) if a not in "YX" and n > 1]
    if not further:
        return None
    allowed = "CSIQ" if planes_are_channels else "CS"
    if len(further) == 1 and further[0] in allowed:
        return further[0]
    if len(further) == 1 and further[0] in "IQ":
        raise BadFileError(
            f"{path}: is a stack of planes ({described}) that does not say whether they are "
            "channels, depth or time. If they are channels, name those to use, as INPUT.CHANNELS "
            "(0,1,2); else save one plane per file."
        )
    raise BadFileError(
        f"{path}: is a stack ({described}); one plane with its channels is needed. Save one plane "
        "per file."
    )


def plain_values(array: np.ndarray, page: Any) -> np.ndarray:
    """Undo palette, white-is-zero and one-bit storage."""
    if page.photometric == _PALETTE and page.colormap is not None:
        return (np.moveaxis(page.colormap[:, array], 0, -1) >> 8).astype(np.uint8)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif page.bitspersample == 1:
        array = (array > 0).astype(np.uint8) * 255
    if page.photometric == _MINISWHITE and array.dtype.kind == "u":
        array = np.iinfo(array.dtype).max - array
    return array


def _to_hwc(array: np.ndarray, axes: str, channel: str | None) -> np.ndarray:
    keep = "YX" + (channel or "")
    index = tuple(slice(None) if a in keep else 0 for a in axes)
    kept = [a for a in axes if a in keep]
    array = array[index].transpose([kept.index(a) for a in keep])
    return array if channel else array[..., None]


def page_orientation(page: Any) -> int:
    """The orientation tag of a page, 1 to 8."""
    tag = page.tags.get("Orientation")
    value = int(tag.value) if tag is not None else 1
    return value if value in range(1, 9) else 1
