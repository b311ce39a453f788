"""IAUNet as a Detectron2 meta-architecture."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, ImageList, Instances
from torch import Tensor, nn

from ..networks import (
    CostWeights,
    IAUNetOutput,
    IAUNetwork,
    PixelDecoder,
    QueryDecoder,
    ScoredMasks,
    SetCriterion,
    Target,
    TimmBackbone,
    rescored_instances,
)
from .preprocess import normalize_images, padding_mask

SIZE_DIVISIBILITY = 32


@META_ARCH_REGISTRY.register()
class IAUNet(nn.Module):
    """IAUNet: training gives a dict of weighted losses, inference one ``Instances`` per image.

    Args:
        network: the network proper.
        criterion: matching and losses.
        pixel_mean, pixel_std: per input channel, on the 0–255 scale.
        normalize: ``dataset`` (by ``pixel_mean`` and ``pixel_std``) or ``image`` (by each image's
            own).
        deep_supervision: supervise every query block, not only the last.
        aux_at_inference: compute the auxiliary masks at inference too, only to count as the paper
            did.
        max_instances, mask_threshold, score_threshold, nms_threshold: see
            :func:`~iaunet_d2.networks.rescored_instances`.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

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
        super().__init__()
        self.network = network
        self.criterion = criterion
        # Part of the checkpoints: weights are of use with the normalisation they were trained with.
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1))
        self.normalize = normalize
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
            "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": list(cfg.MODEL.PIXEL_STD),
            "normalize": cfg.INPUT.NORMALIZE,
            "deep_supervision": own.LOSS.DEEP_SUPERVISION,
            "aux_at_inference": own.AUX_AT_INFERENCE,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
            "mask_threshold": own.MASK_THRESHOLD,
            "score_threshold": own.SCORE_THRESH,
            "nms_threshold": own.MASK_NMS_THRESH,
        }

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Detectron2's contract.

        Args:
            batched_inputs: dicts with ``image`` (C, H, W) on the 0–255 scale; in training
                ``instances`` with ``gt_classes`` and ``gt_masks``; at inference optionally
                ``height`` and ``width`` of the original.

        Returns:
            in training the dict of losses; at inference a list of ``{"instances": Instances}`` with
            ``pred_masks`` (N, H, W) bool, ``pred_boxes``, ``scores`` and ``pred_classes``, best
            first.
        """
        if self.training:
            return self.losses(batched_inputs)
        return self.inference(batched_inputs)

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses of a batch with ground truth, in training and in evaluation mode."""
        images, output = self._run(batched_inputs, self.deep_supervision)
        targets = [self._target(x["instances"], images.tensor) for x in batched_inputs]
        return self.criterion(output.predictions, output.mask_features, targets)

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Scored instances of each image at its original size."""
        images, output = self._run(batched_inputs, self.aux_at_inference)
        if self.aux_at_inference:
            for i in range(len(output.predictions) - 1):
                output.masks(i)
        padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
        results = []
        for i, (inputs, image_size) in enumerate(
            zip(batched_inputs, images.image_sizes, strict=True)
        ):
            height, width = image_size
            output_size = (int(inputs.get("height", height)), int(inputs.get("width", width)))
            found = rescored_instances(
                output.predictions[-1],
                i,
                output.mask_features,
                padded_size,
                (height, width),
                output_size,
                **self.inference_settings,
            )
            results.append({"instances": _to_instances(found, output_size)})
        return results

    def _run(
        self, batched_inputs: list[dict[str, Any]], every_block: bool
    ) -> tuple[ImageList, IAUNetOutput]:
        tensors = [x["image"].to(self.device) for x in batched_inputs]
        tensors = normalize_images(tensors, self.pixel_mean, self.pixel_std, self.normalize)
        images = ImageList.from_tensors(tensors, SIZE_DIVISIBILITY)
        return images, self.network(images.tensor, padding_mask(images), every_block)

    def _target(self, instances: Instances, padded: Tensor) -> Target:
        """Ground truth with masks padded, by background, to the network's input."""
        masks = instances.gt_masks.tensor.to(self.device)
        height, width = padded.shape[-2:]
        masks = F.pad(masks, (0, width - masks.shape[-1], 0, height - masks.shape[-2]))
        return Target(instances.gt_classes.to(self.device), masks)


def build_network(cfg: Any) -> IAUNetwork:
    """The network that a config describes."""
    own, timm_cfg = cfg.MODEL.IAUNET, cfg.MODEL.TIMM
    backbone = TimmBackbone(
        timm_cfg.NAME,
        len(cfg.MODEL.PIXEL_MEAN),
        timm_cfg.PRETRAINED,
        timm_cfg.CHECKPOINT,
        timm_cfg.DROP_PATH_RATE,
    )
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


def _to_instances(found: ScoredMasks, size: tuple[int, int]) -> Instances:
    instances = Instances(size)
    instances.pred_masks = found.masks
    instances.pred_boxes = BitMasks(found.masks).get_bounding_boxes().to(found.masks.device)
    instances.scores = found.scores
    instances.pred_classes = found.classes
    return instances
