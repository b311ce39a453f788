"""Pixel sizes in µm, from every unit that files use."""

import math
from collections.abc import Sequence
from typing import Any

PixelSize = tuple[float, float]
"""µm per pixel, vertically and horizontally."""

_MICRONS = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "um": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "å": 1e-4,
    "in": 25400.0,
    "ft": 304800.0,
    "li": 25400.0 / 12,
    "meter": 1e6,
    "metre": 1e6,
    "centimeter": 1e4,
    "centimetre": 1e4,
    "millimeter": 1e3,
    "millimetre": 1e3,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "micron": 1.0,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "picometer": 1e-6,
    "picometre": 1e-6,
    "angstrom": 1e-4,
    "inch": 25400.0,
    "inche": 25400.0,
    "foot": 304800.0,
}
_MEGAMETER = "Mm"
_LARGEST_MEASURED = 20.0


def microns(value: Any, unit: str | None) -> float | None:
    """A length in µm; None where the unit is unknown, or the value is no length (0, NaN, Inf).

    Args:
        value: a number, or its text.
        unit: a symbol or an English word; ImageJ's escape ``\\u00B5m`` too.
    """
    text = (unit or "").strip().replace("\\u00B5", "u").replace("\\u00b5", "u")
    text = text.replace("µ", "u").replace("μ", "u")
    if text == _MEGAMETER:
        return None
    text = text.lower()
    factor = _MICRONS.get(text) or _MICRONS.get(text.removesuffix("s"))
    try:
        length = float(value) * (factor or 0.0)
    except (TypeError, ValueError):
        return None
    return length if math.isfinite(length) and length > 0 else None


def both(vertical: float | None, horizontal: float | None) -> PixelSize | None:
    """The pair, if both are known."""
    return None if vertical is None or horizontal is None else (vertical, horizontal)


def measured(size: PixelSize | None) -> PixelSize | None:
    """A size from a resolution per inch or centimetre; None where it is one for printing.

    Programs write 72, 96, 300 or 1,200 dots per inch (353 to 21 µm) into files without knowing
    anything of the pixels; the coarsest pixels of cameras on microscopes are below 20 µm. So a
    size above 20 µm (below 1,270 dots per inch) says nothing.
    """
    return size if size is not None and max(size) <= _LARGEST_MEASURED else None


def given_size(pixel_size: float | Sequence[float] | None) -> PixelSize | None:
    """The size that the user gives: one number for square pixels, or two (vertical, horizontal).

    Raises:
        ValueError: it is not one or two positive numbers.
    """
    if pixel_size is None:
        return None
    try:
        if isinstance(pixel_size, Sequence):
            vertical, horizontal = (float(v) for v in pixel_size)
        else:
            vertical = horizontal = float(pixel_size)
    except (TypeError, ValueError):
        vertical = horizontal = math.nan
    if not all(math.isfinite(v) and v > 0 for v in (vertical, horizontal)):
        raise ValueError(
            f"pixel size {pixel_size!r}: one or two positive numbers are needed, µm per pixel "
            "(vertically and horizontally)"
        )
    return vertical, horizontal
