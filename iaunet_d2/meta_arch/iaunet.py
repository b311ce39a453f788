"""IAUNet as a Detectron2 meta-architecture."""

from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from torch import Tensor, nn

from ..networks import (
    PixelDecoder,
    QueryDecoder,
    QueryNetwork,
    QueryOutput,
    SeededCriterion,
    SeededDecoder,
    SeedTarget,
    SetCriterion,
    logits_of_queries,
    raised_masks,
    seed_target,
)
from ..networks.scored_masks import ScoredMasks
from .backbones import build_backbone
from .base import output_size, truth_masks
from .mask_queries import CountedForward, MaskQueryModel, build_criterion, inference_arguments
from .pixel_decoders import build_pixel_decoder
from .preprocess import padding_mask
from .query_decoders import build_query_decoder


@META_ARCH_REGISTRY.register()
class IAUNet(MaskQueryModel):
    """IAUNet: training gives a dict of weighted losses, inference one ``Instances`` per image.

    Args:
        backbone: gives maps by name.
        pixel_decoder: reads these maps.
        query_decoder: built for the pixel decoder's ``output_shape()``.
        criterion: matching and losses, called with predictions, mask features and targets;
            :class:`~iaunet_d2.networks.SetCriterion` or one of your own.
        pixel_mean, pixel_std, normalize: see :class:`~.base.SegmentationModel`.
        deep_supervision: supervise every query block, not only the last.
        aux_at_inference: compute the auxiliary masks at inference too, only to count as the paper
            did.
        max_instances, mask_threshold, score_threshold, nms_threshold: see
            :func:`~iaunet_d2.networks.rescored_instances`.
    """

    node = "IAUNET"
    decoders = True
    network: QueryNetwork

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_decoder: PixelDecoder,
        query_decoder: QueryDecoder,
        criterion: nn.Module,
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
            network=QueryNetwork(backbone, pixel_decoder, query_decoder),
            criterion=criterion,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            normalize=normalize,
            max_instances=max_instances,
            mask_threshold=mask_threshold,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
        )
        self.deep_supervision = deep_supervision
        self.aux_at_inference = aux_at_inference

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own, backbone = cfg.MODEL.IAUNET, build_backbone(cfg)
        pixel_decoder = build_pixel_decoder(cfg, backbone.output_shape(), "IAUNetPixelDecoder")
        shapes = pixel_decoder.output_shape()
        query_decoder = build_query_decoder(cfg, shapes, "IAUNetQueryDecoder")
        return {
            "backbone": backbone,
            "pixel_decoder": pixel_decoder,
            "query_decoder": query_decoder,
            "criterion": _criterion(cfg, query_decoder),
            **cls.pixel_arguments(cfg),
            "deep_supervision": own.LOSS.DEEP_SUPERVISION,
            "aux_at_inference": own.AUX_AT_INFERENCE,
            **inference_arguments(cfg, own),
            **_as_many_as_queries(cfg, query_decoder),
        }

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses of a batch with ground truth, in training and in evaluation mode."""
        images = self.preprocess(batched_inputs)
        targets = self.targets(batched_inputs, images)
        seeds = self._seed_targets(batched_inputs)
        padding = padding_mask(images)
        output = self.network(images.tensor, padding, self.deep_supervision, seeds)
        return self.criterion(output.predictions, output.mask_features, targets)

    def _seed_targets(self, batched_inputs: list[dict[str, Any]]) -> list[SeedTarget] | None:
        """Targets of seeded queries, from the loader or made here; None for other queries."""
        decoder = self.network.query_decoder
        if not isinstance(decoder, SeededDecoder):
            return None
        random = np.random.default_rng(int(torch.randint(1 << 31, ())))
        return [
            inputs["seed_target"]
            if "seed_target" in inputs
            else seed_target(truth_masks(inputs["instances"]).numpy(), decoder.teachers, random)
            for inputs in batched_inputs
        ]

    @torch.no_grad()
    def segment_at(self, batched_inputs: list[dict[str, Any]]) -> list[ScoredMasks]:
        """Find the mask at each point, in the points' order; one may be empty.

        Args:
            batched_inputs: as for prediction, each with ``points`` (P, 2) float, x and y in pixels
                of the original image.

        Raises:
            PointsError: the model's queries are not seeded.
        """
        images = self.preprocess(batched_inputs)
        found, padded = [], (images.tensor.shape[-2], images.tensor.shape[-1])
        for i, (inputs, size) in enumerate(zip(batched_inputs, images.image_sizes, strict=True)):
            original = output_size(inputs, size)
            scale = torch.tensor([size[1] / original[1], size[0] / original[0]])
            points = (inputs["points"].float() * scale).to(self.device)
            # Images have different numbers of points.
            output = self.network.at_points(images.tensor[i : i + 1], points[None])
            logits_of = logits_of_queries(output.predictions[-1], 0, output.mask_features)
            order = torch.arange(len(points), device=self.device)
            threshold = self.inference_settings["mask_threshold"]
            found.append(raised_masks(logits_of, order, padded, size, original, threshold))
        return found

    def supervised(self, images: Tensor, padding: Tensor | None) -> QueryOutput:
        """Run the network with every prediction that is trained."""
        return self.network(images, padding, self.deep_supervision)

    def final(self, images: Tensor, padding: Tensor | None) -> QueryOutput:
        """Run the network as at inference."""
        output = self.network(images, padding, self.aux_at_inference)
        if self.aux_at_inference:
            for i in range(len(output.predictions) - 1):
                output.masks(i)
        return output

    def counted(self, train_mode: bool) -> nn.Module:
        """Return the network up to last masks of the input's size."""
        return CountedForward(self.network, train_mode or self.aux_at_inference)


def _as_many_as_queries(cfg: Any, query_decoder: QueryDecoder) -> dict[str, int]:
    """Let seeded queries give all that they find: their number is free, evaluators cut by score."""
    if not isinstance(query_decoder, SeededDecoder):
        return {}
    return {"max_instances": query_decoder.max_queries * cfg.MODEL.NUM_CLASSES}


def _criterion(cfg: Any, query_decoder: QueryDecoder) -> SetCriterion:
    """Build the criterion that the query decoder needs."""
    classes, loss = cfg.MODEL.NUM_CLASSES, cfg.MODEL.IAUNET.LOSS
    if not isinstance(query_decoder, SeededDecoder):
        return build_criterion(classes, loss)
    own = cfg.MODEL.SEEDED.LOSS
    return build_criterion(
        classes,
        loss,
        SeededCriterion,
        heat_weight=own.HEAT_WEIGHT,
        teacher_weight=own.TEACHER_WEIGHT,
        location_cost=own.LOCATION_COST,
        class_loss=own.CLASS_LOSS,
        local_points=own.LOCAL_POINTS,
    )
