"""PNG, JPEG and Pillow's other formats, decoded whole when first read."""

import functools

import numpy as np
from PIL import Image

from ...data.readers import FORMATS, PNG_START, exif_orientation, pillow_pixels, read_raster
from .block import Block, Index

_DEEP_PNG_SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}
"""Samples of a pixel by the PNG's colour type: https://www.w3.org/TR/png/#11IHDR."""


def open_raster(path: str) -> Block:
    """Read the header.

    Its resolution is not taken for a pixel size: PNG and JPEG state one for screens and printers.

    Raises:
        OSError, ValueError, ...: whatever Pillow raises on files that are no images; see
            :data:`~iaunet_d2.data.readers.DECODER_ERRORS`.
    """
    with open(path, "rb") as file:
        start = file.read(26)
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        turned = exif_orientation(image) >= 5
        if start.startswith(PNG_START) and start[24] == 16:
            samples, dtype = _DEEP_PNG_SAMPLES[start[25]], np.dtype(np.uint16)
            has_alpha = start[25] in (4, 6)
        else:
            probe = Image.new(image.mode, (1, 1))
            probe.info = dict(image.info)
            pixels, has_alpha = pillow_pixels(probe, path)
            samples, dtype = pixels.shape[2], pixels.dtype

    @functools.cache
    def whole() -> np.ndarray:
        return read_raster(path)[0]

    def read(index: Index) -> np.ndarray:
        return whole()[index]

    shape = (width, height, samples) if turned else (height, width, samples)
    return Block("YXS", shape, dtype, read, has_alpha)
