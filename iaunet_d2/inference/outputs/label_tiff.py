"""Label numbers painted and written as TIFF, in strips, so that no image is held whole.

Labels of 16 bits are written as ImageJ has its TIFFs, so that Fiji shows µm without a plugin.
ImageJ's own format knows neither 32-bit whole numbers nor files beyond 4 GiB: there OME-TIFF is
written, which Fiji, QuPath and napari open too. Strips, not tiles, since ImageJ itself refuses
tiles. https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html
"""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ...files import atomic_write
from ..cells import Cells

BAND = 512  # rows painted at once
STRIP_BYTES = 2**18  # before compression
CLASSIC_LIMIT = 2**32 - 2**25  # bytes of pixels, as tifffile has it: beyond, BigTIFF


def label_type(labels: int) -> np.dtype:
    """uint16 where the numbers up to ``labels`` fit, else uint32."""
    return np.dtype(np.uint16 if labels <= np.iinfo(np.uint16).max else np.uint32)


def best_first(cells: Cells) -> np.ndarray:
    """Indices (N,) by falling score; among equals, in the order they have."""
    return np.argsort(-cells.scores, kind="stable")


def paint(cells: Cells, order: np.ndarray, top: int, height: int) -> np.ndarray:
    """Some rows of a label image.

    Args:
        cells: N cells; the one at index i is painted as i + 1.
        order: indices of those to paint; the first one keeps a pixel that several have.
        top: the first row.
        height: how many rows.

    Returns:
        (height, W), of :func:`label_type`.
    """
    rows = np.zeros((height, cells.image_size[1]), label_type(len(cells)))
    for i in order[::-1].tolist():
        crop = cells.crops[i]
        row, left = cells.corners[i].tolist()
        first, last = max(row, top), min(row + crop.shape[0], top + height)
        if first < last:
            part = crop[first - row : last - row]
            rows[first - top : last - top, left : left + crop.shape[1]][part] = i + 1
    return rows


def write_label_tiff(cells: Cells, layers: Sequence[np.ndarray], file: Path, named: bool) -> None:
    """Write one label image per layer, compressed, with the pixel size where it is known.

    Args:
        cells: N cells.
        layers: of each layer, the indices of its cells, as the ``order`` of :func:`paint`.
        file: to write.
        named: give the file an axis C of layers and their names; else there is one layer.

    Raises:
        OSError: the file cannot be written.
    """
    height, width = cells.image_size
    kind = label_type(len(cells))
    big = len(layers) * height * width * kind.itemsize > CLASSIC_LIMIT
    imagej = kind.itemsize == 2 and not big
    strip_rows = min(height, max(1, STRIP_BYTES // (width * kind.itemsize)))
    with atomic_write(file) as stream:
        tifffile.imwrite(
            stream,
            _strips(cells, layers, strip_rows),
            shape=(len(layers), height, width) if named else (height, width),
            dtype=kind.newbyteorder("<"),
            byteorder="<",
            bigtiff=big,
            imagej=imagej,
            ome=not imagej,
            photometric="minisblack",
            compression="zlib",
            rowsperstrip=strip_rows,
            metadata=_metadata(cells.pixel_size, len(layers), named, imagej),
            **_resolution(cells.pixel_size, imagej),
        )


def _strips(cells: Cells, layers: Sequence[np.ndarray], strip_rows: int) -> Iterator[bytes]:
    """Compressed strips of all layers, one after the other."""
    height = cells.image_size[0]
    tops = cells.corners[:, 0]
    bottoms = tops + np.array([len(crop) for crop in cells.crops], np.int64)
    band = -(-BAND // strip_rows) * strip_rows
    little = label_type(len(cells)).newbyteorder("<")
    for layer in layers:
        for top in range(0, height, band):
            met = layer[(tops[layer] < top + band) & (bottoms[layer] > top)]
            rows = paint(cells, met, top, min(band, height - top)).astype(little, copy=False)
            for start in range(0, len(rows), strip_rows):
                yield zlib.compress(rows[start : start + strip_rows].tobytes())


def _metadata(
    pixel_size: tuple[float, float] | None, layers: int, named: bool, imagej: bool
) -> dict[str, Any]:
    """Axes, names and pixel size, as tifffile takes them for either format."""
    names = [f"layer {k + 1}" for k in range(layers)] if named else []
    about: dict[str, Any] = {"axes": "CYX" if named else "YX"}
    if imagej:
        about |= {"Labels": names, "mode": "grayscale"} if named else {}
        about |= {"unit": "um"} if pixel_size else {}
        return about
    about |= {"Channel": {"Name": names}} if named else {}
    if pixel_size:
        about |= {"PhysicalSizeY": pixel_size[0], "PhysicalSizeX": pixel_size[1]}
        about |= {"PhysicalSizeYUnit": "µm", "PhysicalSizeXUnit": "µm"}
    return about


def _resolution(pixel_size: tuple[float, float] | None, imagej: bool) -> dict[str, Any]:
    """Tags for pixels per unit, horizontally first: per µm in ImageJ's files, else per cm."""
    if pixel_size is None:
        return {}
    per_unit = 1.0 if imagej else 1e4
    return {
        "resolution": (per_unit / pixel_size[1], per_unit / pixel_size[0]),
        "resolutionunit": "NONE" if imagej else "CENTIMETER",
    }
