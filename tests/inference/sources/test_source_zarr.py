"""OME-Zarr of every version: images, plates, Bio-Formats' series, and what is none."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_files import assert_parts_agree, noise, one, whole
from zarr_folders import stand_in, write_json, write_zarr2, write_zarr3

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.inference.sources import open_planes

MICRO, NANO = "micrometer", "nanometer"


@pytest.fixture(params=["stand-in", "zarr"], autouse=True)
def _zarr(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "zarr", stand_in())
    elif importlib.util.find_spec("zarr") is None:
        pytest.skip("the package zarr is not installed")


def axis(name: str, kind: str, unit: str = "") -> dict[str, str]:
    return {"name": name, "type": kind, **({"unit": unit} if unit else {})}


SPACE = [axis("y", "space", MICRO), axis("x", "space", NANO)]


def scale(*factors: float) -> list[dict[str, Any]]:
    return [{"type": "scale", "scale": factors}, {"type": "translation", "translation": factors}]


def multiscales(axes: Any, *factors: float, levels: int = 1) -> dict[str, Any]:
    datasets = [
        {"path": str(k), "coordinateTransformations": scale(*factors)} for k in range(levels)
    ]
    return {"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}]}


def test_image_of_version_04(tmp_path: Path) -> None:
    array = noise(2, 3, 2, 40, 70, dtype=np.uint16)
    folder = tmp_path / "a.zarr"
    axes = [axis("t", "time"), axis("z", "space", MICRO), axis("c", "channel"), *SPACE]
    about = multiscales(axes, 1, 1, 1, 0.5, 250, levels=2)
    about["omero"] = {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}
    write_json(folder / ".zgroup", {"zarr_format": 2})
    write_json(folder / ".zattrs", about)
    write_zarr2(folder / "0", array, (1, 1, 1, 32, 32))
    write_zarr2(folder / "1", array[..., ::2, ::2], (1, 1, 1, 32, 32))
    planes = open_planes(folder)
    assert [p.name for p in planes] == [f"a.zarr [z={z}, t={t}]" for t in (0, 1) for z in range(3)]
    for k, plane in enumerate(planes):
        assert plane.pixel_size == pytest.approx((0.5, 0.25))
        assert plane.channel_names == ("DAPI", "GFP")
        assert_parts_agree(plane, np.moveaxis(array[k // 3, k % 3], 0, 2))
    assert_parts_agree(open_planes(folder, channels=(1,))[0], array[0, 0, 1, ..., None])
    assert open_planes(folder, pixel_size=3)[0].pixel_size == (3, 3)


def test_image_of_version_05_with_two_scales(tmp_path: Path) -> None:
    array = noise(40, 70, dtype=np.float32)
    folder = tmp_path / "a.zarr"
    about = multiscales(SPACE, 2, 1000)
    about["multiscales"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [0.1, 0.3]}]
    content = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": about}}
    write_json(folder / "zarr.json", content)
    write_zarr3(folder / "0", array, (32, 32))
    plane = one(folder)
    assert plane.name == "a.zarr"
    assert plane.pixel_size == pytest.approx((0.2, 0.3))
    assert_parts_agree(plane, array[..., None])


@pytest.mark.parametrize("axes", [None, ["t", "c", "z", "y", "x"]])
def test_images_of_versions_01_to_03(tmp_path: Path, axes: Any) -> None:
    array = noise(1, 2, 3, 20, 33)
    about: dict[str, Any] = {"datasets": [{"path": "s0"}]}
    if axes:
        about["axes"] = axes
    write_json(tmp_path / "a" / ".zattrs", {"multiscales": [about]})
    write_zarr2(tmp_path / "a" / "s0", array, (1, 1, 1, 16, 16))
    planes = open_planes(tmp_path / "a")
    assert [p.name for p in planes] == [f"a [z={z}]" for z in range(3)]
    assert planes[0].pixel_size is None
    assert_parts_agree(planes[2], np.moveaxis(array[0, :, 2], 0, 2))


def test_axes_of_other_names(tmp_path: Path) -> None:
    array = noise(2, 3, 20, 33)
    axes = [axis("angle", ""), axis("stain", "channel"), axis("y", "space"), axis("x", "space")]
    write_json(tmp_path / ".zattrs", multiscales(axes, 1, 1, 1, 1))
    write_zarr2(tmp_path / "0", array, (1, 1, 16, 16))
    planes = open_planes(tmp_path)
    assert [p.name for p in planes] == [f"{tmp_path.name} [p={k}]" for k in range(2)]
    assert planes[0].pixel_size is None
    assert_parts_agree(planes[1], np.moveaxis(array[1], 0, 2))


def test_plate_gives_each_field_of_each_well(tmp_path: Path) -> None:
    array = noise(3, 20, 33)
    wells = [("A/1", 2), ("B/3", 1)]
    plate = {"plate": {"wells": [{"path": path} for path, _ in wells]}}
    write_json(tmp_path / "p.zarr" / ".zattrs", plate)
    images = iter(array)
    for path, count in wells:
        well = tmp_path / "p.zarr" / path
        fields = [{"path": str(k)} for k in range(count)]
        write_json(well / ".zattrs", {"well": {"images": fields}})
        for k in range(count):
            write_json(well / str(k) / ".zattrs", multiscales(SPACE, 1, 1))
            write_zarr2(well / str(k) / "0", next(images), (16, 16))
    planes = open_planes(tmp_path / "p.zarr")
    assert [p.name for p in planes] == [
        f"p.zarr [well={name}]" for name in ("A/1/0", "A/1/1", "B/3/0")
    ]
    for plane, expected in zip(planes, array, strict=True):
        np.testing.assert_array_equal(whole(plane), expected[..., None])


@pytest.mark.parametrize("listed", [True, False])
def test_series_of_bioformats2raw(tmp_path: Path, listed: bool) -> None:
    array = noise(2, 20, 33)
    write_json(tmp_path / ".zattrs", {"bioformats2raw.layout": 3})
    if listed:
        write_json(tmp_path / "OME" / ".zattrs", {"series": ["1", "0"]})
    for k in range(2):
        write_json(tmp_path / str(k) / ".zattrs", multiscales(SPACE, 1, 1))
        write_zarr2(tmp_path / str(k) / "0", array[k], (16, 16))
    planes = open_planes(tmp_path)
    assert [p.name for p in planes] == [f"{tmp_path.name} [series={k}]" for k in range(2)]
    order = [1, 0] if listed else [0, 1]
    for plane, k in zip(planes, order, strict=True):
        np.testing.assert_array_equal(whole(plane), array[k][..., None])


def test_bare_array(tmp_path: Path) -> None:
    array = noise(3, 20, 33)
    write_zarr2(tmp_path / "a.zarr", array, (1, 16, 16))
    with pytest.raises(BadFileError, match=r"a\.zarr: has 3 dimensions.*--axes ZYX "):
        open_planes(tmp_path / "a.zarr")
    planes = open_planes(tmp_path / "a.zarr", axes="ZYX")
    assert_parts_agree(planes[1], array[1][..., None])
    write_zarr3(tmp_path / "b.zarr", array, (1, 16, 16), names=["c", "y", "x"])
    assert_parts_agree(one(tmp_path / "b.zarr"), np.moveaxis(array, 0, 2))


def test_only_the_chunks_that_are_met_are_read(tmp_path: Path) -> None:
    array = noise(40, 70)
    write_json(tmp_path / ".zattrs", multiscales(SPACE, 1, 1))
    write_zarr2(tmp_path / "0", array, (16, 16))
    (tmp_path / "0" / "1" / "1").write_bytes(b"short")
    plane = one(tmp_path)
    np.testing.assert_array_equal(plane.read(0, 0, 16, 70)[..., 0], array[:16])
    with pytest.raises(BadFileError, match="rows 10 to 19, columns 10 to 19 cannot be decoded"):
        plane.read(10, 10, 10, 10)


def test_damaged_metadata(tmp_path: Path) -> None:
    (tmp_path / ".zattrs").write_text("{")
    with pytest.raises(BadFileError, match=r"\.zattrs: cannot be read"):
        open_planes(tmp_path)
    write_json(tmp_path / ".zattrs", [1])
    with pytest.raises(BadFileError, match="no JSON object"):
        open_planes(tmp_path)
    write_json(tmp_path / ".zattrs", {"multiscales": []})
    with pytest.raises(BadFileError, match="metadata are incomplete"):
        open_planes(tmp_path)
    write_json(tmp_path / ".zattrs", multiscales(SPACE, 1, 1))
    with pytest.raises(BadFileError, match="is missing or no Zarr array"):
        open_planes(tmp_path)
    write_zarr2(tmp_path / "0", noise(3, 20, 33), (1, 16, 16))
    with pytest.raises(BadFileError, match=r"names 2 axes \(YX\) for an array of 3"):
        open_planes(tmp_path)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    write_json(tmp_path / "a.zarr" / ".zattrs", multiscales(SPACE, 1, 1))
    write_zarr2(tmp_path / "a.zarr" / "0", noise(20, 33), (16, 16))
    with pytest.raises(BadFileError, match=r"a\.zarr: .* needs the package zarr.*pip install zarr"):
        open_planes(tmp_path / "a.zarr")
