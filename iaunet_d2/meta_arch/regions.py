"""What meta-architectures share that find boxes first and then a mask in each."""

from typing import Any

import torch
from torch import Tensor

from ..networks import RCNN, Detections, ScoredMasks, VSMNetwork, paste_masks, with_boxes
from .base import SegmentationModel, output_size


class RegionModel(SegmentationModel):
    """A model whose network gives :class:`~iaunet_d2.networks.Detections`.

    Instances without a pixel at the original size are dropped.

    Args:
        network: called with images and their sizes; ``losses`` takes region targets beside them.
        pixel_mean, pixel_std, normalize: see :class:`~.base.SegmentationModel`.
        mask_threshold: a pixel belongs to an instance where its probability exceeds this.
    """

    network: RCNN | VSMNetwork

    def __init__(
        self,
        *,
        network: RCNN | VSMNetwork,
        pixel_mean: list[float],
        pixel_std: list[float],
        normalize: str = "dataset",
        mask_threshold: float = 0.5,
    ) -> None:
        super().__init__(
            network=network, pixel_mean=pixel_mean, pixel_std=pixel_std, normalize=normalize
        )
        self.mask_threshold = mask_threshold

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses of a batch with ground truth, in training and in evaluation mode."""
        images = self.preprocess(batched_inputs)
        targets = [with_boxes(target) for target in self.targets(batched_inputs, images)]
        return self.network.losses(images.tensor, images.image_sizes, targets)

    @torch.no_grad()
    def segment(self, batched_inputs: list[dict[str, Any]]) -> list[ScoredMasks]:
        """Scored instances of each image at its original size, masks as crops on the CPU."""
        images = self.preprocess(batched_inputs)
        found = self.network(images.tensor, images.image_sizes)
        return [
            self.pasted(one, size, output_size(inputs, size))
            for inputs, size, one in zip(batched_inputs, images.image_sizes, found, strict=True)
        ]

    def pasted(
        self, found: Detections, image_size: tuple[int, int], size: tuple[int, int]
    ) -> ScoredMasks:
        """Detections of an image at another size, the original's."""
        scale = found.boxes.new_tensor([size[1] / image_size[1], size[0] / image_size[0]])
        boxes = found.boxes * scale.repeat(2)
        crops, corners = paste_masks(found.masks, boxes, size, self.mask_threshold)
        pasted = ScoredMasks(crops, corners, found.scores.cpu(), found.labels.cpu(), size)
        return pasted.take([i for i, crop in enumerate(crops) if crop.numel()])
