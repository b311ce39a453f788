"""Image files of every kind that is read, and every kind that is refused."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.readers import image_size, read_image, to_byte_range
from iaunet_d2.data.tiff import orient

GREY = np.arange(35, dtype=np.uint8).reshape(5, 7)
COLOUR = np.stack([GREY, GREY + 50, GREY + 100], axis=2)


def test_png_grey_and_colour_come_as_they_are(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    Image.fromarray(COLOUR).save(tmp_path / "colour.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), GREY[..., None])
    np.testing.assert_array_equal(read_image(tmp_path / "colour.png"), COLOUR)
    assert read_image(tmp_path / "colour.png").dtype == np.uint8
    assert image_size(tmp_path / "colour.png") == (5, 7)


def test_channels_are_chosen_in_the_order_given(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", (2, 0)), COLOUR[..., [2, 0]])
    with pytest.raises(BadFileError, match=r"a\.png: has 3 channel.*asks for 3, 5.*INPUT.CHANNELS"):
        read_image(tmp_path / "a.png", (3, 1, 5))


def test_palette_is_looked_up(tmp_path: Path) -> None:
    indexed = Image.new("P", (2, 2))
    indexed.putdata([0, 1, 1, 2])
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90] + [0] * (253 * 3))
    indexed.save(tmp_path / "palette.png")
    expected = [[[10, 20, 30], [40, 50, 60]], [[40, 50, 60], [70, 80, 90]]]
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), expected)


def test_alpha_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    alpha = np.full((5, 7, 1), 128, np.uint8)
    Image.fromarray(np.concatenate([COLOUR, alpha], 2)).save(tmp_path / "rgba.png")
    Image.fromarray(np.concatenate([GREY[..., None], alpha], 2)).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), COLOUR)
    np.testing.assert_array_equal(read_image(tmp_path / "la.png"), GREY[..., None])
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png", (3,)), alpha)


def test_one_bit_png_becomes_0_and_255(tmp_path: Path) -> None:
    Image.fromarray(GREY > 10).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bit.png")[..., 0], (GREY > 10) * 255)


def deep_png(pixels: np.ndarray) -> bytes:
    """A 16-bit colour PNG, written by the format's definition."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_png_keeps_its_depth(tmp_path: Path) -> None:
    ramp = np.arange(1000, dtype=np.uint16).reshape(20, 50) * 3 + 2000
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    (tmp_path / "colour.png").write_bytes(deep_png(np.stack([ramp, ramp // 2, ramp + 1], 2)))
    for name, channels in (("grey.png", 1), ("colour.png", 3)):
        got = read_image(tmp_path / name, percentiles=(0, 100))
        assert got.shape == (20, 50, channels) and got.dtype == np.float32
        # A linear ramp maps to a linear ramp of 1000 different values: 8 bits would leave 12.
        assert len(np.unique(got[..., 0])) == 1000
        np.testing.assert_allclose(got[..., 0].ravel(), np.linspace(0, 255, 1000), atol=1e-3)


def test_jpeg_is_turned_as_exif_says(tmp_path: Path) -> None:
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:8, :16] = 200  # upper left as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn counter-clockwise of upright
    Image.fromarray(picture).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    got = read_image(tmp_path / "turned.jpg")
    assert got.shape == (32, 16, 3) and image_size(tmp_path / "turned.jpg") == (32, 16)
    assert got[:16, 8:].min() > 150 and got[16:].max() < 60  # upper right, upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_agrees_with_pillow(orientation: int) -> None:
    image = Image.fromarray(COLOUR)
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(orient(COLOUR, orientation), expected)


def write_tiff(path: Path, data: np.ndarray, **options: object) -> None:
    """Write planes as grey ones, without tifffile's guess that three are colours."""
    tifffile.imwrite(path, data, photometric="minisblack", **options)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_tiff_of_any_type_and_channels(tmp_path: Path, dtype: type, channels: int) -> None:
    data = (np.random.default_rng(0).random((channels, 12, 9)) * 100).astype(dtype)
    write_tiff(tmp_path / "a.tif", data, metadata={"axes": "CYX"})
    got = read_image(tmp_path / "a.tif", percentiles=() if dtype == np.uint8 else (0, 100))
    assert got.shape == (12, 9, channels) and image_size(tmp_path / "a.tif") == (12, 9)
    if dtype == np.uint8:
        np.testing.assert_array_equal(got, data.transpose(1, 2, 0))
    else:
        low, high = data.min((1, 2)), data.max((1, 2))
        scaled = (data.astype(float) - low[:, None, None]) / (high - low)[:, None, None] * 255
        np.testing.assert_allclose(got, scaled.transpose(1, 2, 0), atol=1e-3)


def test_ome_imagej_and_rgb_tiff(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 255, (3, 12, 9), dtype=np.uint8)
    write_tiff(tmp_path / "a.ome.tif", stack, metadata={"axes": "CYX"})
    write_tiff(tmp_path / "b.tif", stack, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "c.tif", stack.transpose(1, 2, 0), photometric="rgb")
    write_tiff(tmp_path / "d.tif", stack, compression="zlib", metadata={"axes": "CYX"})
    for name in ("a.ome.tif", "b.tif", "c.tif", "d.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), stack.transpose(1, 2, 0))


def test_tiff_stacks_are_refused_with_their_axes(tmp_path: Path) -> None:
    stack = np.zeros((4, 12, 9), np.uint8)
    write_tiff(tmp_path / "z.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(BadFileError, match=r"z\.tif: is a stack \(Z=4, Y=12, X=9\)"):
        read_image(tmp_path / "z.tif")
    write_tiff(tmp_path / "q.tif", stack, metadata=None)
    with pytest.raises(BadFileError, match=r"does not say whether they are channels.*CHANNELS"):
        read_image(tmp_path / "q.tif")
    # Whoever names channels has said that they are channels.
    assert read_image(tmp_path / "q.tif", (2, 0)).shape == (12, 9, 2)
    with tifffile.TiffWriter(tmp_path / "two.tif") as tif:
        tif.write(np.zeros((12, 9), np.uint8), metadata=None)
        tif.write(np.zeros((8, 9), np.uint8), metadata=None)
    with pytest.raises(BadFileError, match=r"holds 2 images"):
        read_image(tmp_path / "two.tif")


def test_tiff_alpha_white_is_zero_and_bits(tmp_path: Path) -> None:
    rgba = np.dstack([COLOUR, np.full((5, 7), 99, np.uint8)])
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), COLOUR)
    tifffile.imwrite(tmp_path / "w.tif", GREY, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "w.tif")[..., 0], 255 - GREY)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "w.tif")), 255 - GREY)
    write_tiff(tmp_path / "b.tif", GREY > 3)
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif")[..., 0], (GREY > 3) * 255)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_nan_and_inf_are_named(tmp_path: Path, value: float) -> None:
    data = np.ones((12, 9), np.float64)
    data[3, 4] = value
    tifffile.imwrite(tmp_path / "nan.tif", data)
    with pytest.raises(BadFileError, match=r"nan\.tif: 1 of 108 pixel values are NaN or Inf"):
        read_image(tmp_path / "nan.tif")


def test_constant_images_become_zero(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "even.tif", np.full((12, 9), 700, np.uint16))
    assert (read_image(tmp_path / "even.tif") == 0).all()


def test_default_percentiles_clip_hot_pixels() -> None:
    data = np.full((100, 100, 1), 50.0)
    data[:, 50:] = 150.0
    data[0, 0], data[0, 99] = -1e6, 1e6  # 1 of 10,000 each: beyond 0.1 %
    got = to_byte_range(data)
    assert got[5, 5, 0] == 0 and got[5, 80, 0] == 255 and got.min() == 0 and got.max() == 255


def test_few_bright_pixels_on_an_even_ground_survive() -> None:
    data = np.zeros((100, 100, 1), np.uint16)
    data[4, 4] = 9
    assert to_byte_range(data).max() == 255


@pytest.mark.parametrize("bad", [(1,), (5, 5), (90, 10), (-1, 50), (0, 101)])
def test_percentiles_are_checked(bad: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"INPUT.PERCENTILES"):
        to_byte_range(np.zeros((2, 2, 1)), bad)


FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(FLOATS, min_size=4, max_size=4),
    percentiles=st.sampled_from([(), (0, 100), (1, 99), (10, 20)]),
)
def test_any_finite_floats_end_in_the_byte_range(
    values: list[float], percentiles: tuple[float, ...]
) -> None:
    got = to_byte_range(np.array(values).reshape(2, 2, 1), percentiles)
    assert np.isfinite(got).all() and got.min() >= 0 and got.max() <= 255
    order = np.argsort(values)
    assert (np.diff(got.ravel()[order]) >= 0).all()


def save(folder: Path, suffix: str) -> Path:
    path = folder / f"image{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    if suffix == ".tif":
        tifffile.imwrite(path, noise, photometric="rgb")
    elif suffix == ".zip.tif":
        tifffile.imwrite(path, noise, photometric="rgb", compression="zlib", rowsperstrip=8)
    elif suffix == ".deep.png":
        path.write_bytes(deep_png(noise.astype(np.uint16) * 200))
    else:
        Image.fromarray(noise).save(path)
    return path


@pytest.mark.parametrize("suffix", [".png", ".deep.png", ".jpg", ".tif", ".zip.tif"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path, suffix)
    assert read_image(path).shape == (64, 64, 3)
    content = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(BadFileError, match=r"image.*truncated"):
            read_image(path)


@pytest.mark.parametrize("read", [read_image, image_size])
def test_missing_empty_and_foreign_files_are_named(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    with pytest.raises(BadFileError, match=r"gone\.png: does not exist"):
        read(tmp_path / "gone.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(BadFileError, match=r"empty\.png: is empty \(0 bytes\)"):
        read(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("this is no picture at all")
    with pytest.raises(BadFileError, match=r"text\.png: is not an image"):
        read(tmp_path / "text.png")
    (tmp_path / "broken.tif").write_bytes(b"II*\0\x08\0\0\0\xff\xff\xff")
    with pytest.raises(BadFileError, match=r"broken\.tif"):
        read(tmp_path / "broken.tif")
    with pytest.raises(BadFileError, match=r"cannot be opened"):
        read(tmp_path)


def test_animations_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(BadFileError, match="holds 2 frames"):
        read_image(tmp_path / "moving.gif")


def test_header_of_a_truncated_tiff_is_enough_to_tell(tmp_path: Path) -> None:
    path = save(tmp_path, ".tif")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(BadFileError, match=r"is truncated: its pixels reach to byte"):
        image_size(path)


@pytest.mark.parametrize("read", [read_image, image_size])
def test_postscript_is_never_handed_to_a_program(tmp_path, read):
    """Pillow decodes it through Ghostscript, whatever the file's name."""
    file = tmp_path / "cells.png"
    file.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with Image.open(file) as image:
        assert image.format == "EPS"
    with pytest.raises(BadFileError, match="is not an image"):
        read(file)
