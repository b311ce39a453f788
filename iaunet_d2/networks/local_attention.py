"""Attention of each query to the places around its anchor, and to no others.

DE-DETR (Wang et al., ECCV 2022, https://arxiv.org/abs/2203.09507) showed that what a small data set
lacks is a query's way to its region; it pools keys from a box. Here they are the pixels of a square
around the anchor, and their codes are of the offset alone: a cell has the same keys wherever it
lies.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .position import sine_encoding


class LocalAttention(nn.Module):
    """Multi-head attention of (B, Q, C) queries to ``side``² pixels of a map around each anchor.

    Args:
        dim: channels.
        num_heads: attention heads.
        side: of the square, pixels of the map.
    """

    def __init__(self, dim: int, num_heads: int, side: int = 9) -> None:
        super().__init__()
        self.num_heads, self.side = num_heads, side
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.place = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, features: Tensor, anchors: Tensor, stride: int) -> Tensor:
        """Attend.

        Args:
            queries: (B, Q, C).
            features: (B, C, h, w).
            anchors: (B, Q, 2), x and y in pixels of the network's input.
            stride: of the map, pixels.
        """
        batch = len(queries)
        height, width = features.shape[-2:]
        index, inside, offsets = self._square(anchors / stride, height, width)
        # Rows of one pixel each: a square is then gathered as an embedding's rows are.
        rows = self.key_value(features.flatten(2).transpose(1, 2))  # (B, h w, 2C)
        first = height * width * torch.arange(batch, device=index.device)
        around = F.embedding(index + first[:, None, None], rows.flatten(0, 1))  # (B, Q, P, 2C)
        key, value = around.unflatten(-1, (2, self.num_heads, -1)).unbind(3)  # (B, Q, P, heads, d)
        key = key + self._codes(offsets).to(key.dtype).unflatten(-1, (self.num_heads, -1))
        query = self.query(queries).unflatten(-1, (self.num_heads, -1))
        scores = (key * query[:, :, None]).sum(-1) / query.shape[-1] ** 0.5  # (B, Q, P, heads)
        # An anchor lies inside the map, so that no row is without a place.
        weights = scores.float().masked_fill(~inside[..., None], -torch.inf).softmax(2)
        mixed = (value * weights.to(value.dtype)[..., None]).sum(2)
        return self.output(mixed.flatten(2))

    def _square(self, anchors: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels around anchors (B, Q, 2), in pixels of the map, P = side².

        Returns:
            index (B, Q, P) into the map, row by row, which of them are on the map (B, Q, P), and
            the offsets of their centres from the anchor: (B, Q, side, 2), of columns and of rows.
        """
        steps = torch.arange(self.side, device=anchors.device) - self.side // 2
        pixels = anchors.floor().long()[:, :, None] + steps[:, None]  # (B, Q, side, 2)
        offsets = pixels + 0.5 - anchors[:, :, None]
        size = pixels.new_tensor([width, height])
        on_map = (pixels >= 0) & (pixels < size)
        x, y = torch.minimum(pixels.clamp(min=0), size - 1).unbind(-1)
        index = y[..., :, None] * width + x[..., None, :]
        inside = on_map[..., :, None, 1] & on_map[..., None, :, 0]
        return index.flatten(2), inside.flatten(2), offsets

    def _codes(self, offsets: Tensor) -> Tensor:
        """Project the sine codes of offsets (B, Q, side, 2): (B, Q, P, C)."""
        # A code is of y and of x in halves: what is projected of each is made once per row or
        # column.
        half = self.place.in_features // 2
        codes = sine_encoding((offsets + self.side / 2) / self.side, half).to(self.place.weight)
        by_y, by_x = self.place.weight.split(half, dim=1)
        rows = F.linear(codes[..., 1, :], by_y, self.place.bias)
        columns = F.linear(codes[..., 0, :], by_x)
        return (rows[:, :, :, None] + columns[:, :, None]).flatten(2, 3)
