"""Mask2Former as a Detectron2 meta-architecture, to compare IAUNet with."""

from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from torch import Tensor

from ..networks import (
    Mask2FormerNetwork,
    Mask2FormerSettings,
    PixelDecoder,
    QueryDecoder,
    QueryOutput,
    SeededDecoder,
    maps_at,
    one_model,
)
from .backbones import build_backbone
from .mask_queries import MaskQueryModel, inference_arguments
from .pixel_decoders import build_pixel_decoder
from .query_decoders import build_query_decoder

PIXEL_DECODER, QUERY_DECODER = "MSDeformAttnPixelDecoder", "MultiScaleMaskedTransformerDecoder"


@META_ARCH_REGISTRY.register()
class Mask2Former(MaskQueryModel):
    """transformers' Mask2Former on any backbone (Cheng et al., CVPR 2022), with its losses.

    Scores, the choice of the best, thresholds and suppression are the code that IAUNet uses.

    Args:
        backbone: gives maps by name.
        pixel_decoder: reads these maps.
        query_decoder: built for the pixel decoder's ``output_shape()``.
        settings: loss weights and points.
        pixel_mean, pixel_std, normalize: see :class:`~.base.SegmentationModel`.
        max_instances, mask_threshold, score_threshold, nms_threshold: see
            :func:`~iaunet_d2.networks.rescored_masks`.
    """

    node = "MASK2FORMER"
    decoders = True
    network: Mask2FormerNetwork

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_decoder: PixelDecoder,
        query_decoder: QueryDecoder,
        settings: Mask2FormerSettings,
        pixel_mean: list[float],
        pixel_std: list[float],
        normalize: str = "dataset",
        max_instances: int = 100,
        mask_threshold: float = 0.5,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.0,
    ) -> None:
        super().__init__(
            network=Mask2FormerNetwork(backbone, pixel_decoder, query_decoder, settings),
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
        """Return the constructor's arguments."""
        backbone, settings = build_backbone(cfg), network_settings(cfg)
        pixel_decoder, query_decoder = _decoders(cfg, backbone, settings)
        return {
            "backbone": backbone,
            "pixel_decoder": pixel_decoder,
            "query_decoder": query_decoder,
            "settings": settings,
            **cls.pixel_arguments(cfg),
            **inference_arguments(cfg, cfg.MODEL.MASK2FORMER),
        }

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses of a batch with ground truth, in training and in evaluation mode."""
        images, output = self.run(self.supervised, batched_inputs)
        return self.network.losses(output, self.targets(batched_inputs, images))

    def supervised(self, images: Tensor, padding: Tensor | None) -> QueryOutput:
        """Run the network with the predictions of every layer."""
        return self.network(images, padding, True)

    def final(self, images: Tensor, padding: Tensor | None) -> QueryOutput:
        """Run the network as at inference."""
        return self.network(images, padding, False)


def _decoders(
    cfg: Any, backbone: Backbone, settings: Mask2FormerSettings
) -> tuple[PixelDecoder, QueryDecoder]:
    """Build both decoders; the published pair as parts of one model of transformers."""

    def build() -> tuple[PixelDecoder, QueryDecoder]:
        pixel_decoder = build_pixel_decoder(cfg, backbone.output_shape(), PIXEL_DECODER)
        return pixel_decoder, build_query_decoder(cfg, pixel_decoder.output_shape(), QUERY_DECODER)

    names = cfg.MODEL.PIXEL_DECODER.NAME, cfg.MODEL.QUERY_DECODER.NAME
    if names[0] in ("", PIXEL_DECODER) and names[1] in ("", QUERY_DECODER):
        with one_model(maps_at(backbone.output_shape()).channels, settings):
            return build()
    decoders = build()
    if isinstance(decoders[1], SeededDecoder):
        raise ValueError(
            f"MODEL.QUERY_DECODER.NAME {names[1]!r} learns where queries begin by losses of its "
            "own, which Mask2Former's do not have; set MODEL.META_ARCHITECTURE IAUNet"
        )
    return decoders


def network_settings(cfg: Any) -> Mask2FormerSettings:
    """Read the sizes of the network and the weights of its losses."""
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
