"""PNG and JPEG as planes: the pixels that read_image gives, in the file's own type."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from source_files import assert_parts_agree, noise, one, whole

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.readers import image_size, read_image
from iaunet_d2.inference.sources import open_planes


@pytest.mark.parametrize("shape", [(20, 33), (20, 33, 2), (20, 33, 3), (20, 33, 4), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_of_8_and_16_bits(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    array = noise(*shape, dtype=dtype)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(array))
    plane = one(tmp_path / "a.png")
    expected = array if array.ndim == 3 else array[..., None]
    colours = {1: 1, 2: 1, 3: 3, 4: 3}[expected.shape[2]]
    assert plane.dtype == dtype
    assert plane.name == "a.png"
    assert_parts_agree(plane, expected[..., :colours])
    last = expected.shape[2] - 1
    assert_parts_agree(one(tmp_path / "a.png", channels=(last, 0)), expected[..., [last, 0]])


def test_jpeg_and_its_orientation(tmp_path: Path) -> None:
    image = Image.fromarray(noise(20, 33, 3))
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        image.save(tmp_path / "a.jpg", exif=exif, dpi=(72, 72))
        plane = one(tmp_path / "a.jpg")
        assert plane.shape[:2] == ((33, 20) if orientation >= 5 else (20, 33))
        assert plane.pixel_size is None
        assert_parts_agree(plane, read_image(tmp_path / "a.jpg"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_announces_what_it_gives(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.fromarray(noise(20, 33)).convert("I;16" if mode == "I;16" else "RGB").convert(mode).save(
        tmp_path / f"a.{suffix}"
    )
    plane = one(tmp_path / f"a.{suffix}")
    # 8-bit files stay as they are in read_image; 16-bit ones it would stretch.
    if plane.dtype == np.uint8:
        assert_parts_agree(plane, read_image(tmp_path / f"a.{suffix}"))
    else:
        assert whole(plane).shape == (20, 33, 1)


def test_transparent_palette(tmp_path: Path) -> None:
    image = Image.fromarray(noise(20, 33)).convert("P")
    image.save(tmp_path / "a.png", transparency=3)
    plane = one(tmp_path / "a.png")
    assert plane.shape == (20, 33, 3)
    assert_parts_agree(plane, read_image(tmp_path / "a.png"))
    assert one(tmp_path / "a.png", channels=(3,)).shape == (20, 33, 1)


def test_an_image_is_decoded_when_it_is_first_read(tmp_path: Path) -> None:
    Image.fromarray(noise(200, 330)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    plane = one(tmp_path / "a.png")
    assert plane.shape == (200, 330, 1)
    with pytest.raises(BadFileError, match=r"a\.png: rows 0 to 4.* cannot be decoded"):
        plane.read(0, 0, 5, 5)


def test_given_pixel_size(tmp_path: Path) -> None:
    Image.fromarray(noise(20, 33)).save(tmp_path / "a.png", dpi=(25400, 25400))
    assert one(tmp_path / "a.png").pixel_size is None
    assert one(tmp_path / "a.png", pixel_size=0.5).pixel_size == (0.5, 0.5)
    assert one(tmp_path / "a.png", pixel_size=(0.5, 0.25)).pixel_size == (0.5, 0.25)
    for wrong in (0, -1, float("nan"), float("inf"), (1, 2, 3), "wide"):
        with pytest.raises(ValueError, match="one or two positive numbers"):
            open_planes(tmp_path / "a.png", pixel_size=wrong)  # type: ignore[arg-type]


def test_axes_of_a_png(tmp_path: Path) -> None:
    array = noise(20, 33, 3)
    Image.fromarray(array).save(tmp_path / "a.png")
    assert_parts_agree(one(tmp_path / "a.png", axes="YXC"), array)
    with pytest.raises(BadFileError, match=r"has 3 dimensions.*name 2"):
        open_planes(tmp_path / "a.png", axes="YX")


def test_real_images(shared_data: Path) -> None:
    files = sorted(shared_data.glob("*/images/*"))
    by_folder = {file.parent: file for file in files}
    assert by_folder
    for file in by_folder.values():
        plane = one(file)
        assert plane.shape[:2] == image_size(file)
        expected = read_image(file)
        if plane.dtype == np.uint8:
            np.testing.assert_array_equal(whole(plane), expected)
        else:
            assert whole(plane).shape == expected.shape


def test_colours_never_become_an_axis_of_the_image(tmp_path: Path) -> None:
    Image.fromarray(noise(20, 33, 3)).save(tmp_path / "rgb.png")
    for axes in ("ZYX", "CYX"):
        with pytest.raises(BadFileError, match=rf"rgb\.png: .* samples of colour .*'{axes}'"):
            open_planes(tmp_path / "rgb.png", axes=axes)
    assert one(tmp_path / "rgb.png", axes="YXS").shape == (20, 33, 3)
    assert one(tmp_path / "rgb.png", axes="YXC").shape == (20, 33, 3)
