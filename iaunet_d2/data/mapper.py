"""From a data-set dict to a batch entry: read, augment, crop, then rasterise what is left."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances

from ..networks import DENSE_TARGETS, DenseTarget, dense_target, seed_target
from .augmentation import (
    ManyChannelInput,
    inference_augmentations,
    numpy_randomness,
    train_augmentations,
)
from .checks import check_size
from .coco_json import CROWD_CHOICES
from .errors import BadFileError
from .rasterise import pasted, patches_in_frame
from .readers import read_image


class IAUNetDatasetMapper:
    """Maps Detectron2's standard data-set dict to a batch entry.

    The entry holds ``image`` (C, H, W) ``uint8``, ``file_name``, ``image_id``, ``height`` and
    ``width`` of the file, and with ``keep_instances`` ``instances``: ``gt_boxes`` (from the masks),
    ``gt_classes`` and ``gt_masks`` (``BitMasks``, one per instance, so overlaps survive); with
    ``dense_targets`` also ``dense_target``
    (:class:`~iaunet_d2.networks.dense_targets.DenseTarget`), so that the loader's workers make it.

    In training, the augmentation depends on (``seed``, the dict's ``position``) alone; on NumPy's
    global state where the dict has no position, as in Detectron2's own mapper. Outside training it
    draws nothing from the global state.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation],
        num_channels: int,
        keep_instances: bool,
        image_format: str = "RGB",
        channels: Sequence[int] = (),
        percentiles: Sequence[float] = (),
        crowd: str = "instance",
        min_instance_area: int = 1,
        seed: int = 0,
        dense_targets: str = "none",
        num_classes: int = 1,
        seed_places: int | None = None,
    ) -> None:
        """
        Args:
            is_train: whether the augmentation is random.
            augmentations: Detectron2 augmentations, applied in order.
            num_channels: channels that the model takes; a grey file is repeated to 3.
            keep_instances: add ``instances``.
            image_format: ``"BGR"`` exchanges the first and the last of 3 channels.
            channels: see :func:`iaunet_d2.data.readers.read_image`.
            percentiles: see :func:`iaunet_d2.data.readers.read_image`.
            crowd: whether annotations with ``iscrowd=1`` are instances: ``"instance"`` or
                ``"ignore"``.
            min_instance_area: instances with fewer pixels in the result are dropped.
            seed: of the augmentation.
            dense_targets: what ``dense_target`` of an entry holds: a key of
                :data:`~iaunet_d2.networks.dense_targets.DENSE_TARGETS`, or "none" for no such
                entry.
            num_classes: of ``dense_target``.
            seed_places: places per instance in ``seed_target``; None for no such entry.
        """
        if dense_targets not in ("none", *DENSE_TARGETS):
            raise ValueError(
                f"INPUT.DENSE_TARGETS {dense_targets!r} must be one of {('none', *DENSE_TARGETS)}"
            )
        if crowd not in CROWD_CHOICES:
            raise ValueError(f"INPUT.CROWD {crowd!r} must be one of {CROWD_CHOICES}")
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT {image_format!r} must be 'RGB' or 'BGR'")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.num_channels = num_channels
        self.keep_instances = keep_instances
        self.image_format = image_format
        self.crowd = crowd
        self.min_instance_area = min_instance_area
        self.seed = seed
        self.dense_targets = dense_targets
        self.num_classes = num_classes
        self.seed_places = seed_places
        self._read = functools.partial(
            read_image, channels=tuple(channels), percentiles=tuple(percentiles)
        )

    @classmethod
    def from_config(
        cls, cfg: CfgNode, is_train: bool = True, keep_instances: bool | None = None
    ) -> dict[str, Any]:
        """Arguments from ``cfg.INPUT``; ``keep_instances`` follows ``is_train`` unless given."""
        options = cfg.INPUT
        if is_train:
            augmentations = train_augmentations(
                options.IMAGE_SIZE,
                options.MIN_SCALE,
                options.MAX_SCALE,
                options.RANDOM_FLIP,
                options.ROT90_PROB,
                options.BRIGHTNESS,
                options.CONTRAST,
                options.FLIP_BOTH,
            )
        else:
            augmentations = inference_augmentations(options.MIN_SIZE_TEST, options.MAX_SIZE_TEST)
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "num_channels": len(cfg.MODEL.PIXEL_MEAN),
            "keep_instances": is_train if keep_instances is None else keep_instances,
            "image_format": options.FORMAT,
            "channels": options.CHANNELS,
            "percentiles": options.PERCENTILES,
            "crowd": options.CROWD,
            "min_instance_area": options.MIN_INSTANCE_AREA,
            "seed": max(cfg.SEED, 0),
            "dense_targets": options.DENSE_TARGETS,
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "seed_places": cfg.MODEL.SEEDED.TEACHERS if options.SEED_TARGETS else None,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one dict, which stays as it is.

        Raises:
            BadFileError: the image, or a mask of it, cannot be used; the message names the file.
        """
        return self.map(self.read(dataset_dict), dataset_dict)

    def map(self, image: np.ndarray, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map an image that was read already, (H, W, ``num_channels``); see :meth:`__call__`."""
        entry = {k: v for k, v in dataset_dict.items() if k != "annotations"}
        source_size = image.shape[:2]
        entry["height"], entry["width"] = source_size
        position = dataset_dict.get("position", None if self.is_train else 0)
        randomness = (
            contextlib.nullcontext()
            if position is None
            else numpy_randomness(self.seed, int(position))
        )
        augmented = ManyChannelInput(image)
        with randomness:
            transforms = self.augmentations(augmented)
        image = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        entry["image"] = torch.as_tensor(image)
        if self.keep_instances:
            entry["instances"] = self._instances(
                dataset_dict, transforms, source_size, image.shape[1:]
            )
            if self.dense_targets != "none":
                entry["dense_target"] = self._dense_target(entry["instances"])
            if self.seed_places is not None:
                masks = entry["instances"].gt_masks.tensor.numpy()
                random = np.random.default_rng((self.seed, int(position or 0)))
                entry["seed_target"] = seed_target(masks, self.seed_places, random)
        return entry

    def read(self, dataset_dict: dict[str, Any]) -> np.ndarray:
        """The file of a dict as ``uint8`` (H, W, ``num_channels``), of the size the dict states.

        Pixels that were not 8-bit are rounded after their range was mapped to 0..255: Detectron2
        resizes ``uint8`` with, and floats without, a filter against aliasing.
        """
        image = self._read(dataset_dict["file_name"])
        check_size(dataset_dict, image.shape[:2])
        return self.adapt(image, dataset_dict["file_name"])

    def adapt(self, image: np.ndarray, name: str) -> np.ndarray:
        """Make what :func:`~iaunet_d2.data.readers.read_image` gives what the model takes.

        Args:
            image: (H, W, C), 0..255.
            name: of the image, for the error.

        Returns:
            ``uint8`` (H, W, ``num_channels``).
        """
        if image.dtype != np.uint8:
            image = np.rint(image).astype(np.uint8)
        count = image.shape[2]
        if count == 1 and self.num_channels == 3:
            return np.repeat(image, 3, axis=2)
        if count != self.num_channels:
            raise BadFileError(
                f"{name}: has {count} channels, the model takes "
                f"{self.num_channels} (the entries of MODEL.PIXEL_MEAN). Choose "
                f"{self.num_channels} with INPUT.CHANNELS, such as "
                f"{tuple(range(self.num_channels))}, or give MODEL.PIXEL_MEAN and PIXEL_STD "
                f"{count} entries."
            )
        return image[..., ::-1] if self.image_format == "BGR" and count == 3 else image

    def _dense_target(self, instances: Instances) -> DenseTarget:
        boundary, distance = DENSE_TARGETS[self.dense_targets]
        return dense_target(
            instances.gt_masks.tensor.numpy(),
            instances.gt_classes.numpy(),
            self.num_classes,
            boundary,
            distance,
        )

    def _instances(
        self,
        dataset_dict: dict[str, Any],
        transforms: Any,
        source_size: tuple[int, int],
        frame_size: tuple[int, int],
    ) -> Instances:
        annotations = [
            a
            for a in dataset_dict.get("annotations", ())
            if self.crowd == "instance" or not a.get("iscrowd", 0)
        ]
        try:
            patches = patches_in_frame(
                [a["segmentation"] for a in annotations],
                transforms,
                source_size,
                frame_size,
                self.min_instance_area,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise BadFileError(
                f"{dataset_dict['file_name']}: an annotation cannot be used: {error}. Correct the "
                "annotation file."
            ) from error
        instances = Instances(frame_size)
        instances.gt_masks = BitMasks(torch.from_numpy(pasted(patches.values(), frame_size)))
        # From the patches: to look for them in the masks takes as long as everything else.
        boxes = np.array([patch.box() for patch in patches.values()], dtype=np.float32)
        instances.gt_boxes = Boxes(torch.from_numpy(boxes.reshape(-1, 4)))
        instances.gt_classes = torch.tensor(
            [annotations[k]["category_id"] for k in patches], dtype=torch.int64
        )
        return instances
