"""Build transformers' Mask2Former, whose parts this project's networks take.

transformers is an extra, imported when a network is built; nothing is downloaded.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

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


# While both decoders of one network are built: transformers' whole model, whose parts they take.
_current: ContextVar[Any] = ContextVar("mask2former", default=None)


@contextmanager
def one_model(channels: Sequence[int], settings: Mask2FormerSettings) -> Iterator[Any]:
    """Let both decoders that are built inside be parts of one model of transformers.

    A seed then gives the weights that it gives transformers' own model.

    Args:
        channels: of the backbone's maps, finest first.
        settings: of the model.

    Yields:
        The ``Mask2FormerForUniversalSegmentation``.
    """
    token = _current.set(whole_model(channels, settings))
    try:
        yield _current.get()
    finally:
        _current.reset(token)


def whole_model(
    channels: Sequence[int],
    settings: Mask2FormerSettings,
    mask_channels: int = 0,
) -> Any:
    """Return the model that is built at the moment (:func:`one_model`), or build one.

    Args:
        channels: of the backbone's maps, finest first.
        settings: sizes and loss weights.
        mask_channels: of the mask features; 0 is ``settings.hidden_dim``.

    Returns:
        a ``Mask2FormerForUniversalSegmentation``.

    Raises:
        MissingExtraError: transformers is not installed.
        ValueError: sizes that transformers cannot build.
    """
    current = _current.get()
    if current is not None:
        if current.config.hidden_dim != settings.hidden_dim:
            raise ValueError(
                f"a decoder of {settings.hidden_dim} channels cannot be part of a model of "
                f"{current.config.hidden_dim}"
            )
        return current
    config = _config(channels, settings, mask_channels or settings.hidden_dim)
    return library().Mask2FormerForUniversalSegmentation(config)


def criterion(settings: Mask2FormerSettings) -> tuple[Any, dict[str, float]]:
    """Build transformers' ``Mask2FormerLoss``, and return it with the weights of its losses."""
    config = _config([8] * 4, settings, settings.hidden_dim)
    weights = {
        "loss_cross_entropy": settings.class_weight,
        "loss_mask": settings.mask_weight,
        "loss_dice": settings.dice_weight,
    }
    library()
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    return Mask2FormerLoss(config=config, weight_dict=weights), weights


def _config(channels: Sequence[int], settings: Mask2FormerSettings, mask_channels: int) -> Any:
    if settings.hidden_dim % GROUPS or settings.hidden_dim % settings.num_heads:
        raise ValueError(
            f"MODEL.MASK2FORMER.HIDDEN_DIM {settings.hidden_dim} must be divisible by {GROUPS} and "
            f"by MODEL.MASK2FORMER.NUM_HEADS {settings.num_heads}"
        )
    transformers = library()
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
        return transformers.Mask2FormerConfig(
            backbone_config=placeholder,
            num_labels=settings.num_classes,
            num_queries=settings.num_queries,
            feature_size=settings.hidden_dim,
            mask_feature_size=mask_channels,
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
    finally:
        told.setLevel(level)


def library() -> Any:
    """Import transformers.

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
