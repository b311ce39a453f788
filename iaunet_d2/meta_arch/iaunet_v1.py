"""IAUNet v1 as a Detectron2 meta-architecture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from ..networks import (
    DualPathDecoder,
    DualPixelDecoder,
    IAUNetV1Network,
    IAUNetV1Output,
    ScoredMasks,
    SetCriterion,
    logits_of_queries,
    maps_at,
    rescored_queries,
)
from .backbones import build_backbone
from .base import output_size
from .mask_queries import MaskQueryModel, build_criterion, inference_arguments
from .preprocess import padding_mask


@dataclass(frozen=True)
class Explanation:
    """The instances of one image, and where in the image the query of each came from.

    Attributes:
        found: the instances, n, best first.
        activations: one (n, h, w) per level, coarsest first: the map of the instance's query. They
            cover the padded input of the network; each whole map's sum is 1.
        extent: height and width of the padded input, in pixels of the original image.
    """

    found: ScoredMasks
    activations: list[Tensor]
    extent: tuple[float, float]

    def take(self, chosen: np.ndarray | Tensor) -> "Explanation":
        """Those instances where ``chosen`` (n,) is true, in the order they have."""
        index = torch.as_tensor(chosen).nonzero()[:, 0]
        maps = [level[index] for level in self.activations]
        return Explanation(self.found.take(index), maps, self.extent)


@META_ARCH_REGISTRY.register()
class IAUNetV1(MaskQueryModel):
    """IAUNet v1: guided queries and a dual-path decoder; the last prediction alone is supervised.

    The paper suppresses overlapping instances and does not say at which overlap; the default is the
    code's, a mask IoU of 0.8. Its weights 1, 2 and 5 of class, dice and cross-entropy stand in
    section 7.

    Args:
        network: the network proper.
        criterion, pixel_mean, pixel_std, normalize: see :class:`~.mask_queries.MaskQueryModel`.
        max_instances, mask_threshold, score_threshold, nms_threshold: see
            :func:`~iaunet_d2.networks.rescored_instances`.
    """

    node = "IAUNETV1"
    network: IAUNetV1Network

    @configurable
    def __init__(
        self,
        *,
        network: IAUNetV1Network,
        criterion: SetCriterion,
        pixel_mean: list[float],
        pixel_std: list[float],
        normalize: str = "dataset",
        max_instances: int = 100,
        mask_threshold: float = 0.5,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.8,
    ) -> None:
        super().__init__(
            network=network,
            criterion=criterion,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            normalize=normalize,
            max_instances=max_instances,
            mask_threshold=mask_threshold,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
        )

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        own = cfg.MODEL.IAUNETV1
        return {
            "network": build_network(cfg),
            "criterion": build_criterion(cfg.MODEL.NUM_CLASSES, own.LOSS),
            **cls.pixel_arguments(cfg),
            **inference_arguments(cfg, own),
        }

    def supervised(self, images: Tensor, padding: Tensor | None) -> IAUNetV1Output:
        """The network's output: there is no deep supervision."""
        return self.network(images, padding)

    def final(self, images: Tensor, padding: Tensor | None) -> IAUNetV1Output:
        """The network's output at inference."""
        return self.network(images, padding)

    @torch.no_grad()
    def explain(self, inputs: dict[str, Any]) -> Explanation:
        """Instances of one image, as :meth:`segment` gives them, with their queries' maps."""
        images = self.preprocess([inputs])
        output = self.final(images.tensor, padding_mask(images))
        height, width = images.tensor.shape[-2:]
        image_size = images.image_sizes[0]
        size = output_size(inputs, image_size)
        found, queries = rescored_queries(
            output.predictions[-1].class_logits[0],
            logits_of_queries(output.predictions[-1], 0, output.mask_features),
            (height, width),
            image_size,
            size,
            **self.inference_settings,
        )
        maps = [level[0].cpu()[queries] for level in output.activations]
        extent = (height * size[0] / image_size[0], width * size[1] / image_size[1])
        return Explanation(found, maps, extent)


def build_network(cfg: Any) -> IAUNetV1Network:
    """The network that a config describes."""
    own, backbone = cfg.MODEL.IAUNETV1, build_backbone(cfg)
    channels = maps_at(backbone.output_shape()).channels
    pixel_decoder = DualPixelDecoder(
        channels, own.HIDDEN_DIM, own.SE_REDUCTION if own.SE else 0, own.COORD_CONV
    )
    query_decoder = DualPathDecoder(
        own.HIDDEN_DIM,
        own.NUM_QUERIES,
        cfg.MODEL.NUM_CLASSES,
        len(channels),
        own.NUM_HEADS,
        own.FFN_DIM,
        own.DROPOUT,
    )
    return IAUNetV1Network(backbone, pixel_decoder, query_decoder)
