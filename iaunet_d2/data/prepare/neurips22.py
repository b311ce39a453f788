"""NeurIPS 2022 cell segmentation challenge: images of many kinds with a label map each.

Published at https://zenodo.org/records/10719375 as ``Training-labeled.zip``, ``Tuning.zip`` and
``Testing.zip``, each with ``images/cell_00001.<suffix>`` and ``labels/cell_00001_label.tiff``.
Decisions:

- Splits: train is ``Training-labeled`` (1000 images), val ``Tuning`` (101), test
  ``Testing/Public`` (50). ``Testing/Hidden`` has no labels and is left out, as are the archives of
  unlabelled images.
- One instance per id of the label map, also where the id is in several pieces: how many is told.
- Images are copied byte for byte, except those that become PNG: BMP and other formats than PNG,
  JPEG and TIFF; and TIFFs whose channels are pages, or are neither one nor three beside
  transparency, of which the first three are kept, as in the challenge's baseline
  (https://github.com/JunMa11/NeurIPS-CellSeg).

The licence (CC BY-NC-ND 4.0) forbids to pass on adapted data: what is made here is for use, and
must not be redistributed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from ..errors import BadFileError
from ..readers import DECODER_ERRORS, FORMATS, image_size, read_image, to_byte_range
from ..tiff import read_tiff
from .build import Build, Item, Sample
from .label_maps import label_annotations
from .recipe import Count, Recipe, Remote
from .source import SourceFiles

CELL = 1
_RECORD = "https://zenodo.org/records/10719375"
_SHA256 = {
    "Training-labeled.zip": "b2383929eb8e99b2716fa0d4e2f6e03983e626a57cf00fe85175869c54aa3592",
    "Tuning.zip": "849423d36bb8fcc2d91a5b189a3b6d93c3d4071c9701eaaa44ba393a510459c4",
    "Testing.zip": "3379730221f43830d30fddf131750e967c9c9bdf04f98811e852a050eb659ccc",
}
# Folders of the archives, or the archives' names -> split; None has no labels.
_SPLIT_OF = {
    "training-labeled": "train",
    "tuning": "val",
    "public": "test",
    "hidden": None,
    "testing": "test",
}
_SUFFIXES = (".bmp", ".png", ".tif", ".tiff", ".jpg", ".jpeg")
_TIFF_SUFFIXES = (".tif", ".tiff")
_COPIED_FORMATS = ("PNG", "JPEG", "MPO")
_LABEL_ENDING = "_label"
_ALPHA = (1, 2)


def convert(files: SourceFiles, build: Build) -> None:
    """Convert the splits whose files are at hand.

    Raises:
        BadFileError: none is, a label map has no image, or a file is damaged.
    """
    files.need("labels/*_label.tif*")
    labels = _by_split(files.all("labels/*_label.tif*"), _LABEL_ENDING)
    images = _by_split([p for s in _SUFFIXES for p in files.all(f"images/*{s}")], "")
    for split in ("train", "val", "test"):
        if split not in labels:
            continue
        found = images.get(split, {})
        absent = sorted(labels[split].keys() - found.keys())
        if absent:
            raise BadFileError(
                f"{labels[split][absent[0]]}: has no image {absent[0]}.* in the folder images "
                f"beside it ({len(absent)} such label maps). Unpack the archive again."
            )
        unlabelled = found.keys() - labels[split].keys()
        if unlabelled:
            build.note(f"images of {split} without a label map: left out", len(unlabelled))
        build.split(
            split,
            [_item(split, found[k], labels[split][k], build) for k in sorted(labels[split])],
        )


def _by_split(paths: list[Path], ending: str) -> dict[str, dict[str, Path]]:
    """Split -> name in lower case, without suffix and ending -> file.

    Raises:
        BadFileError: two files of one folder have the same name but for the suffix.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in paths:
        split = _split_of(path)
        name = path.stem.lower().removesuffix(ending)
        if split is None:
            continue
        known = found.setdefault(split, {}).setdefault(name, path)
        if known != path and known.parent == path.parent:
            raise BadFileError(
                f"{known} and {path}: one of them has to go, both are called {name}."
            )
    return found


def _split_of(path: Path) -> str | None:
    """By the nearest folder that is the archives' or named after one."""
    folders = (part.lower().removesuffix(".zip") for part in reversed(path.parent.parts))
    known = next((folder for folder in folders if folder in _SPLIT_OF), None)
    return _SPLIT_OF[known] if known is not None else None


def _item(split: str, image: Path, label: Path, build: Build) -> Item:
    copied = _is_copied(image)
    name = image.name if copied else f"{image.stem}.png"
    return Item(
        f"{split} {image.name}", f"{split}/{name}", partial(_sample, image, label, copied, build)
    )


def _sample(image: Path, label: Path, copied: bool, build: Build) -> Sample:
    labels = read_label_map(label)
    pixels = None if copied else _first_channels(image)
    size = image_size(image) if pixels is None else pixels.shape[:2]
    if pixels is not None and image.suffix.lower() in _TIFF_SUFFIXES:
        build.note("TIFFs of several pages, or neither 1 nor 3 channels: the first 3 as PNG")
    if size != labels.shape:
        raise BadFileError(
            f"{image} is {size[1]}x{size[0]} (width x height), its label map {label} is "
            f"{labels.shape[1]}x{labels.shape[0]}. They do not belong together; unpack the archive "
            "again."
        )
    annotations, scattered = label_annotations(labels, CELL)
    if scattered:
        build.note("instances in several pieces: kept as one", len(scattered))
    return Sample(image if pixels is None else pixels, annotations)


def read_label_map(path: Path) -> np.ndarray:
    """A label map (H, W) of whole numbers from 0.

    Raises:
        BadFileError: the file cannot be read, is no plane, or has negative or broken numbers.
    """
    with _decoding(path):
        labels = np.squeeze(tifffile.imread(path))
    if labels.ndim != 2:
        raise BadFileError(f"{path}: is no label map of one plane (its shape is {labels.shape}).")
    if labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels)):
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iu" or int(labels.min(initial=0)) < 0:
        raise BadFileError(
            f"{path}: has values of {labels.dtype} from {labels.min()} to {labels.max()}; a label "
            "map has whole numbers from 0. Unpack the archive again."
        )
    return labels


def _is_copied(image: Path) -> bool:
    """Whether an image is one that the mapper takes as it is, by its header."""
    with _decoding(image):
        if image.suffix.lower() in _TIFF_SUFFIXES:
            return _has_usual_channels(image)
        with Image.open(image, formats=FORMATS) as opened:
            return opened.format in _COPIED_FORMATS


def _has_usual_channels(path: Path) -> bool:
    with tifffile.TiffFile(path) as tif:
        series = tif.series[0]
        page = series.keyframe
        further = [
            (axis, count)
            for axis, count in zip(series.axes, series.shape, strict=True)
            if axis not in "YX" and count > 1
        ]
        if not further:
            return True
        axis, count = further[0]
        has_alpha = axis == "S" and bool(page.extrasamples) and page.extrasamples[-1] in _ALPHA
        return len(further) == 1 and axis in "SC" and count - has_alpha in (1, 3)


def _first_channels(path: Path) -> np.ndarray:
    """Pixels as PNG takes them: (H, W), or the first three channels (H, W, 3); 8 or 16 bits."""
    if path.suffix.lower() in _TIFF_SUFFIXES:
        with _decoding(path):
            pixels, has_alpha = read_tiff(str(path), planes_are_channels=True)
        pixels = pixels[..., :-1] if has_alpha else pixels
    else:
        pixels = read_image(path)
    pixels = pixels[..., :3]
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = np.rint(to_byte_range(pixels)).astype(np.uint8)
    if pixels.shape[2] == 1:
        return pixels[..., 0]
    return np.pad(pixels, ((0, 0), (0, 0), (0, 3 - pixels.shape[2])))


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn what decoders raise on damaged files into an error that names the file."""
    try:
        yield
    except BadFileError:
        raise
    except DECODER_ERRORS as error:
        raise BadFileError(
            f"{path}: cannot be decoded ({type(error).__name__}: {error}). The file is truncated "
            "or damaged; unpack the archive again."
        ) from error


RECIPE = Recipe(
    name="neurips22",
    title="NeurIPS 2022 cell segmentation challenge (1000 + 101 + 50 images)",
    homepage=_RECORD,
    licence="CC BY-NC-ND 4.0: what is converted must not be redistributed",
    categories={CELL: "cell"},
    obtain=f"Fetch {', '.join(_SHA256)} from {_RECORD} and give each as --source.",
    convert=convert,
    remotes=tuple(
        Remote(name, f"{_RECORD}/files/{name}", sha256=digest) for name, digest in _SHA256.items()
    ),
    expected={"train": Count(1000), "val": Count(101), "test": Count(50)},
)
