"""Files that are no images, or damaged: one error that says what to do."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from source_files import noise, one, whole

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.inference.sources import open_planes


def refused(path: Path, message: str) -> None:
    """Opening the file, or else reading a plane of it, ends in this error, which names it."""
    with pytest.raises(BadFileError, match=message) as caught:
        for plane in open_planes(path):
            whole(plane)
    assert str(path) in str(caught.value)


def test_missing_empty_and_text(tmp_path: Path) -> None:
    refused(tmp_path / "a.tif", "does not exist")
    for name in ("a.tif", "a.png", "a.czi"):
        (tmp_path / name).write_bytes(b"")
        refused(tmp_path / name, "is empty")
    for name in ("a.tif", "a.png", "a.jpg"):
        (tmp_path / name).write_text("not an image\n" * 10)
        refused(tmp_path / name, "is not an image")


def test_a_tiff_by_another_name(tmp_path: Path) -> None:
    array = noise(20, 33)
    tifffile.imwrite(tmp_path / "a.png", array, photometric="minisblack")
    np.testing.assert_array_equal(whole(one(tmp_path / "a.png"))[..., 0], array)
    Image.fromarray(array).save(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "b.tif")
    np.testing.assert_array_equal(whole(one(tmp_path / "b.tif"))[..., 0], array)


def test_a_folder_that_is_no_zarr(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder without OME-Zarr metadata")


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"compression": "zlib"}])
@pytest.mark.parametrize("keep", [4, 9, 100, 0.5, 0.9, -1])
def test_truncated_tiff(tmp_path: Path, options: dict, keep: float) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 64, dtype=np.uint16), **options)
    content = path.read_bytes()
    size = int(len(content) * keep) if isinstance(keep, float) else keep
    path.write_bytes(content[:size])
    refused(path, "truncated|damaged|holds no image")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["imagej", "ome"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_truncated_stack(tmp_path: Path, kind: str, compression: str | None, keep: float) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        noise(5, 64, 64),
        **{kind: True},  # type: ignore[arg-type]
        compression=compression,
        metadata={"axes": "ZYX"},
    )
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    refused(path, "truncated|damaged|lacks image|holds no image")


@pytest.mark.parametrize("position", range(0, 400, 5))
def test_damaged_headers_never_end_in_another_error(tmp_path: Path, position: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(8, 8, 3), photometric="rgb", compression="zlib", tile=(16, 16))
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 0xFF
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            for plane in open_planes(path):
                plane.read(0, 0, min(8, plane.shape[0]), min(8, plane.shape[1]))
    except BadFileError as error:
        assert str(path) in str(error)


def test_complex_numbers(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((20, 33), np.complex64))
    refused(tmp_path / "a.tif", "complex64, not real numbers. Save its magnitude")


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}])
def test_nan_in_one_plane_of_a_stack(tmp_path: Path, options: dict) -> None:
    array = np.zeros((3, 40, 40), np.float32)
    array[1, 20, 30] = np.nan
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": "TYX"}, **options)
    planes = open_planes(path)
    whole(planes[0])
    planes[1].read(21, 0, 19, 40)
    expected = re.escape(f"{path} [t=1]: nan at row 20, column 30 of channel 0, and 1 of the 40 ")
    with pytest.raises(BadFileError, match=expected):
        planes[1].read(20, 0, 1, 40)


def test_more_than_64_channels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(70, 20, 33), metadata={"axes": "CYX"})
    refused(tmp_path / "a.tif", "has 70 channels.*at most 64.*--channels 0,1,2.*--axes")
    assert one(tmp_path / "a.tif", channels=(69,)).shape == (20, 33, 1)
    assert len(open_planes(tmp_path / "a.tif", axes="ZYX")) == 70


def test_a_compression_that_nothing_decodes(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(20, 33), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["Compression"].overwrite(32773 + 5)
    refused(path, "cannot be decoded")


def test_several_frames(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(20, 33)) for _ in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    refused(tmp_path / "a.gif", "holds 3 frames")
