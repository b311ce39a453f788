"""Helpers of a mapper: read an image, transform annotations, make Instances of them."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image, ImageOps

from .. import LeftOutError
from ..structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, polygons_to_bitmask
from ..utils.file_io import PathManager
from . import transforms as T
from .catalog import MetadataCatalog

__all__ = [
    "SizeMismatchError",
    "annotations_to_instances",
    "build_augmentation",
    "check_image_size",
    "check_metadata_consistency",
    "convert_PIL_to_numpy",
    "filter_empty_instances",
    "read_image",
    "transform_instance_annotations",
]

logger = logging.getLogger(__name__)

Annotation = dict[str, Any]


class SizeMismatchError(ValueError):
    """An image is not of the size that its annotations state."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:  # noqa: A002
    """A Pillow image as an array (H, W, C) in ``format``: a Pillow mode, "BGR", or None for what it
    is.
    """
    if format is not None:
        image = image.convert("RGB" if format == "BGR" else format)
    # A copy, because what Pillow lends is read-only.
    pixels = np.array(image)
    if format == "BGR":
        return pixels[:, :, ::-1]
    return pixels[:, :, None] if format == "L" else pixels


def read_image(file_name: str, format: str | None = None) -> np.ndarray:  # noqa: A002
    """Read an image the way up that its EXIF data say.

    Args:
        file_name: path of any file that Pillow reads.
        format: "RGB", "BGR", "L" or another Pillow mode; None for the file's own.

    Returns:
        (H, W, C), or (H, W) for a grey file read with ``format`` None.
    """
    with PathManager.open(file_name, "rb") as stream:
        return convert_PIL_to_numpy(ImageOps.exif_transpose(Image.open(stream)), format)


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Compare an image (H, W, ...) with its record, and note its size where the record has none.

    Raises:
        SizeMismatchError: they differ.
    """
    height, width = image.shape[:2]
    stated = (dataset_dict.get("width", width), dataset_dict.get("height", height))
    if stated != (width, height):
        raise SizeMismatchError(
            f"image {dataset_dict.get('file_name', '')} is {width} x {height} (width x height), "
            f"its annotations say {stated[0]} x {stated[1]}; correct width and height there"
        )
    dataset_dict.setdefault("width", width)
    dataset_dict.setdefault("height", height)


def transform_instance_annotations(
    annotation: Annotation,
    transforms: T.Transform | Sequence[T.Transform],
    image_size: tuple[int, int],
) -> Annotation:
    """Carry one instance's box and segmentation through ``transforms``, in place.

    Args:
        annotation: "bbox" with "bbox_mode", and where there is one a "segmentation": polygons or
            RLE.
        transforms: what was done to the image.
        image_size: (height, width) of the transformed image; boxes are clipped to it.

    Returns:
        the annotation, its box as x1, y1, x2, y2, an RLE as a mask (H, W).

    Raises:
        ValueError: a segmentation of another kind, or a mask that comes out in another size.
        LeftOutError: the annotation has keypoints.
    """
    if not isinstance(transforms, T.Transform):
        transforms = T.TransformList(transforms)
    if "keypoints" in annotation:
        raise LeftOutError("detectron2.structures.Keypoints", "an annotation with keypoints")
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    height, width = image_size
    limits = [width, height, width, height]
    annotation["bbox"] = np.clip(transforms.apply_box(np.array([box]))[0], 0, limits)
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_segmentation(
            annotation["segmentation"], transforms, image_size
        )
    return annotation


def _transform_segmentation(
    segmentation: Any, transforms: T.Transform, image_size: tuple[int, int]
) -> np.ndarray | list[np.ndarray]:
    if isinstance(segmentation, list):
        points = [np.asarray(polygon).reshape(-1, 2) for polygon in segmentation]
        return [polygon.reshape(-1) for polygon in transforms.apply_polygons(points)]
    if not isinstance(segmentation, dict):
        raise ValueError(
            f"a segmentation is polygons or an RLE dict, got {type(segmentation).__name__}"
        )
    mask = transforms.apply_segmentation(mask_util.decode(segmentation))
    if mask.shape[:2] != tuple(image_size):
        raise ValueError(f"an RLE mask came out as {mask.shape[:2]}, its image as {image_size}")
    return mask


def annotations_to_instances(
    annos: list[Annotation], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Annotations of one image as ground truth for a model.

    Args:
        annos: transformed annotations.
        image_size: (height, width).
        mask_format: "polygon" or "bitmask".

    Returns:
        Instances with gt_boxes, gt_classes and, where the first annotation has a segmentation,
        gt_masks.

    Raises:
        ValueError: another mask format, or segmentations that cannot be brought into it.
    """
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos]
    target = Instances(image_size)
    target.gt_boxes = Boxes(np.stack(boxes) if boxes else np.zeros((0, 4)))
    classes = [int(annotation["category_id"]) for annotation in annos]
    target.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if annos and "segmentation" in annos[0]:
        segmentations = [annotation["segmentation"] for annotation in annos]
        target.gt_masks = _make_masks(segmentations, image_size, mask_format)
    return target


def _make_masks(
    segmentations: list[Any], image_size: tuple[int, int], mask_format: str
) -> BitMasks | PolygonMasks:
    if mask_format == "bitmask":
        masks = [_rasterize(segmentation, image_size) for segmentation in segmentations]
        return BitMasks(torch.from_numpy(np.stack(masks)))
    if mask_format != "polygon":
        raise ValueError(f'mask_format is "polygon" or "bitmask", got {mask_format!r}')
    if not all(isinstance(segmentation, list) for segmentation in segmentations):
        raise ValueError(
            "some segmentations are RLE or masks, which cannot be polygons; "
            'set INPUT.MASK_FORMAT to "bitmask"'
        )
    return PolygonMasks(segmentations)


def _rasterize(segmentation: Any, image_size: tuple[int, int]) -> np.ndarray:
    """One segmentation, of any kind, as a mask (H, W)."""
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, *image_size)
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation)
    if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2:
        return segmentation
    found = getattr(segmentation, "shape", type(segmentation).__name__)
    raise ValueError(f"a segmentation is polygons, an RLE dict or a mask (H, W), got {found}")


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """Leave out instances without a box or without a mask.

    Args:
        instances: ground truth of one image.
        by_box: leave out those with a box side of at most ``box_threshold`` pixels.
        by_mask: leave out those with an empty mask.
        box_threshold: pixels.
        return_mask: also give which were kept, (N,) bool.

    Raises:
        ValueError: neither of the two is asked for.
    """
    if not (by_box or by_mask):
        raise ValueError("filter_empty_instances needs by_box or by_mask")
    keep = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        keep = keep & instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        keep = keep & instances.gt_masks.nonempty()
    kept = instances[keep]
    return (kept, keep) if return_mask else kept


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """Make sure that several data sets agree on one piece of metadata.

    Raises:
        AttributeError: one of them lacks it.
        ValueError: they differ.
    """
    values = {name: getattr(MetadataCatalog.get(name), key) for name in dataset_names}
    for name, value in values.items():
        if value != values[dataset_names[0]]:
            raise ValueError(
                f"data sets {dataset_names[0]!r} and {name!r} differ in {key!r}: "
                f"{values[dataset_names[0]]} and {value}"
            )


def build_augmentation(cfg: Any, is_train: bool) -> list[T.Augmentation | T.Transform]:
    """The resizing and, in training, the flipping that ``cfg.INPUT`` asks for."""
    if not is_train:
        return [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    steps: list[T.Augmentation | T.Transform] = [
        T.ResizeShortestEdge(
            cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
        )
    ]
    flip = cfg.INPUT.RANDOM_FLIP
    if flip != "none":
        steps.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    return steps
