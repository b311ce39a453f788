"""The default way from a record of a data set to a model's input."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..config import configurable
from . import detection_utils as utils
from . import transforms as T

__all__ = ["DatasetMapper"]

logger = logging.getLogger(__name__)


class DatasetMapper:
    """Read an image, augment it and its annotations, and make tensors and Instances of them.

    Args:
        is_train: whether annotations are wanted.
        augmentations: applied one after the other.
        image_format: see :func:`detection_utils.read_image`.
        use_instance_mask: keep segmentations.
        instance_mask_format: "polygon" or "bitmask".
        recompute_boxes: boxes from the masks, which after cropping may be smaller than the cropped
            boxes.

    Raises:
        ValueError: boxes are to be computed without masks.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        instance_mask_format: str = "polygon",
        recompute_boxes: bool = False,
    ) -> None:
        if recompute_boxes and not use_instance_mask:
            raise ValueError("recompute_boxes needs use_instance_mask")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        purpose = "training" if is_train else "inference"
        logger.info("augmentations in %s: %s", purpose, self.augmentations)

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """The constructor's arguments by ``cfg.INPUT`` and ``cfg.MODEL.MASK_ON``."""
        augmentations = utils.build_augmentation(cfg, is_train)
        crop = is_train and cfg.INPUT.CROP.ENABLED
        if crop:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "recompute_boxes": crop and cfg.MODEL.MASK_ON,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """A record with "image" (C, H, W) and, in training, "instances" without crowds and empty
        ones.
        """
        record = copy.deepcopy(dataset_dict)
        image = utils.read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(record, image)
        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        record["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        annotations = record.pop("annotations", None)
        if self.is_train and annotations is not None:
            record["instances"] = self._make_instances(annotations, transforms, image.shape[:2])
        return record

    def _make_instances(
        self, annotations: list[dict[str, Any]], transforms: T.Transform, size: tuple[int, int]
    ) -> Any:
        unused = {"keypoints"} if self.use_instance_mask else {"keypoints", "segmentation"}
        kept = [
            {key: value for key, value in annotation.items() if key not in unused}
            for annotation in annotations
            if not annotation.get("iscrowd", 0)
        ]
        moved = [utils.transform_instance_annotations(a, transforms, size) for a in kept]
        instances = utils.annotations_to_instances(moved, size, self.instance_mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)
