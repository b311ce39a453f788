"""Mask2Former from transformers, on this project's backbones (Cheng et al., CVPR 2022,
https://arxiv.org/abs/2112.01527).

Pixel decoder, query decoder, class head and criterion are transformers' own modules with its own
initialisation.
"""

import types
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .criterion import Target, mean_over_processes
from .maps import ShapedBackbone, maps_at
from .pixel_decoder import MASK_FEATURES, PixelDecoder
from .query_decoder import QueryDecoder, QueryPrediction, level_projections
from .query_network import QueryNetwork, QueryOutput
from .transformers_parts import Mask2FormerSettings, criterion, whole_model


class _AsInTransformers(nn.Module):
    """A part whose ``module`` is transformers', and whose checkpoints have that module's names."""

    module: Any

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tensors without ``module.`` in their names."""
        return _renamed(
            super().state_dict(*args, **kwargs), kwargs.get("prefix", ""), "module.", ""
        )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        own = tuple(f"{prefix}{name}." for name in self._modules)
        for name in [n for n in state_dict if n.startswith(prefix) and not n.startswith(own)]:
            state_dict[f"{prefix}module.{name.removeprefix(prefix)}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _renamed(state: Any, prefix: str, before: str, after: str) -> Any:
    """Exchange the beginning of names behind ``prefix``, in place."""
    for name in [n for n in state if n.startswith(prefix + before)]:
        state[prefix + after + name.removeprefix(prefix + before)] = state.pop(name)
    return state


class DeformablePixelDecoder(_AsInTransformers, PixelDecoder):
    """Decode by multi-scale deformable attention (Mask2Former, section 3.2.1), transformers'.

    Args:
        input_shape: channels and strides of the backbone's maps, by name.
        hidden_dim: channels of everything that leaves; a multiple of 32.
        num_heads: attention heads; they divide ``hidden_dim``.
        encoder_layers: deformable attention layers.
        encoder_ffn_dim: width of their feed-forward layers.

    Raises:
        MissingExtraError: transformers is not installed.
        MissingStrideError: a map at stride 4, 8, 16 or 32 is missing.
        ValueError: sizes that transformers cannot build.
    """

    def __init__(
        self,
        *,
        input_shape: Mapping[str, Any],
        hidden_dim: int = 256,
        num_heads: int = 8,
        encoder_layers: int = 6,
        encoder_ffn_dim: int = 1024,
    ) -> None:
        super().__init__()
        self.maps = maps_at(input_shape)
        self.level_channels, self.mask_channels = [hidden_dim] * 3, hidden_dim
        settings = Mask2FormerSettings(
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            encoder_layers=encoder_layers,
            encoder_ffn_dim=encoder_ffn_dim,
            decoder_layers=1,
        )
        whole = whole_model(self.maps.channels, settings)
        self.module = whole.model.pixel_level_module.decoder

    def forward(self, maps: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """Decode a backbone's maps; see :meth:`~.pixel_decoder.PixelDecoder.forward`."""
        selected = self.maps.of(maps)
        # In float32, as the authors' code does: positions and sampling offsets are too coarse in
        # half precision.
        with torch.autocast(device_type=selected[0].device.type, enabled=False):
            pixels = self.module([m.float() for m in selected])
        return list(pixels.multi_scale_features), pixels.mask_features


class MaskedQueryDecoder(_AsInTransformers, QueryDecoder):
    """Refine queries by masked attention, round-robin over the levels (Mask2Former), transformers'.

    It predicts from the raw queries and after every layer, whether or not these are asked for: a
    mask says where the next layer attends. As published, padding takes part in attention like any
    other pixel.

    Args:
        input_shape: of the pixel decoder, with three levels. Those of other channels than
            ``hidden_dim`` are projected by a 1x1 convolution each.
        hidden_dim: channels of the queries; a multiple of 32.
        num_queries: object queries.
        num_classes: K, "no object" not counted.
        num_heads: attention heads; they divide ``hidden_dim``.
        decoder_layers: layers.
        ffn_dim: width of their feed-forward layers.

    Raises:
        MissingExtraError: transformers is not installed.
        ValueError: sizes that transformers cannot build.
    """

    def __init__(
        self,
        *,
        input_shape: Mapping[str, Any],
        hidden_dim: int = 256,
        num_queries: int = 100,
        num_classes: int = 1,
        num_heads: int = 8,
        decoder_layers: int = 9,
        ffn_dim: int = 2048,
    ) -> None:
        super().__init__()
        channels = [s.channels for n, s in input_shape.items() if n != MASK_FEATURES]
        if len(channels) != 3:
            raise ValueError(
                f"Mask2Former's query decoder reads three levels; the pixel decoder "
                f"(MODEL.PIXEL_DECODER.NAME) gives {len(channels)}"
            )
        settings = Mask2FormerSettings(
            num_classes=num_classes,
            num_queries=num_queries,
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            decoder_layers=decoder_layers,
            ffn_dim=ffn_dim,
            encoder_layers=1,
        )
        whole = whole_model([8] * 4, settings, input_shape[MASK_FEATURES].channels)
        self.module = whole.model.transformer_module
        self.class_head = whole.class_predictor
        self.projections = level_projections(channels, hidden_dim)

    def forward(
        self,
        levels: Sequence[Tensor],
        mask_features: Tensor,
        padding: Tensor | None = None,
        every_block: bool = True,
    ) -> list[QueryPrediction]:
        """Refine and predict; see :meth:`~.query_decoder.QueryDecoder.forward`."""
        projected = [p(level) for p, level in zip(self.projections, levels, strict=True)]
        embeddings: list[Tensor] = []  # transformers multiplies them and keeps the masks alone
        embedder = self.module.decoder.mask_predictor.mask_embedder
        hook = embedder.register_forward_hook(lambda _, __, output: embeddings.append(output))
        try:
            decoded = self.module(
                multi_scale_features=projected,
                mask_features=mask_features,
                output_hidden_states=True,
            )
        finally:
            hook.remove()
        # (Q, B, C) -> (B, Q, C) -> (B, Q, K + 1)
        states = [state.transpose(0, 1) for state in decoded.intermediate_hidden_states]
        masks = decoded.masks_queries_logits
        return [
            QueryPrediction(self.class_head(state), embedding, mask)
            for state, embedding, mask in zip(states, embeddings, masks, strict=True)
        ]


class Mask2FormerNetwork(QueryNetwork):
    """Turn images into class and mask logits of every layer; the losses are here too.

    In the losses padding is background.

    Args:
        backbone, pixel_decoder, query_decoder: see :class:`~.query_network.QueryNetwork`.
        settings: loss weights and points.

    Raises:
        MissingExtraError: transformers is not installed.
    """

    def __init__(
        self,
        backbone: ShapedBackbone,
        pixel_decoder: PixelDecoder,
        query_decoder: QueryDecoder,
        settings: Mask2FormerSettings,
    ) -> None:
        super().__init__(backbone, pixel_decoder, query_decoder)
        self.criterion, self.loss_weights = criterion(settings)
        # transformers averages over processes only where accelerate started them.
        self.criterion.get_num_masks = types.MethodType(_instances_per_process, self.criterion)

    def losses(self, output: QueryOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Compute transformers' losses, already weighted.

        Args:
            output: of a batch.
            targets: one per image, masks at the size of the padded input.

        Returns:
            ``loss_ce``, ``loss_mask`` and ``loss_dice`` of the last prediction, and the same with
            ``_0``, ``_1`` … for the earlier ones.
        """
        # In float32 whatever autocast does: half precision overflows in the sums over points.
        with torch.autocast(device_type=output.mask_features.device.type, enabled=False):
            pairs = [
                {
                    "masks_queries_logits": output.masks(i).float(),
                    "class_queries_logits": prediction.class_logits.float(),
                }
                for i, prediction in enumerate(output.predictions)
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

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tensors, those of a masked query decoder's class head as ``class_head``."""
        state, prefix = super().state_dict(*args, **kwargs), kwargs.get("prefix", "")
        if isinstance(self.query_decoder, MaskedQueryDecoder):
            _renamed(state, prefix, "query_decoder.class_head.", "class_head.")
        return state

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if isinstance(self.query_decoder, MaskedQueryDecoder):
            _renamed(state_dict, prefix, "class_head.", "query_decoder.class_head.")
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _instances_per_process(
    criterion: nn.Module, class_labels: Sequence[Tensor], device: torch.device
) -> Tensor:
    """Instances of the batch, averaged over the processes, at least 1."""
    return mean_over_processes(sum(len(labels) for labels in class_labels), device).clamp(min=1)
