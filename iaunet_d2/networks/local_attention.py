"""Attention of each query to the places around its anchor, and to no others.

DE-DETR (Wang et al., ECCV 2022, https://arxiv.org/abs/2203.09507) showed that what a small data set
lacks is a query's way to its region; it pools keys from a box. Here they lie on a grid around the
anchor, and their codes are of the offset alone: a cell has the same keys wherever it lies.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .points import sample_points
from .position import sine_encoding_of_points


class LocalAttention(nn.Module):
    """Multi-head attention of (B, Q, C) queries to ``side``² samples of a map around each anchor.

    Args:
        dim: channels.
        num_heads: attention heads.
        side: samples per side of the grid, one pixel of the map apart.
    """

    codes: Tensor

    def __init__(self, dim: int, num_heads: int, side: int = 9) -> None:
        super().__init__()
        self.num_heads, self.side = num_heads, side
        self.query = nn.Linear(dim, dim)
        self.key = nn.Conv2d(dim, dim, 1)
        self.value = nn.Conv2d(dim, dim, 1)
        self.place = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        steps = (torch.arange(side) + 1.0) / side
        ys, xs = torch.meshgrid(steps, steps, indexing="ij")
        codes = sine_encoding_of_points(torch.stack([xs, ys], -1).view(-1, 2), dim)
        self.register_buffer("codes", codes, persistent=False)

    def forward(self, queries: Tensor, features: Tensor, anchors: Tensor, stride: int) -> Tensor:
        """Attend.

        Args:
            queries: (B, Q, C).
            features: (B, C, h, w).
            anchors: (B, Q, 2), x and y in pixels of the network's input.
            stride: of the map, pixels.
        """
        count = queries.shape[1]
        height, width = features.shape[-2:]
        steps = torch.arange(self.side, device=anchors.device) - (self.side - 1) / 2
        ys, xs = torch.meshgrid(steps, steps, indexing="ij")
        offsets = torch.stack([xs, ys], -1).view(-1, 2)  # (P, 2), pixels of the map
        places = anchors[:, :, None] / stride + offsets  # (B, Q, P, 2)
        size = places.new_tensor([width, height])
        inside = ((places > 0) & (places < size)).all(-1)  # (B, Q, P)
        maps = torch.cat([self.key(features), self.value(features)], dim=1)
        sampled = sample_points(maps, (places / size).flatten(1, 2))  # (B, 2C, Q P)
        key, value = sampled.unflatten(2, (count, -1)).permute(0, 2, 3, 1).chunk(2, dim=-1)
        key = key + self.place(self.codes)
        q, k, v = (self._split(x) for x in (self.query(queries)[:, :, None], key, value))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=inside[:, :, None, None])
        return self.output(mixed.transpose(2, 3).flatten(3)[:, :, 0])

    def _split(self, x: Tensor) -> Tensor:
        """(B, Q, P, C) -> (B, Q, heads, P, C / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(2, 3)
