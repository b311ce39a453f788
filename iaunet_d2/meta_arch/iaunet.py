"""IAUNet as a Detectron2 meta-architecture."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..networks import (
    CostWeights,
    IAUNetOutput,
    IAUNetwork,
    PixelDecoder,
    QueryDecoder,
    ScoredMasks,
    SetCriterion,
    rescored_instances,
)
from .base import SegmentationModel, build_backbone, output_size
from .preprocess import padding_mask


@META_ARCH_REGISTRY.register()
class IAUNet(SegmentationModel):
    """IAUNet: training gives a dict of weighted losses, inference one ``Instances`` per image.

    Args:
        network: the network proper.
        criterion: matching and losses.
        pixel_mean, pixel_std, normalize: see :class:`~.base.SegmentationModel`.
        deep_supervision: supervise every query block, not only the last.
        aux_at_inference: compute the auxiliary masks at inference too, only to count as the paper
            did.
        max_instances, mask_threshold, score_threshold, nms_threshold: see
            :func:`~iaunet_d2.networks.rescored_instances`.
    """

    network: IAUNetwork

    @configurable
    def __init__(
        self,
        *,
        network: IAUNetwork,
        criterion: SetCriterion,
        pixel_mean: list[float],
        pixel_std: list[float],
        normalize: str = "dataset",
        deep_supervision: bool = True,
        aux_at_inference: bool = False,
        max_instances: int = 100,
        mask_threshold: float = 0.5,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.0,
    ) -> None:
        super().__init__(
            network=network, pixel_mean=pixel_mean, pixel_std=pixel_std, normalize=normalize
        )
        self.criterion = criterion
        self.deep_supervision = deep_supervision
        self.aux_at_inference = aux_at_inference
        self.inference_settings: dict[str, Any] = {
            "max_instances": max_instances,
            "mask_threshold": mask_threshold,
            "score_threshold": score_threshold,
            "nms_threshold": nms_threshold,
        }

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        own = cfg.MODEL.IAUNET
        return {
            "network": build_network(cfg),
            "criterion": build_criterion(cfg),
            **cls.pixel_arguments(cfg),
            "deep_supervision": own.LOSS.DEEP_SUPERVISION,
            "aux_at_inference": own.AUX_AT_INFERENCE,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "mask_threshold": own.MASK_THRESHOLD,
            "score_threshold": own.SCORE_THRESH,
            "nms_threshold": own.MASK_NMS_THRESH,
        }

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses of a batch with ground truth, in training and in evaluation mode."""
        images, output = self._run(batched_inputs, self.deep_supervision)
        targets = self.targets(batched_inputs, images)
        return self.criterion(output.predictions, output.mask_features, targets)

    @torch.no_grad()
    def segment(self, batched_inputs: list[dict[str, Any]]) -> list[ScoredMasks]:
        """Scored instances of each image at its original size, masks as crops on the CPU."""
        images, output = self._run(batched_inputs, self.aux_at_inference)
        if self.aux_at_inference:
            for i in range(len(output.predictions) - 1):
                output.masks(i)
        padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
        results = []
        for i, (inputs, image_size) in enumerate(
            zip(batched_inputs, images.image_sizes, strict=True)
        ):
            found = rescored_instances(
                output.predictions[-1],
                i,
                output.mask_features,
                padded_size,
                image_size,
                output_size(inputs, image_size),
                **self.inference_settings,
            )
            results.append(found)
        return results

    def _run(
        self, batched_inputs: list[dict[str, Any]], every_block: bool
    ) -> tuple[ImageList, IAUNetOutput]:
        images = self.preprocess(batched_inputs)
        return images, self.network(images.tensor, padding_mask(images), every_block)

    def counted(self, train_mode: bool) -> nn.Module:
        """The network up to last masks of the input's size."""
        return _CountedForward(self.network, train_mode or self.aux_at_inference)


class _CountedForward(nn.Module):
    """The network as a function of one tensor, up to last masks of the input's size."""

    def __init__(self, network: IAUNetwork, every_mask: bool) -> None:
        super().__init__()
        self.network = network
        self.every_mask = every_mask

    def forward(self, images: Tensor) -> list[Tensor]:
        output = self.network(images, None, self.every_mask)
        masks = [output.masks(i) for i in range(len(output.predictions))]
        masks[-1] = F.interpolate(
            masks[-1], size=images.shape[-2:], mode="bilinear", align_corners=False
        )
        return [p.class_logits for p in output.predictions] + masks


def build_network(cfg: Any) -> IAUNetwork:
    """The network that a config describes."""
    own, backbone = cfg.MODEL.IAUNET, build_backbone(cfg)
    pixel_decoder = PixelDecoder(
        backbone.channels,
        own.HIDDEN_DIM,
        own.MASK_BRANCH,
        own.COORD_CONV,
        own.SE_REDUCTION if own.SE else 0,
        own.SKIP,
        own.RESIDUAL,
        own.SEPARABLE,
    )
    query_decoder = QueryDecoder(
        own.HIDDEN_DIM,
        own.NUM_QUERIES,
        cfg.MODEL.NUM_CLASSES,
        len(pixel_decoder.levels),
        own.BLOCKS_PER_LEVEL,
        own.BLOCK_ORDER,
        own.NUM_HEADS,
        own.FFN_DIM,
        own.DROPOUT,
        own.MASKED_ATTENTION,
        own.QUERY_INIT,
        own.MASK_WINDOW,
    )
    return IAUNetwork(backbone, pixel_decoder, query_decoder)


def build_criterion(cfg: Any) -> SetCriterion:
    """Matching and losses that a config describes."""
    loss = cfg.MODEL.IAUNET.LOSS
    return SetCriterion(
        cfg.MODEL.NUM_CLASSES,
        CostWeights(loss.CLASS_WEIGHT, loss.MASK_WEIGHT, loss.DICE_WEIGHT),
        loss.NO_OBJECT_WEIGHT,
        loss.NUM_POINTS,
        loss.OVERSAMPLE_RATIO,
        loss.IMPORTANCE_SAMPLE_RATIO,
        loss.MATCHER_POINTS,
    )
