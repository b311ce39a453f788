"""What a result is saved as; one module per format, each with ``write(cells, file)``.

A format's module is imported when it is used: a table needs no library for pictures.
"""

import importlib
import os
from dataclasses import dataclass
from pathlib import Path

from ..cells import Cells

__all__ = ["FORMATS", "Format", "parse_formats", "write"]

ALL = "all"


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: of the files' names, from the first dot on.
        writer: the module of this package that has ``write(cells, file)``.
        description: what is in it and what opens it, for the command line's help.
    """

    suffix: str
    writer: str
    description: str


FORMATS = {
    "labels": Format(
        ".labels.tif", "labels", "label image, TIFF; the best score wins where cells overlap"
    ),
    "layers": Format(
        ".layers.tif", "layers", "label images, TIFF; as many layers as overlaps need, none is lost"
    ),
    "coco": Format(".coco.json", "coco", "COCO JSON, masks as run lengths"),
    "geojson": Format(".geojson", "geojson", "outlines for QuPath, with class and score"),
    "rois": Format(".rois.zip", "imagej_rois", "outlines for the ROI Manager of ImageJ and Fiji"),
    "csv": Format(".csv", "measurements", "table of measurements, a row per cell"),
    "overlay": Format(".overlay.png", "overlay", "picture of the image with outlines, PNG"),
}
"""Name of a format -> the format."""


def write(cells: Cells, file: str | os.PathLike[str], format_name: str) -> None:
    """Write one file; it appears when it is complete.

    Args:
        cells: what was found in an image.
        file: of any name; :data:`FORMATS` has the usual suffix.
        format_name: a key of :data:`FORMATS`.

    Raises:
        ValueError: there is no such format, or it cannot hold these cells.
        OSError: the file cannot be written.
    """
    writer = importlib.import_module(f".{_known(format_name).writer}", __name__)
    writer.write(cells, Path(file))


def parse_formats(text: str) -> tuple[str, ...]:
    """The formats of a list such as ``"csv, geojson"``, each once; ``"all"`` is every one.

    Raises:
        ValueError: a name is none of :data:`FORMATS`, or there is no name.
    """
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not names:
        raise ValueError(f"no format is named; there are {_listed()}")
    for name in names:
        if name != ALL:
            _known(name)
    return tuple(FORMATS) if ALL in names else tuple(dict.fromkeys(names))


def _known(name: str) -> Format:
    if name not in FORMATS:
        raise ValueError(f"format {name!r} is not known; there are {_listed()}")
    return FORMATS[name]


def _listed() -> str:
    return f"{', '.join(FORMATS)}, and {ALL!r} for every one of them"
