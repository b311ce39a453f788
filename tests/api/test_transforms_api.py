"""Images, annotations and transforms in Detectron2's API: hand-worked numbers."""

from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import detection_utils as utils
from detectron2.structures import BoxMode
from PIL import Image, ImageOps

# pycocotools' own with numpy 2, and Detectron2's own.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning"),
]

# Detectron2 asserts where the stand-in raises something that tells more.
REFUSED = (AssertionError, ValueError, TypeError)


# Images and annotations


def test_read_image_formats_and_orientation(tmp_path: Path) -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert np.array_equal(utils.read_image(str(tmp_path / "x.png"), "RGB"), pixels)
    assert np.array_equal(utils.read_image(str(tmp_path / "x.png"), "BGR"), pixels[:, :, ::-1])
    assert utils.read_image(str(tmp_path / "x.png"), "L").shape == (4, 6, 1)
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    turned = utils.read_image(str(tmp_path / "turned.png"), "RGB")
    assert np.array_equal(turned, np.rot90(pixels, k=-1))


def test_check_image_size() -> None:
    record: dict[str, Any] = {}
    utils.check_image_size(record, np.zeros((3, 5, 1)))
    assert record == {"width": 5, "height": 3}
    with pytest.raises(utils.SizeMismatchError, match=r"x\.png"):
        utils.check_image_size({"file_name": "x.png", "width": 3, "height": 5}, np.zeros((3, 5)))


def test_transform_instance_annotations_clips_boxes_and_flips_masks() -> None:
    mask = np.zeros((4, 6), dtype=np.uint8)
    mask[1, 0] = 1
    item = {
        "bbox": [-1.0, 0.0, 4.0, 9.0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "segmentation": mask_util.encode(np.asfortranarray(mask)),
    }
    moved = utils.transform_instance_annotations(item, [T.HFlipTransform(6)], (4, 6))
    assert moved["bbox"].tolist() == [3, 0, 6, 4]
    assert moved["bbox_mode"] == BoxMode.XYXY_ABS
    assert np.argwhere(moved["segmentation"]).tolist() == [[1, 5]]


def test_annotations_to_instances_keeps_overlaps() -> None:
    masks = np.zeros((2, 4, 5), dtype=np.uint8)
    masks[0, :2], masks[1, 1:] = 1, 1
    items = [
        {"bbox": [0, 0, 5, 2], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "segmentation": m}
        for m in masks
    ]
    made = utils.annotations_to_instances(items, (4, 5), mask_format="bitmask")
    assert made.gt_masks.tensor.sum((1, 2)).tolist() == [10, 15]
    assert made.gt_classes.tolist() == [1, 1] and made.gt_classes.dtype == torch.int64
    with pytest.raises(ValueError):
        utils.annotations_to_instances(items, (4, 5), mask_format="polygon")


@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
def test_annotations_to_instances_of_nothing(mask_format: str) -> None:
    made = utils.annotations_to_instances([], (4, 5), mask_format)
    assert len(made) == 0 and made.gt_boxes.tensor.shape == (0, 4)
    assert len(utils.filter_empty_instances(made)) == 0


def test_filter_empty_instances() -> None:
    masks = [np.ones((4, 4)), np.zeros((4, 4)), np.ones((4, 4))]
    boxes = [[0, 0, 4, 4], [0, 0, 4, 4], [1, 1, 1, 3]]
    items = [
        {"bbox": b, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "segmentation": m}
        for b, m in zip(boxes, masks, strict=True)
    ]
    made = utils.annotations_to_instances(items, (4, 4), "bitmask")
    kept, which = utils.filter_empty_instances(made, return_mask=True)
    assert which.tolist() == [True, False, False] and len(kept) == 1
    assert len(utils.filter_empty_instances(made, by_box=False)) == 2


# Transforms


@pytest.mark.parametrize(
    ("size", "edge", "longest", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((480, 640), 800, 1000, (750, 1000)),
        ((640, 480), 240, 9999, (320, 240)),
        ((100, 100), 51, 9999, (51, 51)),
        ((1, 1000), 10, 500, (1, 500)),
    ],
)
def test_resize_shortest_edge_shape(size: Any, edge: int, longest: int, expected: Any) -> None:
    assert T.ResizeShortestEdge.get_output_shape(*size, edge, longest) == expected
    transform = T.ResizeShortestEdge(edge, longest).get_transform(np.zeros((*size, 3)))
    assert (transform.new_h, transform.new_w) == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_resize_transform(dtype: Any, channels: tuple[int, ...]) -> None:
    transform = T.ResizeTransform(2, 4, 4, 8)
    image = np.tile(np.arange(4, dtype=dtype)[:, None] * 10, (2, 1, 1)).reshape(2, 4, 1)
    image = np.broadcast_to(image, (2, 4, *channels)) if channels else image[:, :, 0]
    out = transform.apply_image(image.copy())
    assert out.shape == (4, 8, *channels) and out.dtype == dtype
    row = out.reshape(4, 8, -1)[0, :, 0]
    assert np.allclose(row, [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30], atol=0.51)
    coords = transform.apply_coords(np.array([[1.0, 1.0], [4.0, 2.0]]))
    assert coords.tolist() == [[2, 2], [8, 4]]
    labels = transform.apply_segmentation(np.array([[1, 1, 2, 2], [3, 3, 4, 4]], dtype=np.uint8))
    assert set(np.unique(labels)) == {1, 2, 3, 4}
    assert (transform.inverse().new_h, transform.inverse().new_w) == (2, 4)
    with pytest.raises(REFUSED):
        transform.apply_image(np.zeros((3, 3), dtype=dtype))


def test_augmentation_list_moves_image_boxes_and_labels_alike() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    inputs = T.AugInput(image, boxes=np.array([[0.0, 0.0, 2.0, 1.0]]), sem_seg=image.copy())
    steps = [T.RandomFlip(1.0), T.CropTransform(1, 0, 5, 4), T.RandomFlip(0.0)]
    transforms = T.AugmentationList(steps)(inputs)
    assert np.array_equal(inputs.image, image[:, ::-1][:, 1:])
    assert np.array_equal(inputs.sem_seg, inputs.image)
    assert inputs.boxes.tolist() == [[3, 0, 5, 1]]
    assert np.array_equal(transforms.apply_image(image), inputs.image)
    assert len(transforms) == 3


@pytest.mark.parametrize("prob", [-0.01, 1.01])
def test_random_apply_wants_a_probability(prob: float) -> None:
    with pytest.raises(AssertionError):
        T.RandomApply(T.NoOpTransform(), prob=prob)


def test_color_transforms_change_the_image_alone() -> None:
    image = np.array([[[0, 100, 200], [255, 1, 2]]], dtype=np.uint8)
    points = np.array([[1.0, 2.0]])
    by_array = T.ColorTransform(lambda x: 255 - x)
    by_pillow = T.PILColorTransform(ImageOps.invert)
    for transform in (by_array, by_pillow):
        assert transform.apply_image(image).tolist() == [[[255, 155, 55], [0, 254, 253]]]
        assert np.array_equal(transform.apply_segmentation(image[..., 0]), image[..., 0])
        assert transform.apply_coords(points).tolist() == [[1, 2]]
        assert isinstance(transform.inverse(), T.NoOpTransform)
    with pytest.raises(ValueError):
        T.ColorTransform(3)


def test_random_flip_is_horizontal_or_vertical() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    flip = T.RandomFlip(1.0, horizontal=False, vertical=True)
    assert np.array_equal(flip.get_transform(image).apply_image(image), image[::-1])
    for both in (True, False):
        with pytest.raises(ValueError):
            T.RandomFlip(horizontal=both, vertical=both)


def test_fixed_size_crop_pads_at_the_right_and_below() -> None:
    image = np.ones((3, 8), dtype=np.uint8)
    crop = T.FixedSizeCrop((5, 6), pad_value=7, seg_pad_value=9)
    transform = crop.get_transform(image)
    out = transform.apply_image(image)
    assert out.shape == (5, 6) and (out[:3] == 1).all() and (out[3:] == 7).all()
    assert (transform.apply_segmentation(image)[3:] == 9).all()
    assert T.FixedSizeCrop((5, 6), pad=False).get_transform(image).apply_image(image).shape == (
        3,
        6,
    )


@pytest.mark.parametrize(
    ("kind", "size", "low", "high"),
    [
        ("relative", (0.5, 0.25), (5, 5), (5, 5)),
        ("relative_range", (0.5, 0.25), (5, 5), (10, 20)),
        ("absolute", (4, 30), (4, 20), (4, 20)),
        ("absolute_range", (3, 6), (3, 3), (6, 6)),
    ],
)
def test_random_crop_sizes(kind: str, size: Any, low: Any, high: Any) -> None:
    np.random.seed(0)
    image = np.arange(200).reshape(10, 20).astype(np.uint8)
    for _ in range(20):
        out = T.RandomCrop(kind, size).get_transform(image).apply_image(image)
        assert all(a <= s <= b for a, s, b in zip(low, out.shape, high, strict=True))
    with pytest.raises(REFUSED):
        T.RandomCrop("other", size)


def test_resize_scale_fits_into_the_scaled_box() -> None:
    transform = T.ResizeScale(0.5, 0.5, 64, 100).get_transform(np.zeros((40, 80, 3)))
    assert (transform.new_h, transform.new_w) == (25, 50)  # box 32 x 50: width limits, 50 / 80
    assert T.Resize(7).get_transform(np.zeros((4, 4))).new_w == 7


def test_brightness_and_contrast() -> None:
    image = np.array([[10.0, 30.0]], dtype=np.float32)
    bright = T.RandomBrightness(2.0, 2.0).get_transform(image).apply_image(image.copy())
    contrast = T.RandomContrast(0.5, 0.5).get_transform(image).apply_image(image.copy())
    assert np.allclose(bright, [[20, 60]]) and np.allclose(contrast, [[15, 25]])


def test_random_apply() -> None:
    image = np.arange(3, dtype=np.uint8)[None]
    for probability, expected in ((0.0, [0, 1, 2]), (1.0, [2, 1, 0])):
        inputs = T.AugInput(image)
        T.RandomApply(T.HFlipTransform(3), probability)(inputs)
        assert inputs.image[0].tolist() == expected


class CropToBoxes(T.Augmentation):
    """A project's own augmentation: it names what it looks at."""

    def __init__(self, margin: int = 0) -> None:
        self._init(locals())

    def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> T.Transform:
        x0, y0 = boxes[:, :2].min(0).astype(int) - self.margin
        return T.CropTransform(x0, y0, image.shape[1] - x0, image.shape[0] - y0)


def test_own_augmentation_gets_the_inputs_that_it_names() -> None:
    inputs = T.AugInput(np.zeros((9, 9)), boxes=np.array([[3.0, 4.0, 6.0, 6.0]]))
    CropToBoxes(margin=1)(inputs)
    assert inputs.image.shape == (6, 7) and inputs.boxes.tolist() == [[1, 1, 4, 3]]
    assert repr(CropToBoxes(margin=1)) == "CropToBoxes(margin=1)"
    with pytest.raises(AttributeError, match="boxes"):
        CropToBoxes()(type("Bare", (), {"image": np.zeros((9, 9))})())
