"""The query (transformer) decoder: object queries refined on each level's mask features (section
3.2).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .anchors import spread_points, window_coefficients, with_coordinates
from .attention import QueryBlock
from .layers import init_normal
from .pixel_decoder import MASK_FEATURES
from .points import sample_points
from .position import sine_encoding_of_points, sine_position_encoding


@dataclass
class QueryPrediction:
    """What one query block predicts.

    Attributes:
        class_logits: (B, Q, K + 1), the last class is "no object".
        mask_embeddings: (B, Q, C); a mask's logits are their product with the mask features.
        masks: these logits (B, Q, H/4, W/4), where the decoder has computed them on its way.
    """

    class_logits: Tensor
    mask_embeddings: Tensor
    masks: Tensor | None = None


def mask_logits(mask_embeddings: Tensor, mask_features: Tensor) -> Tensor:
    """(B, Q, C) and (B, C, H, W) to (B, Q, H, W); in the precision that the tensors have."""
    with torch.autocast(mask_features.device.type, enabled=False):
        return torch.einsum("bqc,bchw->bqhw", mask_embeddings, mask_features)


class QueryDecoder(nn.Module, ABC):
    """Refine queries on the levels of a pixel decoder, and predict a class and a mask for each.

    A decoder of your own derives from this class and defines ``forward``; its constructor takes
    ``input_shape``, the ``output_shape()`` of a :class:`~.pixel_decoder.PixelDecoder`.
    """

    @abstractmethod
    def forward(
        self,
        levels: Sequence[Tensor],
        mask_features: Tensor,
        padding: Tensor | None = None,
        every_block: bool = True,
    ) -> list[QueryPrediction]:
        """Refine the queries on the levels' features, and predict.

        Args:
            levels: of the pixel decoder, coarsest first, each (B, C, h, w).
            mask_features: of the pixel decoder, (B, C, H/4, W/4).
            padding: bool (B, H_in, W_in), True where the input is padding; None where nothing is.
            every_block: predict after every block (deep supervision), not only after the last.

        Returns:
            one prediction per block in order, or the last alone.
        """

    def extend(self, mask_features: Tensor) -> Tensor:
        """Turn the pixel decoder's mask features into those that mask embeddings are for.

        By default they stay as they are.
        """
        return mask_features


def level_projections(level_channels: Sequence[int], dim: int) -> nn.ModuleList:
    """Build a 1x1 convolution for each level of other channels than ``dim``."""
    return nn.ModuleList(
        nn.Identity() if channels == dim else nn.Conv2d(channels, dim, 1)
        for channels in level_channels
    )


class LevelQueryDecoder(QueryDecoder):
    """Refine learned queries level by level (IAUNet, section 3.2).

    There are ``levels * blocks_per_level`` query blocks without shared weights, and one set of
    prediction heads.

    Args:
        input_shape: of the pixel decoder. Levels of other channels than ``hidden_dim`` are
            projected by a 1x1 convolution each.
        hidden_dim: channels of the queries.
        num_queries: object queries.
        num_classes: K, "no object" not counted.
        blocks_per_level: L of Table 4.
        block_order: ``sequential`` (all blocks of a level, then the next) or ``cycle`` (round-robin
            over the levels).
        num_heads, ffn_dim, dropout: of each block.
        masked_attention: let a query attend only inside its own predicted mask (Mask2Former,
            section 3.2.1).
        query_init: ``learned`` vectors alone (as published), or ``grid``: each query begins with
            the finest level's features at a place of its own besides, and its position says where.
        mask_window: add a window to every mask's logits: a paraboloid around a place that the query
            predicts, so that a mask is local from the first step on. It begins at the query's
            anchor. (SMCA, Gao et al., ICCV 2021, does so to attention; not in the paper.)

    Raises:
        ValueError: unknown ``block_order`` or ``query_init``.
    """

    anchors: Tensor

    def __init__(
        self,
        *,
        input_shape: Mapping[str, Any],
        hidden_dim: int = 256,
        num_queries: int = 100,
        num_classes: int = 1,
        blocks_per_level: int = 3,
        block_order: str = "sequential",
        num_heads: int = 8,
        ffn_dim: int = 1024,
        dropout: float = 0.0,
        masked_attention: bool = False,
        query_init: str = "learned",
        mask_window: bool = False,
    ) -> None:
        super().__init__()
        if query_init not in ("learned", "grid"):
            raise ValueError(
                f"MODEL.IAUNET.QUERY_INIT is {query_init!r}; it is 'learned' or 'grid'"
            )
        level_channels = [s.channels for n, s in input_shape.items() if n != MASK_FEATURES]
        self.query_init = query_init
        self.register_buffer("anchors", spread_points(num_queries), persistent=False)
        self.level_of_block = _block_levels(len(level_channels), blocks_per_level, block_order)
        self.masked_attention = masked_attention
        self.query_features = nn.Embedding(num_queries, hidden_dim)
        self.query_positions = nn.Embedding(num_queries, hidden_dim)
        self.blocks = nn.ModuleList(
            QueryBlock(hidden_dim, num_heads, ffn_dim, dropout) for _ in self.level_of_block
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.class_head = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_head = nn.Linear(hidden_dim, input_shape[MASK_FEATURES].channels)
        self.window_head = nn.Linear(hidden_dim, 3) if mask_window else None
        init_normal(self.class_head)
        init_normal(self.mask_head)
        if self.window_head is not None:
            init_normal(self.window_head)
        self.projections = level_projections(level_channels, hidden_dim)

    def extend(self, mask_features: Tensor) -> Tensor:
        """Add the channels of places (B, 4, H, W) where masks have windows."""
        return mask_features if self.window_head is None else with_coordinates(mask_features)

    def forward(
        self,
        levels: Sequence[Tensor],
        mask_features: Tensor,
        padding: Tensor | None = None,
        every_block: bool = True,
    ) -> list[QueryPrediction]:
        """Refine and predict; see :meth:`QueryDecoder.forward`.

        Mask features are read here only for masked attention.
        """
        levels = [p(features) for p, features in zip(self.projections, levels, strict=True)]
        memories = [Memory.of(features, padding) for features in levels]
        queries, position = self._first_queries(levels[-1])
        if self.masked_attention:
            mask_features = self.extend(mask_features)
        predictions = []
        for i, (block, level) in enumerate(zip(self.blocks, self.level_of_block, strict=True)):
            memory = memories[level]
            allowed = memory.allowed
            if self.masked_attention:
                allowed = self._inside_own_mask(queries, mask_features, memory)
            queries = block(queries, position, memory.features, memory.position, allowed)
            if every_block or i == len(self.blocks) - 1:
                predictions.append(self.predict(queries))
        return predictions

    def _first_queries(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, C) before the first block, from features (B, C, h, w), and positions."""
        batch, dim = features.shape[:2]
        queries = self.query_features.weight.expand(batch, -1, -1)
        position = self.query_positions.weight
        if self.query_init == "grid":
            there = sample_points(features, self.anchors.expand(batch, -1, -1))  # (B, C, Q)
            queries = queries + there.transpose(1, 2)
            position = position + sine_encoding_of_points(self.anchors, dim).to(position.dtype)
        return queries, position

    def predict(self, queries: Tensor) -> QueryPrediction:
        """Queries (B, Q, C) to class logits and mask embeddings."""
        normed = self.norm(queries)
        embeddings = self.mask_head(normed)
        if self.window_head is not None:
            window = window_coefficients(self.window_head(normed), self.anchors)
            embeddings = torch.cat([embeddings.float(), window], dim=-1)
        return QueryPrediction(self.class_head(normed), embeddings)

    @torch.no_grad()
    def _inside_own_mask(self, queries: Tensor, mask_features: Tensor, memory: "Memory") -> Tensor:
        """Where each query may attend: (B, 1, Q, L).

        Resizing is linear, so resizing the features and then multiplying gives the resized mask at
        1/16 of the cost.
        """
        small = F.interpolate(mask_features, size=memory.size, mode="bilinear", align_corners=False)
        inside = (
            mask_logits(self.predict(queries).mask_embeddings, small).flatten(2) > 0
        )  # (B, Q, L)
        inside = inside[:, None]
        if memory.allowed is not None:
            inside = inside & memory.allowed
        nowhere = ~inside.any(dim=-1, keepdim=True)
        everywhere = memory.allowed if memory.allowed is not None else torch.ones_like(inside)
        return inside | (nowhere & everywhere)


@dataclass
class Memory:
    """One level's features as attention reads them.

    Attributes:
        features: (B, L, C).
        position: (L, C).
        allowed: (B, 1, 1, L), True on image, False on padding; None where nothing is padding.
        size: height and width of the level, L pixels.
    """

    features: Tensor
    position: Tensor
    allowed: Tensor | None
    size: tuple[int, int]

    @staticmethod
    def of(features: Tensor, padding: Tensor | None) -> "Memory":
        """Flatten features (B, C, h, w); padding (B, H, W) as of :meth:`QueryDecoder.forward`."""
        batch, dim, height, width = features.shape
        position = sine_position_encoding(height, width, dim, features.device).to(features.dtype)
        allowed = None
        if padding is not None:
            # A cell counts as image where its first pixel does; images are padded at the bottom and
            # on the right.
            rows, columns = padding.shape[1] // height, padding.shape[2] // width
            allowed = ~padding[:, ::rows, ::columns].reshape(batch, 1, 1, height * width)
        return Memory(features.flatten(2).transpose(1, 2), position, allowed, (height, width))


def _block_levels(levels: int, blocks_per_level: int, order: str) -> list[int]:
    if order == "sequential":
        return [level for level in range(levels) for _ in range(blocks_per_level)]
    if order == "cycle":
        return list(range(levels)) * blocks_per_level
    raise ValueError(f"MODEL.IAUNET.BLOCK_ORDER is {order!r}; it is 'sequential' or 'cycle'")
