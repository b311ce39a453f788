"""Pixel sizes that files state, in every unit, and those that mean nothing."""

import math
from pathlib import Path
from typing import Any

import pytest
import tifffile
from source_files import noise, one

from iaunet_d2.inference.sources.pixel_size import given_size, microns


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("m", 2e6),
        ("cm", 2e4),
        ("mm", 2e3),
        ("um", 2),
        ("µm", 2),  # U+00B5
        ("μm", 2),  # U+03BC
        ("\\u00B5m", 2),
        ("micron", 2),
        ("microns", 2),
        ("micrometer", 2),
        ("nm", 2e-3),
        ("nanometer", 2e-3),
        ("Å", 2e-4),
        ("angstrom", 2e-4),
        ("inch", 50800),
        ("inches", 50800),
        ("in", 50800),
        ("ft", 609600),
        ("pixel", None),
        ("reference frame", None),
        ("Mm", None),
        ("", None),
        (None, None),
    ],
)
def test_units(unit: str | None, expected: float | None) -> None:
    size = microns("2", unit)
    assert size == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "0.0", "wide", None])
def test_nonsense_is_not_known(value: Any) -> None:
    assert microns(value, "um") is None


def test_given_size() -> None:
    assert given_size(None) is None
    assert given_size(2) == (2.0, 2.0)
    assert given_size([2, 3]) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((10_000, 20_000), "centimeter", (0.5, 1.0)),
        ((50_800, 50_800), "inch", (0.5, 0.5)),
        ((72, 72), "inch", None),
        ((300, 300), "inch", None),
        ((1200, 1200), "inch", None),
        ((28.35, 28.35), "centimeter", None),  # 72 per inch
        ((1, 1), "none", None),
        ((10_000, 20_000), "none", None),
        ((0, 0), "centimeter", None),
    ],
)
def test_resolution_of_a_tiff(tmp_path: Path, resolution: Any, unit: str, expected: Any) -> None:
    """Resolutions are horizontal, vertical; pixel sizes are vertical, horizontal."""
    tifffile.imwrite(
        tmp_path / "a.tif", noise(20, 33), resolution=resolution, resolutionunit=unit, metadata=None
    )
    found = one(tmp_path / "a.tif").pixel_size
    assert found == (None if expected is None else pytest.approx(expected))
    assert one(tmp_path / "a.tif", pixel_size=3).pixel_size == (3, 3)


@pytest.mark.parametrize(
    ("unit", "per_unit", "expected"),
    [
        ("micron", 4.0, 0.25),
        ("\\u00B5m", 4.0, 0.25),
        ("nm", 0.004, 0.25),
        ("mm", 4000.0, 0.25),
        ("inch", 72.0, None),
        ("inch", 101_600.0, 0.25),
        ("pixel", 1.0, None),
        (None, 4.0, None),
    ],
)
def test_unit_of_imagej(
    tmp_path: Path, unit: str | None, per_unit: float, expected: float | None
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        noise(20, 33),
        imagej=True,
        resolution=(per_unit, per_unit),
        metadata={"unit": unit} if unit else {},
    )
    found = one(tmp_path / "a.tif").pixel_size
    assert found == (None if expected is None else pytest.approx((expected, expected), rel=1e-6))


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}, (0.5, 0.25)),
        (
            {
                "PhysicalSizeX": 250,
                "PhysicalSizeXUnit": "nm",
                "PhysicalSizeY": 5e-4,
                "PhysicalSizeYUnit": "mm",
            },
            (0.5, 0.25),
        ),
        ({"PhysicalSizeX": 0.25}, None),
        ({"PhysicalSizeX": 0.0, "PhysicalSizeY": 0.0}, None),
        (
            {
                "PhysicalSizeX": 1,
                "PhysicalSizeXUnit": "pixel",
                "PhysicalSizeY": 1,
                "PhysicalSizeYUnit": "pixel",
            },
            None,
        ),
        ({}, None),
    ],
)
def test_physical_size_of_ome(tmp_path: Path, stated: dict[str, Any], expected: Any) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, noise(20, 33), ome=True, metadata={"axes": "YX", **stated})
    found = one(path).pixel_size
    assert found == (None if expected is None else pytest.approx(expected))
