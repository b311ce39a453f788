"""Image files as arrays: PNG, JPEG and TIFF; 8 bits, 16 bits or floats; any channels."""

import os
import struct
import warnings
import zlib
from collections.abc import Sequence

import numpy as np
import tifffile
from PIL import Image

from .errors import BadFileError
from .tiff import orient, read_tiff, tiff_size

DEFAULT_PERCENTILES = (0.1, 99.9)
"""Mapped to 0 and 255 in files that are not 8-bit, where the config says nothing."""

Limits = tuple[tuple[float, float], ...]
"""Per channel the values that become 0 and 255; empty leaves the values as they are."""

# A slide of 10,000 x 10,000 pixels is no attack; Pillow's error for twice its limit stays.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_START = b"\x89PNG\r\n\x1a\n"
_ORIENTATION_TAG = 0x0112
Image.init()
FORMATS = tuple(
    name
    for name in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TGA", "JPEG2000", "TIFF")
    if name in Image.OPEN
)
"""What Pillow may decode here: it would hand PostScript, whatever the file's name, to a program."""
# Everything that Pillow, tifffile and imagecodecs raise on damaged files.
DECODER_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    SyntaxError,
    EOFError,
    RuntimeError,
    MemoryError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
    tifffile.TiffFileError,
    Image.DecompressionBombError,
)


def read_image(
    path: str | os.PathLike[str],
    channels: Sequence[int] = (),
    percentiles: Sequence[float] = (),
) -> np.ndarray:
    """Read one image, turned as its EXIF orientation says.

    A palette is looked up; transparency (an alpha channel) is left out, unless ``channels`` asks
    for it by its number. A TIFF must hold one plane with its channels: a stack of several planes is
    refused, because nothing says whether they are depth, time or channels. If its axis has no name,
    ``channels`` says that they are channels.

    Args:
        path: PNG, JPEG or TIFF; another 8-bit format of :data:`FORMATS` works too.
        channels: numbers of the file's channels to take, from 0, in this order; empty takes all.
        percentiles: two percentiles per channel that become 0 and 255 (values beyond are clipped);
            empty does so for files that are not 8-bit, with :data:`DEFAULT_PERCENTILES`, and leaves
            8-bit files as they are. A channel of one value becomes 0.

    Returns:
        (H, W, C), ``uint8`` as in the file, or ``float32`` in 0..255.

    Raises:
        BadFileError: the file is missing, empty, damaged, not an image, ambiguous, lacks a channel,
            or holds NaN or Inf.
        ValueError: ``percentiles`` are not two increasing numbers in 0..100.
    """
    name = os.fspath(path)
    is_tiff = first_bytes(name)[:4] in TIFF_STARTS
    try:
        if is_tiff:
            pixels, has_alpha = read_tiff(name, planes_are_channels=bool(channels))
        else:
            pixels, has_alpha = read_raster(name)
    except BadFileError:
        raise
    except DECODER_ERRORS as error:
        raise undecodable(name, error) from error
    pixels = _choose_channels(pixels, has_alpha, channels, name)
    _require_numbers(pixels, name)
    return to_byte_range(pixels, percentiles)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of an image as :func:`read_image` gives it, from the file's header alone.

    Raises:
        BadFileError: the file is missing, empty, or its header is not one of an image.
    """
    name = os.fspath(path)
    is_tiff = first_bytes(name)[:4] in TIFF_STARTS
    try:
        if is_tiff:
            return tiff_size(name)
        with Image.open(name, formats=FORMATS) as image:
            width, height = image.size
            return (width, height) if exif_orientation(image) >= 5 else (height, width)
    except BadFileError:
        raise
    except DECODER_ERRORS as error:
        raise undecodable(name, error) from error


def to_byte_range(pixels: np.ndarray, percentiles: Sequence[float] = ()) -> np.ndarray:
    """Map two percentiles of each channel to 0 and 255.

    8-bit pixels stay as they are when none are given. Where the percentiles coincide (few bright
    pixels on an even ground), least and greatest value take their place.

    Args:
        pixels: (H, W, C), any real type, finite as 32-bit floats.
        percentiles: see :func:`read_image`.

    Returns:
        (H, W, C) ``uint8`` or ``float32`` in 0..255.
    """
    if len(percentiles) not in (0, 2) or (
        len(percentiles) == 2 and not 0 <= percentiles[0] < percentiles[1] <= 100
    ):
        raise ValueError(
            f"INPUT.PERCENTILES is {tuple(percentiles)}; two increasing numbers in 0..100 are "
            f"needed, such as {DEFAULT_PERCENTILES}, or ()"
        )
    return stretched(pixels, pixel_limits(pixels, percentiles))


def pixel_limits(pixels: np.ndarray, percentiles: Sequence[float] = ()) -> Limits:
    """The values of pixels (H, W, C) that become 0 and 255, from all of them."""
    if pixels.dtype == np.uint8 and not percentiles:
        return ()
    limits = []
    for c in range(pixels.shape[2]):
        channel = pixels[..., c].astype(np.float64)
        low, high = np.percentile(channel, tuple(percentiles) or DEFAULT_PERCENTILES)
        if high <= low:
            low, high = channel.min(), channel.max()
        limits.append((float(low), float(high)))
    return tuple(limits)


def stretched(pixels: np.ndarray, limits: Limits) -> np.ndarray:
    """Map limits to 0 and 255; values beyond are clipped, and a channel of one value becomes 0.

    Args:
        pixels: (H, W, C), the pixels that the limits are of or a part of them.
        limits: one pair per channel, or none.

    Returns:
        (H, W, C) ``float32`` in 0..255; without limits the pixels themselves.
    """
    if not limits:
        return pixels
    scaled = np.empty(pixels.shape, np.float32)
    for c, (low, high) in enumerate(limits):
        channel = pixels[..., c].astype(np.float64)
        scaled[..., c] = np.clip((channel - low) / ((high - low) or 1.0), 0, 1) * 255
    return scaled


def first_bytes(name: str) -> bytes:
    """The first 32 bytes of a file that exists and is not empty."""
    try:
        with open(name, "rb") as file:
            start = file.read(32)
    except FileNotFoundError as error:
        raise BadFileError(
            f"{name}: does not exist. Check the image folder and the file names in the annotation "
            "file."
        ) from error
    except OSError as error:
        raise BadFileError(f"{name}: cannot be opened ({error}). Check its permissions.") from error
    if not start:
        raise BadFileError(f"{name}: is empty (0 bytes). Copy it again from its source.")
    return start


def undecodable(name: str, error: BaseException) -> BadFileError:
    """What to say of a file whose decoding failed."""
    if isinstance(error, Image.UnidentifiedImageError):
        return BadFileError(f"{name}: is not an image. PNG, JPEG and TIFF files are read.")
    if isinstance(error, Image.DecompressionBombError):
        return BadFileError(
            f"{name}: is too large to be decoded whole ({error}). Cut it into tiles."
        )
    return BadFileError(
        f"{name}: cannot be decoded ({type(error).__name__}: {error}). The file is truncated or "
        "damaged; copy it again from its source."
    )


def read_raster(name: str) -> tuple[np.ndarray, bool]:
    """PNG, JPEG and Pillow's other formats: (H, W, C), and whether the last is transparency."""
    with open(name, "rb") as file:
        start = file.read(26)
    with Image.open(name, formats=FORMATS) as image:
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise BadFileError(
                f"{name}: holds {getattr(image, 'n_frames', 0)} frames. Save one image per file."
            )
        orientation = exif_orientation(image)
        if start.startswith(PNG_START) and start[24] == 16:
            # Pillow reduces 16-bit colour to 8 bits.
            pixels, has_alpha = _read_deep_png(name), start[25] in (4, 6)
        else:
            image.load()
            pixels, has_alpha = pillow_pixels(image, name)
    return orient(pixels, orientation), has_alpha


def _read_deep_png(name: str) -> np.ndarray:
    from imagecodecs import png_decode

    with open(name, "rb") as file:
        pixels = png_decode(file.read())
    return pixels if pixels.ndim == 3 else pixels[..., None]


def pillow_pixels(image: Image.Image, name: str) -> tuple[np.ndarray, bool]:
    """A loaded image (H, W, C), palettes looked up, and whether it ends in transparency."""
    mode = image.mode
    if mode == "1":
        image = image.convert("L")
    elif mode in ("P", "PA"):
        image = image.convert("RGBA" if mode == "PA" or "transparency" in image.info else "RGB")
    elif mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    elif mode not in ("L", "LA", "RGB", "RGBA", "I", "F") and not mode.startswith("I;16"):
        raise BadFileError(f"{name}: pixels of kind {mode!r} are not read. Save it as PNG or TIFF.")
    pixels = np.array(image)
    return pixels if pixels.ndim == 3 else pixels[..., None], image.mode in ("LA", "RGBA")


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8. Asked for it, Pillow decodes a PNG without EXIF in its header."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1
    value = image.getexif().get(_ORIENTATION_TAG, 1)
    return value if value in range(1, 9) else 1


def _choose_channels(
    pixels: np.ndarray, has_alpha: bool, channels: Sequence[int], name: str
) -> np.ndarray:
    if not channels:
        return pixels[..., :-1] if has_alpha else pixels
    count = pixels.shape[2]
    absent = [c for c in channels if not 0 <= c < count]
    if absent:
        raise BadFileError(
            f"{name}: has {count} channel(s), numbered from 0, and INPUT.CHANNELS "
            f"{tuple(channels)} asks for {', '.join(map(str, absent))}. Change INPUT.CHANNELS."
        )
    return pixels[..., list(channels)]


def _require_numbers(pixels: np.ndarray, name: str) -> None:
    if np.iscomplexobj(pixels):
        raise BadFileError(f"{name}: holds complex numbers. Save its magnitude as a float TIFF.")
    if pixels.dtype.kind == "f":
        # NaN compares false too.
        bad = pixels.size - np.count_nonzero(np.abs(pixels) <= np.finfo(np.float32).max)
        if bad:
            raise BadFileError(
                f"{name}: {bad} of {pixels.size} pixel values are NaN or Inf. Replace them in the "
                "file."
            )
