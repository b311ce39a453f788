"""Label images of every depth and in layers; beside the images and in a folder of their own."""

import numpy as np
import pytest
import tifffile
from import_scenes import SIZE, assert_same, scene
from PIL import Image

from iaunet_d2.data.errors import BadFileError

NAMES = [n for n in scene() if n != "over the ring"]  # one layer cannot hold what overlaps


def labels(dtype=np.uint16, step=1):
    image = np.zeros(SIZE, dtype)
    for number, name in enumerate(NAMES, 1):
        image[scene()[name]] = number * step
    return image


def expected():
    return [scene()[name] for name in NAMES]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "float32", "float64"])
def test_tiff_of_every_depth(folders, run_import, dtype):
    folders.image("a.png")
    step = 400_000 if dtype in ("uint32", "int32") else 1
    tifffile.imwrite(folders.annotations / "a.tif", labels(dtype, step))
    found = run_import("label-image")
    assert_same(found.masks["a.png"], expected())
    assert found.report.instances == {"cell": len(NAMES)}
    assert found.report.findings == {}


@pytest.mark.parametrize(
    ("ending", "dtype"), [("png", np.uint8), ("png", np.uint16), ("bmp", np.uint8)]
)
def test_png_and_bmp(folders, run_import, ending, dtype):
    folders.image("a.png")
    Image.fromarray(labels(dtype)).save(folders.annotations / f"a.{ending}")
    assert_same(run_import("label-image").masks["a.png"], expected())


def test_a_palette_shows_the_numbers(folders, run_import):
    folders.image("a.tif")
    palette = Image.fromarray(labels(np.uint8)).convert("P")
    palette.putdata(labels(np.uint8).ravel().tolist())
    palette.putpalette([(37 * k) % 256 for k in range(768)])
    palette.save(folders.annotations / "a_mask.png")
    assert_same(run_import("label-image").masks["a.tif"], expected())


def test_numpy_files(folders, run_import):
    folders.image("a.png")
    np.save(folders.annotations / "a.npy", labels(np.int64))
    assert_same(run_import("label-image").masks["a.png"], expected())


def test_layers_keep_overlaps(folders, run_import):
    folders.image("a.png")
    stack = np.stack([labels(), scene()["over the ring"].astype(np.uint16)])
    tifffile.imwrite(folders.annotations / "a.tif", stack, photometric="minisblack")
    found = run_import("label-image")
    assert_same(found.masks["a.png"], [*expected(), scene()["over the ring"]])
    assert found.told("several layers") == 1


@pytest.mark.parametrize("axes", ["ZYX", "CYX", "TYX"])
def test_layers_under_any_axis_of_imagej(folders, run_import, axes):
    folders.image("a.png")
    stack = np.stack([scene()[n].astype(np.uint8) for n in ("ring", "over the ring")])
    tifffile.imwrite(folders.annotations / "a.tif", stack, imagej=True, metadata={"axes": axes})
    masks = run_import("label-image").masks["a.png"]
    assert_same(masks, [scene()["ring"], scene()["over the ring"]])


def test_cellpose_files_beside_the_images(folders, run_import):
    for name in ("a", "b_mask"):  # an image whose own name ends like a label image's
        folders.image(f"{name}.tif")
        Image.fromarray(labels()).save(folders.images / f"{name}_cp_masks.png")
    folders.image("c.tif")
    np.save(folders.images / "a_seg.npy", np.array({"masks": 1}, dtype=object))
    found = run_import("label-image", annotations=folders.images, class_name="worm")
    assert sorted(found.masks) == ["a.tif", "b_mask.tif"]
    assert_same(found.masks["b_mask.tif"], expected())
    assert found.report.instances == {"worm": 2 * len(NAMES)}
    assert found.told("_seg.npy") == 1 and found.told("no annotation file") == 1


def test_label_images_in_a_folder_inside_the_images(folders, run_import):
    folders.image("a.png")
    folders.image("sub/a.png")
    for name in ("masks/a.png", "masks/sub/a.png"):
        (folders.images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels()).save(folders.images / name)
    found = run_import("label-image", annotations=folders.images / "masks", recursive=True)
    assert list(found.masks) == ["a.png", "sub/a.png"]


def test_a_suffix_of_ones_own(folders, run_import):
    folders.image("a.png")
    Image.fromarray(labels()).save(folders.images / "a_gt.png")
    found = run_import("label-image", annotations=folders.images, suffix="_gt")
    assert_same(found.masks["a.png"], expected())


def test_ome_tiff_names(folders, run_import):
    folders.image("a.png").rename(folders.images / "a.ome.tif")
    tifffile.imwrite(folders.images / "a.ome.tif", np.zeros(SIZE, np.uint8))
    tifffile.imwrite(folders.annotations / "a_labels.ome.tif", labels())
    assert_same(run_import("label-image").masks["a.ome.tif"], expected())


def test_an_empty_label_image_is_an_image_without_objects(folders, run_import):
    folders.image("a.png")
    tifffile.imwrite(folders.annotations / "a.tif", np.zeros(SIZE, np.uint8))
    found = run_import("label-image")
    assert found.masks == {"a.png": []} and found.report.empty == 1
    assert found.told("hold no object") == 1 and found.report.instances == {"cell": 0}


def test_a_label_image_without_background(folders, run_import):
    folders.image("a.png")
    left = np.zeros(SIZE, bool)
    left[:, :20] = True
    Image.fromarray(np.where(left, 3, 7).astype(np.uint8)).save(folders.annotations / "a.png")
    assert_same(run_import("label-image").masks["a.png"], [left, ~left])


def test_a_foreground_mask_is_told(folders, run_import):
    folders.image("a.png")
    Image.fromarray((labels() > 0).astype(np.uint8) * 255).save(folders.annotations / "a.png")
    found = run_import("label-image")
    assert len(found.masks["a.png"]) == 1 and found.told("foreground mask") == 1


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (labels(np.float32) / 2, "no whole numbers"),
        (np.full(SIZE, np.nan, np.float32), "no whole numbers"),
        (labels(np.float64) * 1e18, "2\\*\\*53"),
        (-labels(np.int16), "negative values"),
        (labels(np.complex64), "complex64"),
        (labels().T.copy(), "37x53 .*has 53x37"),
    ],
)
def test_values_that_are_no_labels(folders, run_import, pixels, told):
    folders.image("a.png")
    tifffile.imwrite(folders.annotations / "a.tif", pixels)
    with pytest.raises(BadFileError, match=told) as error:
        run_import("label-image")
    assert "a.tif" in str(error.value)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_colour_pictures_say_what_to_do(folders, run_import, ending):
    folders.image("a.png")
    Image.new("RGB", SIZE[::-1]).save(folders.annotations / f"a.{ending}")
    with pytest.raises(BadFileError, match=r"colour picture.*16-bit"):
        run_import("label-image")


@pytest.mark.parametrize("ending", ["png", "tif", "npy"])
def test_damaged_files(folders, run_import, ending):
    folders.image("a.png")
    path = folders.annotations / f"a.{ending}"
    if ending == "npy":
        np.save(path, labels())
    else:
        Image.fromarray(labels()).save(path)
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(BadFileError, match=rf"a\.{ending}"):
        run_import("label-image")
    assert not (folders.root / "out.json").exists()


def test_numpy_objects_are_refused(folders, run_import):
    folders.image("a.png")
    np.save(folders.annotations / "a.npy", np.array({"masks": 1}, dtype=object))
    with pytest.raises(BadFileError, match="array of numbers"):
        run_import("label-image")


def test_names_that_do_not_go_together(folders, run_import):
    folders.image("a.png")
    Image.fromarray(labels()).save(folders.annotations / "b.png")
    with pytest.raises(BadFileError, match=r"b\.png: there is no image"):
        run_import("label-image")
    Image.fromarray(labels()).save(folders.annotations / "a.png")
    with pytest.raises(BadFileError, match="--allow-missing"):
        run_import("label-image")
    found = run_import("label-image", allow_missing=True)
    assert list(found.masks) == ["a.png"] and found.told("have no image") == 1
    Image.fromarray(labels()).save(folders.annotations / "a_mask.png")
    with pytest.raises(BadFileError, match=r"a\.png and .*a_mask\.png both"):
        run_import("label-image", allow_missing=True)


def test_two_images_of_one_name(folders, run_import):
    folders.image("a.png")
    folders.image("a.tif")
    Image.fromarray(labels()).save(folders.annotations / "a.png")
    with pytest.raises(BadFileError, match=r"a\.tif"):
        run_import("label-image")


def test_numbers_with_wide_gaps(folders, run_import):
    folders.image("a.png")
    pixels = labels(np.uint32)
    pixels[pixels > 0] += np.uint32(4_000_000_000)
    tifffile.imwrite(folders.annotations / "a.tif", pixels)
    assert_same(run_import("label-image").masks["a.png"], expected())
    tifffile.imwrite(folders.annotations / "a.tif", np.maximum(pixels, 3_999_999_999))
    masks = run_import("label-image").masks["a.png"]
    assert_same(masks, [pixels == 0, *expected()])
