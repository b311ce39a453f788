"""What the systems that predict one label map per image share (IAU-net and MAUNet)."""

import math
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..networks import DENSE_TARGETS, DenseTarget, ScoredMasks, dense_target, scored_label_map
from .base import SegmentationModel, output_size, truth_masks


class LabelMapModel(SegmentationModel):
    """A model of classes per pixel, whose instances are cut out of them and cannot overlap.

    Args:
        network, pixel_mean, pixel_std, normalize: see :class:`~.base.SegmentationModel`.
        num_classes: K.
        max_instances: the best of an image are kept.
        targets_kind: a key of :data:`~iaunet_d2.networks.dense_targets.DENSE_TARGETS`.
    """

    finds_overlaps = False

    def __init__(
        self,
        *,
        network: nn.Module,
        pixel_mean: list[float],
        pixel_std: list[float],
        num_classes: int,
        normalize: str = "dataset",
        max_instances: int = 100,
        targets_kind: str = "classes",
    ) -> None:
        super().__init__(
            network=network, pixel_mean=pixel_mean, pixel_std=pixel_std, normalize=normalize
        )
        self.num_classes = num_classes
        self.max_instances = max_instances
        self.targets_kind = targets_kind

    @classmethod
    def label_map_arguments(cls, cfg: Any, targets_kind: str) -> dict[str, Any]:
        """This class's arguments from a config, ``network`` excepted.

        Args:
            targets_kind: what the losses need.

        Raises:
            ValueError: the loader is asked for targets of another kind.
        """
        made = cfg.INPUT.DENSE_TARGETS
        if made not in ("none", targets_kind):
            raise ValueError(
                f"INPUT.DENSE_TARGETS is {made!r}; {cfg.MODEL.META_ARCHITECTURE} as configured "
                f"needs {targets_kind!r} (or 'none': it makes them itself, which is slower)"
            )
        return {
            **cls.pixel_arguments(cfg),
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "targets_kind": targets_kind,
        }

    @abstractmethod
    def probabilities(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the network says of normalised, padded images (B, C, H, W).

        Returns:
            probabilities (B, 1 + K or more, H, W) of background, of the interior of each class, and
            of whatever else there is; and the distance (B, H, W), if the network has it.
        """

    @abstractmethod
    def instances(
        self, probabilities: np.ndarray, distance: np.ndarray | None, scale: float = 1.0
    ) -> np.ndarray:
        """Cut one image's instances out.

        Args:
            probabilities: (1 + K or more, h, w) float32, finite, at the size of the result.
            distance: (h, w) float32, finite, or None.
            scale: pixels of the result for one of the network's.

        Returns:
            label map (h, w) int32, 0 outside; the numbers need not be without gaps.
        """

    @torch.no_grad()
    def segment(self, batched_inputs: list[dict[str, Any]]) -> list[ScoredMasks]:
        """Scored instances of each image at its original size, masks as crops on the CPU.

        Probabilities are resized, then instances are cut out of them: masks are as fine as the
        image, and sizes in pixels are the image's.
        """
        images = self.preprocess(batched_inputs)
        probabilities, distance = self.probabilities(images.tensor)
        results = []
        for i, (inputs, image_size) in enumerate(
            zip(batched_inputs, images.image_sizes, strict=True)
        ):
            size = output_size(inputs, image_size)
            classes = _certain(_resized(probabilities[i], image_size, size))
            depth = None
            if distance is not None:
                depth = _resized(distance[i, None], image_size, size)[0]
                depth = np.where(np.isfinite(depth), depth, np.float32(0))
            scale = math.sqrt(size[0] * size[1] / (image_size[0] * image_size[1]))
            labels = self.instances(classes, depth, scale)
            results.append(scored_label_map(labels, classes, self.num_classes, self.max_instances))
        return results

    def dense_targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> DenseTarget:
        """Ground truth (B, H, W) of a batch on the device, padded by background.

        The loader's, if it made them; else made here.
        """
        made = [self._dense_target(inputs) for inputs in batched_inputs]
        height, width = images.tensor.shape[-2:]
        return DenseTarget(
            self._padded([target.classes for target in made], height, width),
            self._padded([t.distance for t in made if t.distance is not None], height, width)
            if DENSE_TARGETS[self.targets_kind][1]
            else None,
        )

    def _dense_target(self, inputs: dict[str, Any]) -> DenseTarget:
        boundary, distance = DENSE_TARGETS[self.targets_kind]
        made = inputs.get("dense_target")
        if made is not None and (made.distance is not None or not distance):
            return made
        instances = inputs["instances"]
        return dense_target(
            truth_masks(instances).cpu().numpy(),
            instances.gt_classes.cpu().numpy(),
            self.num_classes,
            boundary,
            distance,
        )

    def _padded(self, maps: list[Tensor], height: int, width: int) -> Tensor:
        """Maps (h, w) of different sizes as one tensor (B, height, width)."""
        return torch.stack(
            [
                F.pad(one.to(self.device), (0, width - one.shape[1], 0, height - one.shape[0]))
                for one in maps
            ]
        )


def _resized(maps: Tensor, image_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Maps (C, H, W) without padding, bilinearly resized, on the CPU: (C, h, w) float32."""
    maps = maps[:, : image_size[0], : image_size[1]].float()
    if tuple(maps.shape[-2:]) != tuple(size):
        maps = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
    return maps.cpu().numpy()


def _certain(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities (C, h, w) with background where they are no numbers."""
    broken = ~np.isfinite(probabilities).all(0)
    if broken.any():
        probabilities = np.where(broken, np.float32(0), probabilities)
        probabilities[0, broken] = 1
    return probabilities
