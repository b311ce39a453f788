"""Mask2Former from transformers, on this project's backbones (Cheng et al., CVPR 2022,
https://arxiv.org/abs/2112.01527).

Pixel decoder, query decoder, class head and criterion are transformers' own modules with its own
initialisation; nothing is downloaded. transformers is an extra, imported when a network is built.
"""

import logging
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .backbone import TimmBackbone
from .criterion import Target, mean_over_processes

GROUPS = 32  # of the group normalisation in transformers' pixel decoder


class MissingExtraError(ValueError):
    """A library that only some models need is not installed."""


@dataclass(frozen=True)
class Mask2FormerSettings:
    """What a Mask2Former is built from; the defaults are the paper's for instances.

    Attributes:
        num_classes: K, "no object" not counted.
        num_queries: the most instances that one image can give.
        hidden_dim: channels of pixel decoder, queries and mask features; a multiple of 32.
        num_heads: attention heads; they divide ``hidden_dim``.
        encoder_layers: deformable attention layers in the pixel decoder.
        encoder_ffn_dim: width of their feed-forward layers.
        decoder_layers: layers of the query decoder.
        ffn_dim: width of their feed-forward layers.
        class_weight, mask_weight, dice_weight: of the three losses and of the three costs.
        no_object_weight: weight of "no object" in the cross-entropy.
        num_points: points per mask in losses and matching.
        oversample_ratio, importance_sample_ratio: see
            :func:`~iaunet_d2.networks.points.uncertain_points`.
    """

    num_classes: int = 1
    num_queries: int = 100
    hidden_dim: int = 256
    num_heads: int = 8
    encoder_layers: int = 6
    encoder_ffn_dim: int = 1024
    decoder_layers: int = 9
    ffn_dim: int = 2048
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75


@dataclass
class Mask2FormerOutput:
    """What the network gives for a batch: first from the raw queries, then after each layer.

    Attributes:
        class_logits: each (B, Q, K + 1).
        mask_logits: each (B, Q, H/4, W/4).
    """

    class_logits: list[Tensor]
    mask_logits: list[Tensor]


class Mask2FormerNetwork(nn.Module):
    """Images in, class and mask logits of every layer out; the losses are here too.

    As published, padding takes part in attention like any other pixel: transformers accepts a
    ``pixel_mask`` and does not read it. In the losses padding is background.

    Args:
        backbone: any of this project's; it keeps its own initialisation.
        settings: sizes and loss weights.

    Raises:
        MissingExtraError: transformers is not installed.
        ValueError: sizes that transformers cannot build.
    """

    def __init__(self, backbone: TimmBackbone, settings: Mask2FormerSettings) -> None:
        super().__init__()
        built = _from_transformers(backbone.channels, settings)
        self.backbone = backbone
        self.pixel_decoder = built.model.pixel_level_module.decoder
        self.query_decoder = built.model.transformer_module
        self.class_head = built.class_predictor
        self.criterion = built.criterion
        # transformers averages over processes only where accelerate started them.
        self.criterion.get_num_masks = types.MethodType(_instances_per_process, self.criterion)
        self.loss_weights: dict[str, float] = dict(built.weight_dict)

    def forward(self, images: Tensor) -> Mask2FormerOutput:
        """Run the network on normalised images (B, C, H, W), H and W divisible by 32."""
        features = self.backbone(images)
        # In float32, as the authors' code does: positions and sampling offsets are too coarse in
        # half precision.
        with torch.autocast(device_type=images.device.type, enabled=False):
            pixels = self.pixel_decoder([f.float() for f in features])
        decoded = self.query_decoder(
            multi_scale_features=pixels.multi_scale_features,
            mask_features=pixels.mask_features,
            output_hidden_states=True,
        )
        # (Q, B, C) -> (B, Q, C) -> (B, Q, K + 1)
        states = decoded.intermediate_hidden_states
        class_logits = [self.class_head(state.transpose(0, 1)) for state in states]
        return Mask2FormerOutput(class_logits, list(decoded.masks_queries_logits))

    def losses(self, output: Mask2FormerOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """transformers' losses, already weighted.

        Args:
            output: of a batch.
            targets: one per image, masks at the size of the padded input.

        Returns:
            ``loss_ce``, ``loss_mask`` and ``loss_dice`` of the last layer, and the same with
            ``_0``, ``_1`` … for the raw queries and the earlier layers.
        """
        device = output.class_logits[-1].device
        # In float32 whatever autocast does: half precision overflows in the sums over points.
        with torch.autocast(device_type=device.type, enabled=False):
            pairs = [
                {"masks_queries_logits": m.float(), "class_queries_logits": c.float()}
                for m, c in zip(output.mask_logits, output.class_logits, strict=True)
            ]
            losses = self.criterion(
                **pairs[-1],
                mask_labels=[t.masks.float() for t in targets],
                class_labels=[t.labels for t in targets],
                auxiliary_predictions=pairs[:-1],
            )
        return {
            name.replace(kind, "loss_ce" if kind == "loss_cross_entropy" else kind): value * weight
            for kind, weight in self.loss_weights.items()
            for name, value in losses.items()
            if name.startswith(kind)
        }


def _from_transformers(channels: Sequence[int], settings: Mask2FormerSettings) -> Any:
    """A whole ``Mask2FormerForUniversalSegmentation`` for a backbone with these channels."""
    if settings.hidden_dim % GROUPS or settings.hidden_dim % settings.num_heads:
        raise ValueError(
            f"MODEL.MASK2FORMER.HIDDEN_DIM {settings.hidden_dim} must be divisible by {GROUPS} and "
            f"by MODEL.MASK2FORMER.NUM_HEADS {settings.num_heads}"
        )
    transformers = _transformers()
    # Only tells the pixel decoder its channels and is thrown away.
    stages = [f"stage{i}" for i in range(1, len(channels) + 1)]
    placeholder = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=list(channels),
        depths=[1] * len(channels),
        out_features=stages,
    )
    told = logging.getLogger("transformers.models.mask2former.configuration_mask2former")
    level = told.level
    told.setLevel(logging.ERROR)  # it would warn of the placeholder
    try:
        config = transformers.Mask2FormerConfig(
            backbone_config=placeholder,
            num_labels=settings.num_classes,
            num_queries=settings.num_queries,
            feature_size=settings.hidden_dim,
            mask_feature_size=settings.hidden_dim,
            hidden_dim=settings.hidden_dim,
            num_attention_heads=settings.num_heads,
            encoder_layers=settings.encoder_layers,
            encoder_feedforward_dim=settings.encoder_ffn_dim,
            # The library counts the prediction from the raw queries as a layer.
            decoder_layers=settings.decoder_layers + 1,
            dim_feedforward=settings.ffn_dim,
            dropout=0.0,
            class_weight=settings.class_weight,
            mask_weight=settings.mask_weight,
            dice_weight=settings.dice_weight,
            no_object_weight=settings.no_object_weight,
            train_num_points=settings.num_points,
            oversample_ratio=settings.oversample_ratio,
            importance_sample_ratio=settings.importance_sample_ratio,
        )
        return transformers.Mask2FormerForUniversalSegmentation(config)
    finally:
        told.setLevel(level)


def _transformers() -> Any:
    """The library, which works.

    Raises:
        MissingExtraError: it is not installed, or does not take the torch that is.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            f"Mask2Former needs transformers ({error}): pip install 'iaunet-d2[baselines]'"
        ) from error
    if not transformers.utils.is_torch_available():
        raise MissingExtraError(
            f"Mask2Former needs transformers, and transformers {transformers.__version__} does not "
            f"work with torch {torch.__version__}: take a newer torch or an older transformers"
        )
    return transformers


def _instances_per_process(
    criterion: nn.Module, class_labels: Sequence[Tensor], device: torch.device
) -> Tensor:
    """Instances of the batch, averaged over the processes, at least 1."""
    return mean_over_processes(sum(len(labels) for labels in class_labels), device).clamp(min=1)
