"""Multi-head attention, and the block that refines queries with it (IAUNet, section 3.2)."""

import torch.nn.functional as F
from torch import Tensor, nn

from .layers import init_xavier


class Attention(nn.Module):
    """Multi-head attention through ``scaled_dot_product_attention``, with biases in every
    projection.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"HIDDEN_DIM {dim} is not divisible by NUM_HEADS {num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key, value: (B, L, C).
            allowed: bool, broadcastable to (B, heads, Q, L): True where attention may go; every row
                needs one True.

        Returns:
            (B, Q, C).
        """
        q, k, v = (
            self._split(self.query(query)),
            self._split(self.key(key)),
            self._split(self.value(value)),
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).flatten(2))  # (B, heads, Q, C/heads) -> (B, Q, C)

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, heads, L, C/heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def feed_forward(dim: int, ffn_dim: int, dropout: float = 0.0) -> nn.Sequential:
    """Two linear layers with a ReLU between them: (..., C) to (..., C)."""
    return nn.Sequential(
        nn.Linear(dim, ffn_dim),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(ffn_dim, dim),
    )


class QueryBlock(nn.Module):
    """Cross-attention to pixel features, self-attention, feed-forward; each with a residual and a
    post-norm.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.cross_attention = Attention(dim, num_heads, dropout)
        self.self_attention = Attention(dim, num_heads, dropout)
        self.ffn = feed_forward(dim, ffn_dim, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        init_xavier(self)

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Refine queries.

        Args:
            queries: (B, Q, C).
            query_position: (Q, C).
            memory: pixel features of one level, flattened, (B, L, C).
            memory_position: (L, C).
            allowed: see :meth:`Attention.forward`.

        Returns:
            (B, Q, C).
        """
        placed = queries + query_position
        change = self.cross_attention(placed, memory + memory_position, memory, allowed)
        queries = self.norms[0](queries + self.dropout(change))
        placed = queries + query_position
        queries = self.norms[1](
            queries + self.dropout(self.self_attention(placed, placed, queries))
        )
        return self.norms[2](queries + self.dropout(self.ffn(queries)))
