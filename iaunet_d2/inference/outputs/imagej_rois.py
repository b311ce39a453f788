"""Outlines for ImageJ and Fiji: a zip file of ROIs, which the ROI Manager opens.

Corners are those of pixels, as the wand draws them, so ImageJ's mask of a ROI is the cell's, pixel
by pixel. A cell in one piece and without holes is a traced ROI; any other is a compound one, a path
as java.awt.geom.PathIterator has it.
https://imagej.net/ij/developer/source/ij/io/RoiDecoder.java.html
"""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from ...files import atomic_write
from ..cells import Cells
from .outlines import outline

# Coordinates are 16-bit; beyond, and in compound ROIs, 32-bit floats, with whole numbers up to
# 2^24.
_SHORT = 2**15 - 1
_FLOAT = 2**24
_MOST_CORNERS = 2**16 - 1
_MOVE, _LINE, _CLOSE = 0, 1, 4
_MOST_GROUPS = 255
# The archive of the same cells is the same, byte by byte.
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


def write(cells: Cells, file: Path) -> None:
    """Write a ROI per cell, named with its number in the label image, class and score.

    With several classes, ROIs of one class are a group (in ImageJ: numbered, and of one colour).

    Raises:
        ValueError: the image is too large for ImageJ's coordinates.
        OSError: the file cannot be written.
    """
    if max(cells.image_size) > _FLOAT:
        height, width = cells.image_size
        raise ValueError(
            f"{cells.name}: ImageJ's coordinates end at {_FLOAT}, the image has {height}x{width} "
            "pixels (height x width). Save it as geojson."
        )
    grouped = len(cells.class_names) > 1
    digits = max(4, len(str(len(cells))))
    with atomic_write(file) as stream, zipfile.ZipFile(stream, "w") as archive:
        for i, crop in enumerate(cells.crops):
            number = int(cells.classes[i])
            # ImageJ takes the name of the archive's entry for the ROI's.
            kind = re.sub(r"[^\w.+-]+", "_", cells.class_names[number])
            name = f"{i + 1:0{digits}}-{kind}-{float(cells.scores[i]):.3f}"
            top, left = (int(v) for v in cells.corners[i])
            roi = _roi([r for e, holes in outline(crop, (top, left)) for r in (e, *holes)])
            roi.name = name
            roi.group = number + 1 if grouped and number < _MOST_GROUPS else 0
            entry = zipfile.ZipInfo(f"{name}.roi", _LONG_AGO)
            archive.writestr(entry, roi.tobytes(), zipfile.ZIP_DEFLATED)


def _roi(rings: Sequence[np.ndarray]) -> ImagejRoi:
    """A ROI of rings (points, 2) in pixels of the image; holes lie inside others."""
    points = np.concatenate(rings)
    roi = ImagejRoi()
    roi.left, roi.top = (int(v) for v in points.min(axis=0))
    roi.right, roi.bottom = (int(v) for v in points.max(axis=0))
    if len(rings) > 1 or len(points) > _MOST_CORNERS:
        path = np.concatenate([_path(ring) for ring in rings])
        roi.roitype = ROI_TYPE.RECT
        roi.multi_coordinates, roi.shape_roi_size = path, len(path)
        return roi
    roi.roitype = ROI_TYPE.TRACED
    roi.n_coordinates = len(points)
    roi.integer_coordinates = (points - [roi.left, roi.top]).astype(np.int32)
    if points.max() > _SHORT:
        roi.options = ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        roi.subpixel_coordinates = points.astype(np.float32)
    return roi


def _path(ring: np.ndarray) -> np.ndarray:
    """A closed ring as a path of numbers, float32: a kind of segment, then its point."""
    steps = np.column_stack([np.full(len(ring), _LINE), ring])
    steps[0, 0] = _MOVE
    return np.append(steps.ravel(), _CLOSE).astype(np.float32)
