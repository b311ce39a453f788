"""The Parallel Dual-Path Transformer decoder of IAUNet v1 (section 6)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import Attention, QueryBlock, feed_forward
from .instance_activation import InstanceActivation
from .layers import init_normal, init_xavier
from .query_decoder import Memory, QueryPrediction


class PixelBlock(nn.Module):
    """One path of the pixel update (section 6.2): pixels attend to the queries, then feed-forward.

    Each with a residual and a post-norm. Equation 2 leaves the norms out; they are the code's.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.cross_attention = Attention(dim, num_heads, dropout)
        self.ffn = feed_forward(dim, ffn_dim, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        init_xavier(self)

    def forward(
        self, pixels: Tensor, position: Tensor, queries: Tensor, query_position: Tensor
    ) -> Tensor:
        """Update pixels.

        Args:
            pixels: (B, L, C); those on padding change too, and are read by no query.
            position: (L, C).
            queries: (B, Q, C).
            query_position: (Q, C).

        Returns:
            (B, L, C).
        """
        change = self.cross_attention(pixels + position, queries + query_position, queries)
        pixels = self.norms[0](pixels + self.dropout(change))
        return self.norms[1](pixels + self.dropout(self.ffn(pixels)))


class DualPathBlock(nn.Module):
    """Instance and mask features are updated in parallel, from the same queries; then the queries.

    The queries read the instance features alone, and as they are after their update (section 6.3,
    "asymmetrically"; the order is the code's).
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.instance_path = PixelBlock(dim, num_heads, ffn_dim, dropout)
        self.mask_path = PixelBlock(dim, num_heads, ffn_dim, dropout)
        self.query_path = QueryBlock(dim, num_heads, ffn_dim, dropout)

    def forward(
        self, queries: Tensor, query_position: Tensor, instance: Memory, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update everything once.

        Args:
            queries: (B, Q, C).
            query_position: (Q, C).
            instance: instance features of the level.
            mask: its mask features, flattened, (B, L, C).

        Returns:
            queries (B, Q, C), instance features (B, L, C), mask features (B, L, C).
        """
        position = instance.position
        objects = self.instance_path(instance.features, position, queries, query_position)
        mask = self.mask_path(mask, position, queries, query_position)
        queries = self.query_path(queries, query_position, objects, position, instance.allowed)
        return queries, objects, mask


@dataclass
class DualPathState:
    """What one level hands to the next.

    Attributes:
        instance, mask: updated features (B, C, h, w).
        queries: (B, N, C), the next level's support queries.
        activations: (B, N, h, w), the maps that this level's new queries were averaged with.
    """

    instance: Tensor
    mask: Tensor
    queries: Tensor
    activations: Tensor


class DualPathDecoder(nn.Module):
    """New queries at every level, beside those of the level before; one dual-path block per level.

    - A level's block sees 2N queries: N new ones of its Instance Activation layer, and the N of the
      level before as support (section 6); the coarsest level has the new ones alone.
    - After a block the first N, the new ones, are kept: they become the level's output through
      LayerNorm, a linear layer and a ReLU. The text is silent on what becomes of the support half;
      the code drops it.
    - Positions are learned, N for new and N for support queries (section 6.1). The text does not
      say whether levels share them; here each has its own, which the code's count comes out with.
    - Only the finest level's queries predict, and they alone are supervised: the text speaks of
      one set of N predictions. Heads of the coarser levels (0.2M parameters in the code) would
      predict nothing, and are left out.

    Args:
        dim: channels of queries and features.
        num_queries: N.
        num_classes: K, "no object" not counted.
        levels: of the pixel decoder.
        num_heads, ffn_dim, dropout: of each block. ``ffn_dim`` is not in the paper: 2048 is the
            released code's, 1024 comes nearest to the paper's number of parameters.
    """

    def __init__(
        self,
        dim: int = 256,
        num_queries: int = 100,
        num_classes: int = 1,
        levels: int = 4,
        num_heads: int = 8,
        ffn_dim: int = 1024,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_queries = num_queries
        # Row by row: the positions of level 0, of level 1, and so on; support begins at level 1.
        self.query_positions = nn.Embedding(levels * num_queries, dim)
        self.support_positions = nn.Embedding((levels - 1) * num_queries, dim)
        self.activations = nn.ModuleList(
            InstanceActivation(dim, num_queries) for _ in range(levels)
        )
        self.blocks = nn.ModuleList(
            DualPathBlock(dim, num_heads, ffn_dim, dropout) for _ in range(levels)
        )
        self.outputs = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.ReLU()) for _ in range(levels)
        )
        init_xavier(self.outputs)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.mask_head = nn.Linear(dim, dim)
        init_normal(self.class_head)
        init_normal(self.mask_head)

    def refine(
        self,
        level: int,
        instance: Tensor,
        mask: Tensor,
        support: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> DualPathState:
        """Work on one level.

        Args:
            level: its number, the coarsest is 0.
            instance, mask: features from the pixel decoder (B, C, h, w).
            support: queries of the level before (B, N, C).
            padding: bool (B, H, W), True where the input is padding; None where nothing is.
        """
        memory = Memory.of(instance, padding)
        allowed = None if memory.allowed is None else memory.allowed[:, 0]
        queries, maps = self.activations[level](instance, allowed)
        position = self._of_level(self.query_positions.weight, level)
        if support is not None:
            queries = torch.cat([queries, support.to(queries.dtype)], dim=1)  # (B, 2N, C)
            behind = self._of_level(self.support_positions.weight, level - 1)
            position = torch.cat([position, behind])
        flat_mask = mask.flatten(2).transpose(1, 2)
        queries, objects, pixels = self.blocks[level](queries, position, memory, flat_mask)
        kept = self.outputs[level](queries[:, : self.num_queries])
        return DualPathState(_raised(objects, memory), _raised(pixels, memory), kept, maps)

    def _of_level(self, positions: Tensor, level: int) -> Tensor:
        """Positions of all levels to those of one: (N, C)."""
        return positions[level * self.num_queries : (level + 1) * self.num_queries]

    def predict(self, queries: Tensor) -> QueryPrediction:
        """The finest level's queries (B, N, C) to class logits and mask embeddings."""
        return QueryPrediction(self.class_head(queries), self.mask_head(queries))


def _raised(pixels: Tensor, memory: Memory) -> Tensor:
    """(B, L, C) -> (B, C, h, w)."""
    return pixels.transpose(1, 2).unflatten(2, memory.size)
