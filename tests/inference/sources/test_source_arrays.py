"""Arrays given in Python as planes."""

from typing import Any

import numpy as np
import pytest
from source_files import assert_parts_agree, noise, whole

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.inference.sources import array_planes, check_axes


@pytest.mark.parametrize(
    "dtype",
    ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f2", "f4", "f8", ">u2", ">f4"],
)
def test_grey_and_colour(dtype: str) -> None:
    for shape in [(20, 33), (20, 33, 1), (20, 33, 3), (20, 33, 4)]:
        array = noise(*shape, dtype=np.dtype(dtype).newbyteorder("=")).astype(dtype)
        (plane,) = array_planes(array)
        assert plane.name == "image"
        assert plane.pixel_size is None
        assert_parts_agree(plane, array if array.ndim == 3 else array[..., None])


def test_bool_becomes_0_and_255() -> None:
    array = noise(20, 33, dtype=bool)
    (plane,) = array_planes(array)
    assert_parts_agree(plane, array[..., None] * np.uint8(255))


@pytest.mark.parametrize("shape", [(20, 33, 5), (3, 20, 33), (2, 3, 20, 33), (7,), ()])
def test_what_could_be_a_stack_asks_for_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadFileError, match=r'scan: is an array of .*axes="ZYX"'):
        array_planes(np.zeros(shape, np.uint8), name="scan")


def test_named_axes() -> None:
    array = noise(2, 3, 20, 33)
    planes = array_planes(array, axes="tcyx", name="scan", pixel_size=(2, 1))
    assert [p.name for p in planes] == ["scan [t=0]", "scan [t=1]"]
    assert planes[0].pixel_size == (2, 1)
    assert_parts_agree(planes[1], np.moveaxis(array[1], 0, 2))
    planes = array_planes(array, axes="CZYX", channels=(1,))
    assert [p.name for p in planes] == [f"image [z={z}]" for z in range(3)]
    assert_parts_agree(planes[2], array[1, 2, ..., None])
    (plane,) = array_planes(noise(20, 33, 9), axes="YXC")
    assert plane.shape == (20, 33, 9)


def test_samples_of_several_channels_count_through() -> None:
    array = noise(2, 20, 33, 3)
    (plane,) = array_planes(array, axes="CYXS")
    assert_parts_agree(plane, np.concatenate([array[0], array[1]], axis=2))
    (plane,) = array_planes(array, axes="CYXS", channels=(5, 3, 4))
    assert_parts_agree(plane, array[1][..., [2, 0, 1]])
    (plane,) = array_planes(array, axes="CYXS", channels=(4, 1))
    assert_parts_agree(plane, np.stack([array[1, ..., 1], array[0, ..., 1]], axis=2))


@pytest.mark.parametrize("axes", ["ZZYX", "ZX", "QYX", "rows", "Y X"])
def test_axes_that_cannot_be_read(axes: str) -> None:
    with pytest.raises(ValueError, match=r"one letter per dimension.*ZYX"):
        check_axes(axes)
    with pytest.raises(ValueError, match="one letter per dimension"):
        array_planes(noise(3, 20, 33), axes=axes)


def test_axes_that_do_not_fit() -> None:
    with pytest.raises(BadFileError, match=r"has 3 dimensions \(3 x 20 x 33\).*name 4"):
        array_planes(noise(3, 20, 33), axes="TZYX")


def test_too_many_channels() -> None:
    array = noise(65, 20, 33)
    with pytest.raises(BadFileError, match=r"has 65 channels.*at most 64.*--channels"):
        array_planes(array, axes="CYX")
    (plane,) = array_planes(array, axes="CYX", channels=(64,))
    assert_parts_agree(plane, array[64][..., None])
    assert array_planes(array[:64], axes="CYX")[0].shape[2] == 64


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5), complex), "complex128.*magnitude"),
        (np.array([["a", "b"]]), "not real numbers"),
        (np.array([[None]]), "not real numbers"),
        (np.zeros((0, 5)), r"no pixels \(0 x 5\)"),
        (np.zeros((5, 0)), "no pixels"),
        (np.zeros((5, 5, 0)), "no pixels"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, message: str) -> None:
    with pytest.raises(BadFileError, match=message):
        array_planes(array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_no_number_is_located(value: float) -> None:
    array = np.zeros((2, 20, 33, 2))
    array[1, 17, 30, 1] = value
    planes = array_planes(array, axes="ZYXC")
    whole(planes[0])
    planes[1].read(0, 0, 17, 33)
    with pytest.raises(BadFileError, match=r"image \[z=1\]: .*at row 17, column 30 of channel 1"):
        planes[1].read(10, 10, 10, 23)
    whole(array_planes(array, axes="ZYXC", channels=(0,))[1])


def test_rectangles_beyond_the_plane() -> None:
    (plane,) = array_planes(noise(20, 33))
    for rectangle in [(0, 0, 21, 1), (0, 30, 1, 4), (-1, 0, 1, 1), (0, 0, -1, 1)]:
        with pytest.raises(ValueError, match="not all inside its 20 x 33 pixels"):
            plane.read(*rectangle)


def test_a_mapped_array_is_read_in_parts(tmp_path: Any) -> None:
    mapped = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (3, 200, 300))
    mapped[2, 100:110] = 5
    plane = array_planes(mapped, axes="ZYX")[2]
    assert plane.read(100, 0, 10, 300).sum() == 5 * 10 * 300
