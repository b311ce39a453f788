"""Mask2Former as a Detectron2 meta-architecture, to compare IAUNet with."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..networks import (
    Mask2FormerNetwork,
    Mask2FormerOutput,
    Mask2FormerSettings,
    ScoredMasks,
    rescored_masks,
)
from .base import SegmentationModel, build_backbone, output_size


@META_ARCH_REGISTRY.register()
class Mask2Former(SegmentationModel):
    """transformers' Mask2Former on this package's backbones (Cheng et al., CVPR 2022).

    Scores, the choice of the best, thresholds and suppression are the code that IAUNet uses.

    Args:
        network: the network proper, with its losses.
        pixel_mean, pixel_std, normalize: see :class:`~.base.SegmentationModel`.
        max_instances, mask_threshold, score_threshold, nms_threshold: see
            :func:`~iaunet_d2.networks.rescored_masks`.
    """

    network: Mask2FormerNetwork

    @configurable
    def __init__(
        self,
        *,
        network: Mask2FormerNetwork,
        pixel_mean: list[float],
        pixel_std: list[float],
        normalize: str = "dataset",
        max_instances: int = 100,
        mask_threshold: float = 0.5,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.0,
    ) -> None:
        super().__init__(
            network=network, pixel_mean=pixel_mean, pixel_std=pixel_std, normalize=normalize
        )
        self.inference_settings: dict[str, Any] = {
            "max_instances": max_instances,
            "mask_threshold": mask_threshold,
            "score_threshold": score_threshold,
            "nms_threshold": nms_threshold,
        }

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        own = cfg.MODEL.MASK2FORMER
        return {
            "network": Mask2FormerNetwork(build_backbone(cfg), network_settings(cfg)),
            **cls.pixel_arguments(cfg),
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "mask_threshold": own.MASK_THRESHOLD,
            "score_threshold": own.SCORE_THRESH,
            "nms_threshold": own.MASK_NMS_THRESH,
        }

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses of a batch with ground truth, in training and in evaluation mode."""
        images, output = self._run(batched_inputs)
        return self.network.losses(output, self.targets(batched_inputs, images))

    @torch.no_grad()
    def segment(self, batched_inputs: list[dict[str, Any]]) -> list[ScoredMasks]:
        """Scored instances of each image at its original size, masks as crops on the CPU."""
        images, output = self._run(batched_inputs)
        padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
        results = []
        for i, (inputs, image_size) in enumerate(
            zip(batched_inputs, images.image_sizes, strict=True)
        ):
            found = rescored_masks(
                output.class_logits[-1][i],
                output.mask_logits[-1][i].__getitem__,
                padded_size,
                image_size,
                output_size(inputs, image_size),
                **self.inference_settings,
            )
            results.append(found)
        return results

    def counted(self, train_mode: bool) -> nn.Module:
        """The network up to last masks of the input's size; it predicts after every layer."""
        return _CountedForward(self.network)

    def _run(self, batched_inputs: list[dict[str, Any]]) -> tuple[ImageList, Mask2FormerOutput]:
        images = self.preprocess(batched_inputs)
        return images, self.network(images.tensor)


class _CountedForward(nn.Module):
    """The network as a function of one tensor, up to last masks of the input's size."""

    def __init__(self, network: Mask2FormerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        output = self.network(images)
        masks = output.mask_logits[-1]
        raised = F.interpolate(masks, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return [*output.class_logits, *output.mask_logits[:-1], raised]


def network_settings(cfg: Any) -> Mask2FormerSettings:
    """What a config says of the network and its losses."""
    own, loss = cfg.MODEL.MASK2FORMER, cfg.MODEL.MASK2FORMER.LOSS
    return Mask2FormerSettings(
        num_classes=cfg.MODEL.NUM_CLASSES,
        num_queries=own.NUM_QUERIES,
        hidden_dim=own.HIDDEN_DIM,
        num_heads=own.NUM_HEADS,
        encoder_layers=own.ENCODER_LAYERS,
        encoder_ffn_dim=own.ENCODER_FFN_DIM,
        decoder_layers=own.DECODER_LAYERS,
        ffn_dim=own.FFN_DIM,
        class_weight=loss.CLASS_WEIGHT,
        mask_weight=loss.MASK_WEIGHT,
        dice_weight=loss.DICE_WEIGHT,
        no_object_weight=loss.NO_OBJECT_WEIGHT,
        num_points=loss.NUM_POINTS,
        oversample_ratio=loss.OVERSAMPLE_RATIO,
        importance_sample_ratio=loss.IMPORTANCE_SAMPLE_RATIO,
    )
