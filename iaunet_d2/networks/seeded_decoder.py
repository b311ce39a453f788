"""Queries that begin at the cells, one at each peak of a heat map, with masks that begin local."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, feed_forward
from .layers import init_normal, init_xavier
from .local_attention import LocalAttention
from .pixel_decoder import MASK_FEATURES
from .points import sample_points
from .query_decoder import QueryDecoder, QueryPrediction, level_projections
from .seeds import STRIDE, SeedTarget, peaks
from .windows import COEFFICIENTS, UNIT, window_terms, with_places

HEAT_BIAS = -3.0
"""Of the heat map's last layer: at first no place is likely."""


@dataclass
class Seeds:
    """Where the queries of a batch began.

    Attributes:
        anchors: (B, Q, 2), x and y in pixels of the network's input.
        valid: (B, Q) bool; the others fill the batch up and are no queries.
        heat: (B, H/4, W/4), logits.
        targets: one per image, what the heat should be; None where nothing is learnt.
        taught: (B, T) int64, the instance that each teacher query is of; -1 fills up.
    """

    anchors: Tensor
    valid: Tensor
    heat: Tensor
    targets: Sequence[SeedTarget] | None
    taught: Tensor


@dataclass
class SeededPrediction(QueryPrediction):
    """Hold the prediction of one block.

    Attributes:
        seeds: where the queries began.
        teacher_embeddings: (B, T, C), mask embeddings of the teacher queries.
    """

    seeds: Seeds | None = None
    teacher_embeddings: Tensor | None = None


class RelativeBias(nn.Module):
    """Bias of attention by where two queries lie to each other: (B, heads, Q, Q)."""

    def __init__(self, num_heads: int, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_heads)
        )

    def forward(self, anchors: Tensor) -> Tensor:
        """Compare anchors (B, Q, 2), in pixels."""
        offset = (anchors[:, None] - anchors[:, :, None]) / UNIT  # (B, Q, Q, 2)
        distance = offset.norm(dim=-1, keepdim=True)
        shrunk = offset / (1 + distance)
        return self.layers(torch.cat([shrunk, distance.log1p()], dim=-1)).permute(0, 3, 1, 2)


class SeededBlock(nn.Module):
    """Attention to the places around the anchor, to the other queries, feed-forward; post-norm."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, side: int) -> None:
        super().__init__()
        self.local_attention = LocalAttention(dim, num_heads, side)
        self.self_attention = Attention(dim, num_heads, dropout)
        self.bias = RelativeBias(num_heads)
        self.ffn = feed_forward(dim, ffn_dim, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        init_xavier(self)

    def forward(
        self, queries: Tensor, features: Tensor, anchors: Tensor, stride: int, apart: Tensor
    ) -> Tensor:
        """Refine queries (B, Q, C); ``apart`` (B, 1, Q, Q) is True where two must not meet."""
        change = self.local_attention(queries, features, anchors, stride)
        queries = self.norms[0](queries + self.dropout(change))
        bias = self.bias(anchors).masked_fill(apart, -torch.inf).to(queries.dtype)
        change = self.self_attention(queries, queries, queries, bias)
        queries = self.norms[1](queries + self.dropout(change))
        return self.norms[2](queries + self.dropout(self.ffn(queries)))


class SeedSelection(nn.Module):
    """Predict a heat map of places inside instances, and let a query begin at each of its peaks.

    Args:
        dim: of the queries.
        mask_dim: of the mask features, at stride 4.
        level_dim: of the finest level, at stride 8.
    """

    def __init__(self, dim: int, mask_dim: int, level_dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.heat = nn.Sequential(
            nn.Conv2d(mask_dim, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 1, 1),
        )
        nn.init.constant_(self.heat[-1].bias, HEAT_BIAS)  # type: ignore[arg-type]
        self.content = nn.Linear(mask_dim + level_dim + 1, dim)
        self.learned = nn.Parameter(torch.zeros(dim))

    def queries(
        self, mask_features: Tensor, level: Tensor, heat: Tensor, anchors: Tensor
    ) -> Tensor:
        """Return the content (B, Q, C) of queries at anchors (B, Q, 2), in pixels.

        It knows the heat (B, H/4, W/4) besides: which of a cell's seeds is the best.
        """
        height, width = mask_features.shape[-2:]
        places = anchors / anchors.new_tensor([width * STRIDE, height * STRIDE])
        read = (mask_features, level, heat.detach()[:, None].to(level.dtype))
        there = [sample_points(maps, places) for maps in read]  # (B, C_i, Q)
        return self.content(torch.cat(there, dim=1).transpose(1, 2)) + self.learned


class SubPixelConv(nn.Sequential):
    """A map at a finer stride, by sub-pixel convolution (Shi et al., CVPR 2016).

    The features at stride 4 know what lies inside their pixel; a 1x1 convolution writes it into
    ``factor``² pixels of ``dim`` channels each.
    """

    def __init__(self, in_channels: int, dim: int, factor: int) -> None:
        super().__init__(nn.Conv2d(in_channels, dim * factor**2, 1), nn.PixelShuffle(factor))


class SeededDecoder(QueryDecoder):
    """Refine queries that begin at peaks of a heat map, on the places around them.

    Nothing here knows where in the image a place is: a cell gives the same queries in a tile and in
    the whole image, as far as the pixel decoder does. There are as many queries as peaks, up to a
    limit, and none is learned.

    Args:
        input_shape: of the pixel decoder.
        hidden_dim: channels of the queries.
        train_queries: queries of an image in training, or half as many again as it has instances,
            if these are more.
        max_queries: queries of an image at inference, at most.
        teachers: teacher queries per instance in training, each at a random place well inside it.
        threshold: least probability of a peak at inference.
        num_classes: K, "no object" not counted.
        blocks_per_level: query blocks per decoder level.
        num_heads, ffn_dim, dropout: of each block.
        side: of the square of pixels of a level that a query attends to.
        mask_stride: of the masks, 4, 2 or 1 pixels. Thin cells need less than 4: of the worms of
            BBBC010 at 256 pixels, masks at stride 4 can reach a mean IoU of 0.85, at stride 2 0.96.
        mask_dim: channels of the mask features where these are finer than stride 4.

    Raises:
        ValueError: unknown ``mask_stride``.
    """

    def __init__(
        self,
        *,
        input_shape: Mapping[str, Any],
        hidden_dim: int = 256,
        train_queries: int = 100,
        max_queries: int = 1000,
        threshold: float = 0.02,
        teachers: int = 3,
        num_classes: int = 1,
        blocks_per_level: int = 1,
        num_heads: int = 8,
        ffn_dim: int = 1024,
        dropout: float = 0.0,
        side: int = 9,
        mask_stride: int = 2,
        mask_dim: int = 32,
    ) -> None:
        super().__init__()
        if mask_stride not in (4, 2, 1):
            raise ValueError(f"MODEL.SEEDED.MASK_STRIDE is {mask_stride}; it is 4, 2 or 1")
        levels = [s for n, s in input_shape.items() if n != MASK_FEATURES]
        coarse_dim = input_shape[MASK_FEATURES].channels
        self.mask_stride = mask_stride
        factor = STRIDE // mask_stride
        mask_dim = mask_dim if factor > 1 else coarse_dim
        self.finer = SubPixelConv(coarse_dim, mask_dim, factor) if factor > 1 else nn.Identity()
        self.votes = SubPixelConv(coarse_dim, 2, factor)
        for parameter in self.votes.parameters():
            nn.init.zeros_(parameter)  # at first a pixel votes for its own place
        self.train_queries, self.max_queries = train_queries, max_queries
        self.threshold, self.teachers = threshold, teachers
        self.strides = [shape.stride for shape in levels]
        self.level_of_block = [i for i in range(len(levels)) for _ in range(blocks_per_level)]
        self.selection = SeedSelection(hidden_dim, coarse_dim, hidden_dim)
        self.blocks = nn.ModuleList(
            SeededBlock(hidden_dim, num_heads, ffn_dim, dropout, side) for _ in self.level_of_block
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.class_head = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_head = nn.Linear(hidden_dim, mask_dim)
        self.window_head = nn.Linear(hidden_dim, COEFFICIENTS)
        for head in (self.class_head, self.mask_head, self.window_head):
            init_normal(head)
        self.projections = level_projections([s.channels for s in levels], hidden_dim)

    def extend(self, mask_features: Tensor) -> Tensor:
        """Raise mask features to the masks' stride, and add the channels of the windows."""
        votes = self.votes(mask_features)
        return with_places(self.finer(mask_features), votes, self.mask_stride)

    def forward(
        self,
        levels: Sequence[Tensor],
        mask_features: Tensor,
        padding: Tensor | None = None,
        every_block: bool = True,
        targets: Sequence[SeedTarget] | None = None,
    ) -> list[QueryPrediction]:
        """Refine and predict; see :meth:`~.query_decoder.QueryDecoder.forward`.

        Args:
            targets: one per image, to learn from: teacher queries begin at their places.
        """
        seeds = self._seeds(mask_features, padding, targets)
        anchors, apart = self._with_teachers(seeds, targets)
        refined = self._refined(levels, mask_features, seeds.heat, anchors, apart)
        wanted = refined if every_block else refined[-1:]
        return [self._predict(queries, anchors, seeds) for queries in wanted]

    def at_points(self, levels: Sequence[Tensor], mask_features: Tensor, points: Tensor) -> Tensor:
        """Predict the mask at each point, as teacher queries learn to.

        Args:
            levels, mask_features: of the pixel decoder.
            points: (B, P, 2), x and y in pixels of the network's input. No point knows of another.

        Returns:
            mask embeddings (B, P, C), for the mask features of :meth:`extend`.
        """
        heat = self.selection.heat(mask_features).float()[:, 0]
        apart = ~torch.eye(points.shape[1], dtype=torch.bool, device=points.device)[None, None]
        queries = self._refined(levels, mask_features, heat, points, apart)[-1]
        return self._embeddings(self.norm(queries), points)

    def _refined(
        self,
        levels: Sequence[Tensor],
        mask_features: Tensor,
        heat: Tensor,
        anchors: Tensor,
        apart: Tensor,
    ) -> list[Tensor]:
        """Queries (B, Q, C) at anchors (B, Q, 2) after each block."""
        levels = [p(features) for p, features in zip(self.projections, levels, strict=True)]
        queries = self.selection.queries(mask_features, levels[-1], heat, anchors)
        refined = []
        for block, level in zip(self.blocks, self.level_of_block, strict=True):
            queries = block(queries, levels[level], anchors, self.strides[level], apart)
            refined.append(queries)
        return refined

    def _seeds(
        self, features: Tensor, padding: Tensor | None, targets: Sequence[SeedTarget] | None
    ) -> Seeds:
        heat = self.selection.heat(features).float()[:, 0]
        allowed = heat.detach()
        if padding is not None:
            allowed = allowed.masked_fill(padding[:, ::STRIDE, ::STRIDE], -torch.inf)
        if targets is None:
            anchors, valid = peaks(allowed, self.max_queries, self.threshold)
        else:
            most = max(len(target.places) for target in targets)
            anchors, valid = peaks(allowed, max(self.train_queries, most + most // 2), 0.0)
        none = torch.zeros(len(heat), 0, dtype=torch.int64, device=heat.device)
        return Seeds(anchors, valid, heat, targets, none)

    @staticmethod
    def _with_teachers(seeds: Seeds, targets: Sequence[SeedTarget] | None) -> tuple[Tensor, Tensor]:
        """Anchors of all queries, the teachers' last, and who must not attend to whom."""
        anchors, valid = seeds.anchors, seeds.valid
        if targets is not None and any(t.places.numel() for t in targets):
            places = [t.places.transpose(0, 1).flatten(0, 1).to(anchors.device) for t in targets]
            owners = [
                torch.arange(len(t.places)).repeat(t.places.shape[1]).to(anchors.device)
                for t in targets
            ]
            most = max(len(p) for p in places)
            filled = [F.pad(p, (0, 0, 0, most - len(p))) for p in places]
            seeds.taught = torch.stack([F.pad(o, (0, most - len(o)), value=-1) for o in owners])
            anchors = torch.cat([anchors, torch.stack(filled)], dim=1)
            valid = torch.cat([valid, seeds.taught >= 0], dim=1)
        count, own = anchors.shape[1], seeds.anchors.shape[1]
        teacher = torch.arange(count, device=anchors.device) >= own
        apart = (teacher[:, None] != teacher) | ~valid[:, None]  # (B, Q, Q)
        # A filler attends to itself alone: a row without a key would be NaN.
        itself = torch.eye(count, dtype=torch.bool, device=anchors.device)
        return anchors, (apart & ~itself)[:, None]

    def _predict(self, queries: Tensor, anchors: Tensor, seeds: Seeds) -> SeededPrediction:
        normed = self.norm(queries)
        embeddings = self._embeddings(normed, anchors)
        own = seeds.anchors.shape[1]
        # Fillers are certain to be no object.
        class_logits = self.class_head(normed[:, :own])
        nothing = torch.full_like(class_logits[0, 0], -torch.inf)
        nothing[-1] = 0
        class_logits = torch.where(seeds.valid[..., None], class_logits, nothing)
        return SeededPrediction(
            class_logits,
            embeddings[:, :own],
            seeds=seeds,
            teacher_embeddings=embeddings[:, own:],
        )

    def _embeddings(self, normed: Tensor, anchors: Tensor) -> Tensor:
        """Mask embeddings (B, Q, C) of queries after their norm."""
        window = window_terms(self.window_head(normed), anchors)
        return torch.cat([self.mask_head(normed).float(), window], dim=-1)
