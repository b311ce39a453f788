"""TIFF of every storage: each rectangle equals that of the array which was written."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from source_files import assert_parts_agree, noise, one, whole

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.tiff import orient
from iaunet_d2.inference.sources import open_planes

STORAGES: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "strips": {"rowsperstrip": 7, "compression": "lzw"},
    "strips uncompressed": {"rowsperstrip": 7},
    "one strip": {"compression": "zlib", "rowsperstrip": 1000},
    "tiles": {"tile": (16, 32)},
    "tiles lzw": {"tile": (16, 32), "compression": "lzw", "predictor": True},
    "tiles deflate": {"tile": (32, 16), "compression": "zlib"},
    "bigtiff": {"bigtiff": True},
    "bigtiff tiles": {"bigtiff": True, "tile": (16, 16), "compression": "zstd"},
    "big-endian": {"byteorder": ">"},
    "big-endian tiles": {"byteorder": ">", "tile": (16, 16)},
}
DTYPES = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64)


def write(path: Path, array: np.ndarray, **options: Any) -> Path:
    """Write with the options of ``TiffFile`` and ``write`` mixed."""
    outer = {k: options.pop(k) for k in ("bigtiff", "byteorder", "ome", "imagej") if k in options}
    with tifffile.TiffWriter(path, **outer) as tif:
        tif.write(array, **options)
    return path


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_grey_image_in_every_storage(tmp_path: Path, storage: str, dtype: Any) -> None:
    array = noise(45, 70, dtype=dtype)
    plane = one(write(tmp_path / "a.tif", array, **STORAGES[storage]))
    assert plane.name == "a.tif"
    assert plane.pixel_size is None
    assert plane.channel_names == ()
    assert_parts_agree(plane, array[..., None])


@pytest.mark.parametrize("storage", ["contiguous", "tiles lzw"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_numbers(tmp_path: Path, dtype: Any, storage: str) -> None:
    array = noise(20, 33, dtype=dtype)
    options = dict(STORAGES[storage])
    if np.dtype(dtype).kind == "f":
        options.pop("predictor", None)
    assert_parts_agree(one(write(tmp_path / "a.tif", array, **options)), array[..., None])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_image_in_every_storage(tmp_path: Path, storage: str, planar: str) -> None:
    array = noise(45, 70, 3, dtype=np.uint16)
    stored = array if planar == "contig" else np.moveaxis(array, 2, 0)
    options = {"photometric": "rgb", "planarconfig": planar, **STORAGES[storage]}
    assert_parts_agree(one(write(tmp_path / "a.tif", stored, **options)), array)


def test_jpeg_tiles_decode_as_tifffile_does(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 100 * 90 * 3).reshape(100, 90, 3).astype(np.uint8)
    path = write(tmp_path / "a.tif", smooth, tile=(32, 32), compression="jpeg", photometric="ycbcr")
    assert_parts_agree(one(path), tifffile.imread(path))


@pytest.mark.parametrize("storage", ["contiguous", "tiles lzw"])
def test_white_is_zero_is_turned_over(tmp_path: Path, storage: str) -> None:
    array = noise(20, 33)
    path = write(tmp_path / "a.tif", array, photometric="miniswhite", **STORAGES[storage])
    assert_parts_agree(one(path), 255 - array[..., None])


def test_palette_is_looked_up(tmp_path: Path) -> None:
    palette = noise(3, 256, dtype=np.uint16)
    index = noise(20, 33)
    options = {"photometric": "palette", "colormap": palette}
    plane = one(write(tmp_path / "a.tif", index, **options))
    expected = np.stack([(p >> 8)[index] for p in palette], axis=2).astype(np.uint8)
    assert_parts_agree(plane, expected)
    plane = one(tmp_path / "a.tif", channels=(2, 0))
    assert_parts_agree(plane, expected[..., [2, 0]])


def test_one_bit_becomes_0_and_255(tmp_path: Path) -> None:
    array = noise(20, 33, dtype=bool)
    for photometric, shown in (("minisblack", array), ("miniswhite", ~array)):
        path = write(tmp_path / "a.tif", array, photometric=photometric)
        assert_parts_agree(one(path), shown[..., None] * np.uint8(255))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("storage", ["contiguous", "tiles"])
def test_orientation_is_set_upright(tmp_path: Path, orientation: int, storage: str) -> None:
    array = noise(40, 70, 3)
    extra = [(274, "H", 1, orientation, True)]
    options = {"photometric": "rgb", "extratags": extra, **STORAGES[storage]}
    plane = one(write(tmp_path / "a.tif", array, **options))
    assert_parts_agree(plane, orient(array, orientation))


def test_turned_image_has_its_pixel_size_turned(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "resolution": (20000, 10000),  # horizontally, vertically
        "resolutionunit": "centimeter",
        "metadata": None,
    }
    write(tmp_path / "a.tif", noise(20, 30), **options)
    assert one(tmp_path / "a.tif").pixel_size == (1.0, 0.5)
    write(tmp_path / "a.tif", noise(20, 30), extratags=[(274, "H", 1, 6, True)], **options)
    assert one(tmp_path / "a.tif").pixel_size == (0.5, 1.0)


def test_transparency_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    array = noise(20, 30, 4)
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    path = write(tmp_path / "a.tif", array, **options)
    assert_parts_agree(one(path), array[..., :3])
    assert_parts_agree(one(path, channels=(3, 1)), array[..., [3, 1]])
    path = write(tmp_path / "b.tif", array, photometric="rgb", extrasamples=["unspecified"])
    assert_parts_agree(one(path), array)


@pytest.mark.parametrize("storage", ["contiguous", "tiles lzw"])
def test_ome_stack_gives_its_planes_in_order(tmp_path: Path, storage: str) -> None:
    array = noise(2, 3, 2, 20, 33, dtype=np.uint16)
    path = write(
        tmp_path / "a.ome.tif",
        array,
        ome=True,
        metadata={
            "axes": "TZCYX",
            "PhysicalSizeX": 250,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 0.0005,
            "PhysicalSizeYUnit": "mm",
            "Channel": {"Name": ["DAPI", "GFP"]},
        },
        **STORAGES[storage],
    )
    planes = open_planes(path)
    assert [p.name for p in planes] == [
        f"a.ome.tif [z={z}, t={t}]" for t in range(2) for z in range(3)
    ]
    for k, plane in enumerate(planes):
        assert plane.pixel_size == pytest.approx((0.5, 0.25))
        assert plane.channel_names == ("DAPI", "GFP")
        assert_parts_agree(plane, np.moveaxis(array[k // 3, k % 3], 0, 2))
    swapped = open_planes(path, channels=(1, 0))[4]
    assert swapped.channel_names == ("GFP", "DAPI")
    assert_parts_agree(swapped, np.moveaxis(array[1, 1, ::-1], 0, 2))
    single = open_planes(path, channels=(1,))[0]
    assert_parts_agree(single, array[0, 0, 1, ..., None])


def test_ome_colour_stack_has_samples_as_channels(tmp_path: Path) -> None:
    array = noise(4, 20, 33, 3)
    options = {"ome": True, "photometric": "rgb", "metadata": {"axes": "ZYXS"}}
    planes = open_planes(write(tmp_path / "a.ome.tif", array, **options))
    assert len(planes) == 4
    assert_parts_agree(planes[2], array[2])


def test_ome_images_are_series_with_their_own_size_and_names(tmp_path: Path) -> None:
    first, second = noise(20, 30), noise(2, 25, 10, dtype=np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(first, metadata={"axes": "YX", "PhysicalSizeX": 2, "PhysicalSizeY": 2})
        tif.write(second, metadata={"axes": "CYX", "Channel": {"Name": ["a", "b"]}})
    planes = open_planes(tmp_path / "a.ome.tif")
    assert [p.name for p in planes] == ["a.ome.tif [series=0]", "a.ome.tif [series=1]"]
    assert [p.pixel_size for p in planes] == [(2, 2), None]
    assert [p.channel_names for p in planes] == [(), ("a", "b")]
    assert_parts_agree(planes[0], first[..., None])
    assert_parts_agree(planes[1], np.moveaxis(second, 0, 2))


@pytest.mark.parametrize("ome", [True, False])
def test_pyramid_gives_the_full_resolution(tmp_path: Path, ome: bool) -> None:
    array = noise(64, 96, 3)
    options: dict[str, Any] = {"photometric": "rgb", "tile": (16, 16), "compression": "zlib"}
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=ome) as tif:
        tif.write(array, subifds=2, **options)
        tif.write(array[::2, ::2], subfiletype=1, **options)
        tif.write(array[::4, ::4], subfiletype=1, **options)
    assert_parts_agree(one(tmp_path / "a.tif"), array)


def test_reduced_pages_are_left_out(tmp_path: Path) -> None:
    array = noise(64, 96)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(array, metadata=None)
        tif.write(array[::3, ::3], subfiletype=1, metadata=None)
    assert_parts_agree(one(tmp_path / "a.tif"), array[..., None])


def test_aperio_slide_without_label_and_thumbnail(tmp_path: Path) -> None:
    slide = noise(96, 128, 3)
    tiles: dict[str, Any] = {"photometric": "rgb", "metadata": None, "tile": (32, 32)}
    about = "Aperio Image Library v1\n96x128 [0,0] |AppMag = 20|MPP = 0.4990|Left = 3"
    with tifffile.TiffWriter(tmp_path / "a.svs") as tif:
        tif.write(slide, description=about, compression="zlib", **tiles)
        tif.write(slide[::4, ::4], photometric="rgb", metadata=None, description="Aperio")
        tif.write(slide[:30, :20], photometric="rgb", metadata=None, subfiletype=1)
        tif.write(slide[:30, :40], photometric="rgb", metadata=None, subfiletype=9)
    plane = one(tmp_path / "a.svs")
    assert plane.pixel_size == (0.499, 0.499)
    assert_parts_agree(plane, slide)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_imagej_hyperstack(tmp_path: Path, compression: str | None) -> None:
    array = noise(3, 4, 2, 20, 33, dtype=np.uint16)
    labels = ["nuclei", "membrane"] * 12
    tifffile.imwrite(
        tmp_path / "a.tif",
        array,
        imagej=True,
        compression=compression,
        resolution=(1 / 0.25, 1 / 0.5),
        metadata={"axes": "TZCYX", "unit": "um", "spacing": 3.0, "Labels": labels},
    )
    planes = open_planes(tmp_path / "a.tif")
    assert [p.name for p in planes[:5]] == [
        *(f"a.tif [z={z}, t=0]" for z in range(4)),
        "a.tif [z=0, t=1]",
    ]
    assert len(planes) == 12
    for k, plane in enumerate(planes):
        assert plane.pixel_size == (0.5, 0.25)
        assert plane.channel_names == ("nuclei", "membrane")
        assert_parts_agree(plane, np.moveaxis(array[k // 4, k % 4], 0, 2))


def test_imagej_labels_of_slices_are_no_names_of_channels(tmp_path: Path) -> None:
    options: dict[str, Any] = {"imagej": True}
    about = {"axes": "ZCYX", "Labels": [f"slice {k}" for k in range(6)]}
    tifffile.imwrite(tmp_path / "a.tif", noise(3, 2, 20, 33), metadata=about, **options)
    assert {p.channel_names for p in open_planes(tmp_path / "a.tif")} == {()}


def test_imagej_stack_with_a_single_directory(tmp_path: Path) -> None:
    """As ImageJ writes beyond 4 GB: one directory, all images behind each other."""
    array = noise(5, 20, 33, dtype=np.uint16)
    about = "ImageJ=1.53\nimages=5\nslices=5\nunit=micron\n"
    tifffile.imwrite(tmp_path / "a.tif", array[0], description=about, metadata=None, byteorder=">")
    content = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        end = tif.pages[0].dataoffsets[0] + array[0].nbytes
    (tmp_path / "a.tif").write_bytes(content[:end] + array[1:].astype(">u2").tobytes())
    planes = open_planes(tmp_path / "a.tif")
    assert [p.name for p in planes] == [f"a.tif [z={z}]" for z in range(5)]
    for plane, expected in zip(planes, array, strict=True):
        assert_parts_agree(plane, expected[..., None])


def test_axes_written_by_tifffile_are_read(tmp_path: Path) -> None:
    array = noise(3, 2, 20, 33)
    tifffile.imwrite(tmp_path / "a.tif", array, metadata={"axes": "TCYX"})
    planes = open_planes(tmp_path / "a.tif")
    assert [p.name for p in planes] == [f"a.tif [t={t}]" for t in range(3)]
    assert_parts_agree(planes[1], np.moveaxis(array[1], 0, 2))


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("written_by", ["pages", "tifffile"])
def test_stack_without_names_asks_for_axes(
    tmp_path: Path, written_by: str, compression: str | None
) -> None:
    array = noise(5, 20, 33)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        if written_by == "tifffile":
            tif.write(array, photometric="minisblack", compression=compression)
        else:
            for page in array:
                tif.write(page, metadata=None, compression=compression)
    with pytest.raises(BadFileError, match=r"a\.tif: has 3 dimensions \(5 x 20 x 33\).*--axes ZYX"):
        open_planes(tmp_path / "a.tif")
    planes = open_planes(tmp_path / "a.tif", axes="zyx")
    assert [p.name for p in planes] == [f"a.tif [z={z}]" for z in range(5)]
    assert_parts_agree(planes[3], array[3][..., None])
    assert_parts_agree(one(tmp_path / "a.tif", axes="CYX"), np.moveaxis(array, 0, 2))
    assert_parts_agree(
        one(tmp_path / "a.tif", axes="CYX", channels=(4, 0)), np.moveaxis(array[[4, 0]], 0, 2)
    )


def test_axes_may_lie_across_the_pages(tmp_path: Path) -> None:
    array = noise(12, 7, 5)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", compression="zlib")
    planes = open_planes(tmp_path / "a.tif", axes="YXZ")
    assert len(planes) == 5
    for z, plane in enumerate(planes):
        assert_parts_agree(plane, array[..., z, None])


def test_colour_stack_without_names(tmp_path: Path) -> None:
    array = noise(5, 20, 33, 3)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", compression="lzw")
    with pytest.raises(BadFileError, match=r"--axes ZYXS"):
        open_planes(tmp_path / "a.tif")
    planes = open_planes(tmp_path / "a.tif", axes="TYXS")
    assert [p.name for p in planes] == [f"a.tif [t={t}]" for t in range(5)]
    assert_parts_agree(planes[4], array[4])


def test_axes_override_what_the_file_says(tmp_path: Path) -> None:
    array = noise(3, 20, 33)
    about = {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}, "PhysicalSizeX": 1.0}
    tifffile.imwrite(tmp_path / "a.ome.tif", array, ome=True, metadata=about)
    assert one(tmp_path / "a.ome.tif").channel_names == ("a", "b", "c")
    assert one(tmp_path / "a.ome.tif", axes="CYX").channel_names == ("a", "b", "c")
    planes = open_planes(tmp_path / "a.ome.tif", axes="TYX")
    assert [p.channel_names for p in planes] == [(), (), ()]
    with pytest.raises(BadFileError, match=r"has 3 dimensions \(3 x 20 x 33\).*'YX'.* name 2"):
        open_planes(tmp_path / "a.ome.tif", axes="YX")


def test_channels_that_are_not_there(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(20, 33, 3), photometric="rgb")
    with pytest.raises(BadFileError, match=r"a\.tif: has 3 channel.*3 of 0,3 .*--channels"):
        open_planes(tmp_path / "a.tif", channels=(0, 3))
    with pytest.raises(BadFileError, match="-1"):
        open_planes(tmp_path / "a.tif", channels=(-1,))


def test_absent_tiles_are_filled(tmp_path: Path) -> None:
    def tiles() -> Any:
        yield noise(16, 16)
        yield None
        yield None
        yield noise(16, 16)

    tifffile.imwrite(
        tmp_path / "a.tif",
        tiles(),
        shape=(32, 32),
        dtype=np.uint8,
        tile=(16, 16),
        compression="zlib",
    )
    expected = tifffile.imread(tmp_path / "a.tif")
    assert not expected[:16, 16:].any()
    assert_parts_agree(one(tmp_path / "a.tif"), expected[..., None])


def test_ome_tiff_in_several_files_gives_each_plane_once(tmp_path: Path) -> None:
    array = noise(3, 20, 33)
    uuids = [f"urn:uuid:0000000{k}-0000-0000-0000-000000000000" for k in range(3)]
    data = "".join(
        f'<TiffData FirstZ="{k}" IFD="0" PlaneCount="1"><UUID FileName="{k}.ome.tif">{uuid}</UUID>'
        "</TiffData>"
        for k, uuid in enumerate(uuids)
    )
    for k in range(3):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{uuids[k]}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
            'Type="uint8" SizeX="33" SizeY="20" SizeC="1" SizeZ="3" SizeT="1" PhysicalSizeX="0.5" '
            f'PhysicalSizeY="0.5">{data}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / f"{k}.ome.tif", array[k], description=xml, metadata=None)
    for k in range(3):
        plane = one(tmp_path / f"{k}.ome.tif")
        assert plane.name == f"{k}.ome.tif [z={k}]"
        assert plane.pixel_size == (0.5, 0.5)
        assert_parts_agree(plane, array[k][..., None])
    (tmp_path / "2.ome.tif").unlink()
    assert_parts_agree(one(tmp_path / "0.ome.tif"), array[0][..., None])


def test_interrupted_recording_gives_the_planes_that_were_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = noise(2, 20, 33)
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="33" SizeY="20" SizeC="1" '
        'SizeZ="1" SizeT="5"><TiffData FirstT="0" IFD="0"/><TiffData FirstT="1" IFD="1"/></Pixels>'
        "</Image></OME>"
    )
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        for k, page in enumerate(array):
            tif.write(page, description=xml if k == 0 else None, metadata=None)
    with caplog.at_level(logging.WARNING, logger="iaunet_d2"):
        planes = open_planes(tmp_path / "a.ome.tif")
    assert [p.name for p in planes] == ["a.ome.tif [t=0]", "a.ome.tif [t=1]"]
    assert "3 of the 5 images that its OME-XML names are not in it" in caplog.text
    np.testing.assert_array_equal(whole(planes[1]), array[1][..., None])
