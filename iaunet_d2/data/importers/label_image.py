"""Label images: the value of a pixel is the number of its object, 0 is the background.

TIFF, PNG, BMP or NumPy's ``.npy``; Cellpose's ``_cp_masks``, StarDist, ilastik, Fiji and so on.
Each plane of a stack is a layer with objects of its own, so that overlaps can be kept.
"""

import os
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

from ..errors import BadFileError
from ..rasterise import Patch, encode_patch
from ..readers import DECODER_ERRORS, FORMATS
from .common import Instance, Job, Plan, require_size
from .pairing import Unit, annotates, list_images, pair, pair_tasks, single_units, stem_below
from .polygons import FrameSize

ENDINGS = (".tif", ".tiff", ".png", ".bmp", ".npy")
SUFFIXES = (
    "_cp_masks",
    "_masks",
    "_mask",
    "_labels",
    "_label",
    "_labelled",
    "_labeled",
    "_instances",
    "_seg",
)
# What Cellpose writes beside its masks: NumPy files of Python objects.
_CELLPOSE_FILE = "_seg.npy"

_LAYERS = "label images have several layers: the objects of each layer are taken as its own"
_FOREGROUND = (
    "label images have one value for several separate pieces: taken as one object. Is it a "
    "foreground mask? Then number the objects first"
)
_LEFT_CELLPOSE = "Cellpose files *_seg.npy: left out, its *_cp_masks files are read"
_NO_OBJECT = "label images hold no object"


def plan(job: Job) -> Plan:
    """Label images in a folder of their own, or beside the images with a suffix.

    Raises:
        BadFileError: names that do not go together.
    """
    units, images = [], list_images(job)
    for unit in single_units(job, ENDINGS):
        if unit.files[0].name.endswith(_CELLPOSE_FILE):
            job.told(_LEFT_CELLPOSE, unit.files[0])
        else:
            units.append(unit)
    if job.annotations.resolve() == job.images.resolve():
        units, images = _tell_apart(job, units, images)

    def read(image: Path, unit: Unit, size: FrameSize) -> list[Instance]:
        return _read(job, image, unit.files[0], size)

    return Plan(pair_tasks(job, pair(job, units, SUFFIXES, images), read, ENDINGS))


def read_layers(path: Path) -> np.ndarray:
    """The values of a label image as whole numbers (layers, H, W).

    Raises:
        BadFileError: damaged, in colour, of values that are no numbers of objects.
    """
    name = os.fspath(path)
    try:
        if path.suffix.lower() == ".npy":
            pixels = _read_npy(name)
        elif path.suffix.lower() in (".tif", ".tiff"):
            pixels = _read_tiff(name)
        else:
            pixels = _read_raster(name)
    except BadFileError:
        raise
    except DECODER_ERRORS as error:
        raise BadFileError(
            f"{name}: cannot be decoded as a label image ({type(error).__name__}: {error}). The "
            "file is damaged or of another kind; export it again."
        ) from error
    return _whole_numbers(pixels, name)


def split_layer(layer: np.ndarray) -> list[Patch]:
    """One patch per value over 0 of a layer (H, W), by rising value; all pieces of it in one."""
    if layer.max() > layer.size:  # numbers with gaps: closed, so that no long list is made of them
        values, places = np.unique(layer, return_inverse=True)
        layer = places.reshape(layer.shape) + (values[0] > 0)
    numbered = layer.astype(np.int32)
    return [
        Patch(window[0].start, window[1].start, numbered[window] == value)
        for value, window in enumerate(ndimage.find_objects(numbered), 1)
        if window is not None
    ]


def _tell_apart(job: Job, units: list[Unit], images: list[Path]) -> tuple[list[Unit], list[Path]]:
    """Label images and images of one folder: a label image has an image's name and a suffix."""
    suffixes = SUFFIXES if job.suffix is None else (job.suffix,)
    names = {stem_below(path, job.images) for path in images}
    labels = [
        unit
        for unit in units
        if any(name in names for name in annotates(unit.name, suffixes, plain=False))
    ]
    files = {unit.files[0] for unit in labels}
    return labels, [path for path in images if path not in files]


def _read(job: Job, image: Path, path: Path, size: FrameSize) -> list[Instance]:
    layers = read_layers(path)
    require_size(image, size, path, (layers.shape[1], layers.shape[2]))
    if len(layers) > 1:
        job.told(_LAYERS, path)
    patches = [patch for layer in layers for patch in split_layer(layer)]
    if not patches:
        job.told(_NO_OBJECT, path)
    elif len(patches) == 1 and ndimage.label(patches[0].pixels)[1] > 1:
        job.told(_FOREGROUND, path)
    return [Instance(job.class_name, encode_patch(patch, size)) for patch in patches]


def _read_npy(name: str) -> np.ndarray:
    try:
        pixels = np.load(name, allow_pickle=False)
    except ValueError as error:
        raise BadFileError(
            f"{name}: is not an array of numbers ({error}). Save the label image alone, as TIFF, "
            "PNG, or with numpy.save."
        ) from error
    if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3):
        shape = getattr(pixels, "shape", None)
        raise BadFileError(
            f"{name}: has the shape {shape}; (height, width) or (layers, height, width) is needed."
        )
    return pixels


def _read_tiff(name: str) -> np.ndarray:
    with tifffile.TiffFile(name) as tif:
        stacks = []
        for series in tif.series:
            axes = series.axes
            if series.keyframe.is_reduced:
                continue
            if "Y" not in axes or "X" not in axes:
                raise BadFileError(f"{name}: has no image plane (axes {axes}).")
            if "S" in axes and series.shape[axes.index("S")] > 1:
                raise _colour(name)
            array = np.moveaxis(series.asarray(), [axes.index("Y"), axes.index("X")], [-2, -1])
            stacks.append(array.reshape(-1, *array.shape[-2:]))
    shapes = sorted({stack.shape[1:] for stack in stacks})
    if len(shapes) != 1:
        raise BadFileError(
            f"{name}: holds planes of {len(shapes)} sizes (height, width): {shapes[:3]}. Save one "
            "label image per file."
        )
    return np.concatenate(stacks)


def _read_raster(name: str) -> np.ndarray:
    with Image.open(name, formats=FORMATS) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise BadFileError(f"{name}: holds several frames. Save one label image per file.")
        # A palette only shows the numbers in colours; the pixels hold the numbers.
        if image.mode not in ("1", "L", "P", "I", "F") and not image.mode.startswith("I;16"):
            raise _colour(name)
        return np.array(image)


def _colour(name: str) -> BadFileError:
    return BadFileError(
        f"{name}: is a colour picture; a label image has one channel, whose values are the numbers "
        "of the objects. Export the labels themselves, as a 16-bit TIFF or PNG, not their coloured "
        "display."
    )


def _whole_numbers(pixels: np.ndarray, name: str) -> np.ndarray:
    """(layers, H, W) of unsigned or non-negative whole numbers."""
    if pixels.dtype.kind not in "biuf":
        raise BadFileError(
            f"{name}: holds values of kind {pixels.dtype}; whole numbers are needed."
        )
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or (pixels != np.round(pixels)).any():
            raise BadFileError(
                f"{name}: holds values that are no whole numbers: a probability map or an image, "
                "not a label image. Export the labels."
            )
        if (np.abs(pixels) > 2**53).any():
            raise BadFileError(f"{name}: holds values over 2**53: not a label image.")
        pixels = pixels.astype(np.int64)
    if pixels.size == 0:
        raise BadFileError(f"{name}: holds no pixel (shape {pixels.shape}).")
    if pixels.dtype.kind == "i" and pixels.min() < 0:
        raise BadFileError(
            f"{name}: holds negative values (the least: {pixels.min()}). The background is 0, "
            "objects have numbers from 1."
        )
    return pixels if pixels.ndim == 3 else pixels[None]
