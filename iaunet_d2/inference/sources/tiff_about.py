"""What a TIFF says of its pixels: their size, and the names of the channels."""

import math
import re
from typing import Any
from xml.etree import ElementTree

from .pixel_size import PixelSize, both, measured, microns

_INCH, _CENTIMETRE = 2, 3


def pixel_size(tif: Any, series: Any, number: int) -> PixelSize | None:
    """From OME-XML, ImageJ's unit, a slide scanner's or LSM's header, or the resolution tags.

    Args:
        tif: the open file, tifffile's.
        series: one of its series.
        number: of that series.
    """
    kind = series.kind.lower()
    frame = series.keyframe
    if kind == "ome":
        pixels = _ome_pixels(tif, number, series.name)
        found = None if pixels is None else _ome_size(pixels)
        return found or _resolution(frame)
    if kind == "lsm":
        about = tif.lsm_metadata or {}
        return both(microns(about.get("VoxelSizeY"), "m"), microns(about.get("VoxelSizeX"), "m"))
    if kind == "svs":
        # Aperio's description of the slide, such as "...|AppMag = 20|MPP = 0.4990|...".
        match = re.search(r"\bMPP\s*=\s*([0-9.]+)", frame.description or "")
        size = microns(match.group(1), "um") if match else None
        return both(size, size) or _resolution(frame)
    if tif.is_imagej:
        about = tif.imagej_metadata or {}
        return _imagej_size(frame, about)
    return _resolution(frame)


def channel_names(tif: Any, series: Any, number: int) -> tuple[str, ...]:
    """From OME-XML or ImageJ's labels of slices; empty unless there is one for each channel."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    count = sizes.get("C", 1) * sizes.get("S", 1)
    names: list[str] = []
    if series.kind.lower() == "ome":
        pixels = _ome_pixels(tif, number, series.name)
        if pixels is not None:
            names = [c.get("Name", "") for c in pixels if _tag(c) == "Channel"]
    elif tif.is_imagej and "S" not in sizes:
        names = _label_per_channel((tif.imagej_metadata or {}).get("Labels"), series)
    return tuple(names) if len(names) == count and all(names) else ()


def _label_per_channel(labels: Any, series: Any) -> list[str]:
    """ImageJ labels each slice; they name channels if all slices of a channel have the same."""
    if not isinstance(labels, list) or "C" not in series.axes:
        return []
    stack = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if a not in "YX"]
    if len(labels) != math.prod(n for _, n in stack):
        return []
    # The last dimension of the stack counts fastest.
    step = math.prod(n for _, n in stack[[a for a, _ in stack].index("C") + 1 :])
    count = dict(stack)["C"]
    names: list[set[str]] = [set() for _ in range(count)]
    for k, label in enumerate(labels):
        names[k // step % count].add(str(label).strip())
    if any(len(each) != 1 for each in names):
        return []
    return [name for each in names for name in each]


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _ome_pixels(tif: Any, number: int, name: str) -> ElementTree.Element | None:
    """The Pixels of the image that a series shows; None where that is not certain."""
    try:
        root = ElementTree.fromstring(tif.ome_metadata or "")
    except ElementTree.ParseError:
        return None
    images = [image for image in root if _tag(image) == "Image"]
    if len(images) != len(tif.series):  # tifffile leaves out images without data
        images = [image for image in images if image.get("Name") == name]
        number = 0 if len(images) == 1 else len(images)
    if number >= len(images):
        return None
    return next((child for child in images[number] if _tag(child) == "Pixels"), None)


def _ome_size(pixels: ElementTree.Element) -> PixelSize | None:
    """µm is the unit where none is stated: OME schema 2016-06, PhysicalSizeXUnit."""
    sizes = [
        microns(pixels.get(f"PhysicalSize{a}"), pixels.get(f"PhysicalSize{a}Unit", "µm"))
        for a in "YX"
    ]
    return both(sizes[0], sizes[1])


def _imagej_size(frame: Any, about: dict[str, Any]) -> PixelSize | None:
    """ImageJ writes its unit into the description, and pixels per unit into the resolution."""
    horizontal = about.get("unit")
    vertical = about.get("yunit", horizontal)
    size = both(
        microns(_per_pixel(frame, "YResolution"), vertical),
        microns(_per_pixel(frame, "XResolution"), horizontal),
    )
    # "inch" is what ImageJ takes over from an image that has a resolution for printing.
    return measured(size) if str(horizontal) in ("inch", "cm") else size


def _resolution(frame: Any) -> PixelSize | None:
    tag = frame.tags.get("ResolutionUnit")
    # Inch is the default: TIFF 6.0, ResolutionUnit.
    unit = {_INCH: "inch", _CENTIMETRE: "cm"}.get(int(tag.value) if tag is not None else _INCH)
    return measured(
        both(
            microns(_per_pixel(frame, "YResolution"), unit),
            microns(_per_pixel(frame, "XResolution"), unit),
        )
    )


def _per_pixel(frame: Any, name: str) -> float | None:
    """Units per pixel; None where the resolution is absent or 0."""
    tag = frame.tags.get(name)
    if tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 2:
        return None
    pixels, units = tag.value
    return units / pixels if pixels and units else None
