"""Seeded queries with one part exchanged, for ``ablation.py``: imported into a training.

The environment variable ``ABLATION`` names the function that exchanges the part. None of these is a
key of the package: they were tried, and are kept so that the table in RESULTS.md can be repeated.
"""

import math
import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iaunet_d2.networks import seeded_criterion, seeded_decoder, seeds, windows
from iaunet_d2.networks.attention import Attention
from iaunet_d2.networks.matcher import Match
from iaunet_d2.networks.position import sine_encoding_of_points, sine_position_encoding
from iaunet_d2.networks.seeded_decoder import SeededDecoder
from iaunet_d2.networks.windows import COEFFICIENTS, ELLIPSE


def grid() -> None:
    """Begin at a regular grid, as dense as there are queries in training, not at peaks."""

    def spread(heat: Tensor, limit: int, threshold: float) -> tuple[Tensor, Tensor]:
        batch, height, width = heat.shape
        rows = max(1, round(math.sqrt(min(limit, 100) * height / width)))
        columns = max(1, round(rows * width / height))
        y = (torch.arange(rows) + 0.5) * height / rows
        x = (torch.arange(columns) + 0.5) * width / columns
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(-1, 2) * seeds.STRIDE
        return places.expand(batch, -1, -1), torch.ones(batch, len(places), dtype=torch.bool)

    seeded_decoder.peaks = spread


def no_window() -> None:
    """Leave a bias of the whole mask of the window, nothing else."""

    def flat(predicted: Tensor, anchors: Tensor) -> Tensor:
        return F.pad(predicted[..., -1:].float(), (COEFFICIENTS - 1, 0))

    seeded_decoder.window_terms = flat


def no_votes() -> None:
    """Leave the window on places alone."""
    terms = seeded_decoder.window_terms

    def on_places(predicted: Tensor, anchors: Tensor) -> Tensor:
        still = predicted.clone()
        still[..., ELLIPSE : 2 * ELLIPSE] = 0
        still[..., ELLIPSE + 2 : ELLIPSE + 4] = -4  # as wide as it goes
        return terms(still, anchors)

    seeded_decoder.window_terms = on_places


def votes_alone() -> None:
    """Leave the window on votes alone, as narrow at the start as the other."""
    windows.VOTE_SHARPNESS = windows.SHARPNESS
    terms = seeded_decoder.window_terms

    def on_votes(predicted: Tensor, anchors: Tensor) -> Tensor:
        still = predicted.clone()
        still[..., :ELLIPSE] = 0
        still[..., 2:4] = -4
        return terms(still, anchors)

    seeded_decoder.window_terms = on_votes


def ridge() -> None:
    """Make the heat the squared distance to the outside, as a share of its maximum."""

    def raise_heat(
        heat: np.ndarray, mask: np.ndarray, corner: Any, seed: Any, radius: float
    ) -> None:
        distance = np.pad(seeds.inner_distance(mask), seeds.STRIDE) / radius
        left, top = corner
        columns = np.arange(left // 4, (left + mask.shape[1] - 1) // 4 + 1)
        rows = np.arange(top // 4, (top + mask.shape[0] - 1) // 4 + 1)
        x, y = (columns + 0.5) * 4 - left, (rows + 0.5) * 4 - top
        values = distance[y.astype(int) + 4][:, x.astype(int) + 4] ** 2
        values[int(seed[1] + top) // 4 - rows[0], int(seed[0] + left) // 4 - columns[0]] = 1
        region = heat[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.maximum(region, values.astype(np.float32), out=region)

    seeds._raise_heat = raise_heat


def no_heat_in_content() -> None:
    """Let queries not know how hot their places are."""
    queries = seeded_decoder.SeedSelection.queries
    seeded_decoder.SeedSelection.queries = lambda self, features, level, heat, anchors: queries(
        self, features, level, torch.zeros_like(heat), anchors
    )


def heat_score() -> None:
    """Multiply the class probability by the heat of the query's place."""
    predict = SeededDecoder._predict

    def scored(self: SeededDecoder, queries: Tensor, anchors: Tensor, found: Any) -> Any:
        prediction = predict(self, queries, anchors, found)
        if self.training:
            return prediction
        cells = (found.anchors / seeds.STRIDE).long()
        rows = torch.arange(len(cells))[:, None]
        heat = found.heat.sigmoid()[rows, cells[..., 1], cells[..., 0]][..., None]
        probability = prediction.class_logits.float().softmax(-1)[..., :-1] * heat
        rest = 1 - probability.sum(-1, keepdim=True)
        prediction.class_logits = torch.cat([probability, rest], -1).clamp(min=1e-9).log()
        return prediction

    SeededDecoder._predict = scored


class WholeAttention(nn.Module):
    """Attention to a whole level, as ``LocalAttention`` is called; codes are of the image."""

    def __init__(self, dim: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.attention = Attention(dim, num_heads)
        self.inside: Tensor | None = None

    def forward(self, queries: Tensor, features: Tensor, anchors: Tensor, stride: int) -> Tensor:
        """Attend inside the masks that were set, or everywhere."""
        rows = features.flatten(2).transpose(1, 2)
        code = sine_position_encoding(*features.shape[-2:], rows.shape[-1]).to(rows)
        size = torch.tensor([features.shape[3], features.shape[2]]) * stride
        scaled = (anchors / size).flatten(0, 1)
        own = sine_encoding_of_points(scaled, rows.shape[-1]).view(*anchors.shape[:2], -1).to(rows)
        return self.attention(queries + own, rows + code, rows, self.inside)


def masked_attention() -> None:
    """Attend to the whole level, inside the query's own mask of the block before."""
    seeded_decoder.LocalAttention = WholeAttention

    def refined(
        self: SeededDecoder, levels: Any, features: Tensor, heat: Tensor, anchors: Any, apart: Any
    ) -> list[Tensor]:
        levels = [p(maps) for p, maps in zip(self.projections, levels, strict=True)]
        queries = self.selection.queries(features, levels[-1], heat, anchors)
        extended, found = self.extend(features), []
        for block, level in zip(self.blocks, self.level_of_block, strict=True):
            with torch.no_grad():
                size = levels[level].shape[-2:]
                small = F.interpolate(extended, size=size, mode="bilinear", align_corners=False)
                embeddings = self._embeddings(self.norm(queries), anchors)
                inside = (torch.einsum("bqc,bchw->bqhw", embeddings, small) > 0).flatten(2)
                inside |= ~inside.any(-1, keepdim=True)
            block.local_attention.inside = inside[:, None]
            queries = block(queries, levels[level], anchors, self.strides[level], apart)
            found.append(queries)
        return found

    SeededDecoder._refined = refined


def no_attention() -> None:
    """Leave out the attention to the image: queries know the features at their places alone."""

    class Nothing(nn.Module):
        def __init__(self, dim: int, num_heads: int, side: int) -> None:
            super().__init__()

        def forward(self, queries: Tensor, *others: Any) -> Tensor:
            return torch.zeros_like(queries)

    seeded_decoder.LocalAttention = Nothing


def window_from_last_block() -> None:
    """Predict each block's window as a change of the block's before."""
    refined, predict = SeededDecoder._refined, SeededDecoder._predict

    def summed(self: SeededDecoder, *arguments: Any) -> list[Tensor]:
        found, window = refined(self, *arguments), torch.zeros(())
        self.made = []
        for queries in found:
            window = window.detach() + self.window_head(self.norm(queries))
            self.made.append((queries, window))
        return found

    def predicted(self: SeededDecoder, queries: Tensor, anchors: Tensor, found: Any) -> Any:
        self.now = next(window for own, window in self.made if own is queries)
        return predict(self, queries, anchors, found)

    def embeddings(self: SeededDecoder, normed: Tensor, anchors: Tensor) -> Tensor:
        window = seeded_decoder.window_terms(self.now, anchors)
        return torch.cat([self.mask_head(normed).float(), window], dim=-1)

    SeededDecoder._refined, SeededDecoder._predict = summed, predicted
    SeededDecoder._embeddings = embeddings


def window_off_last() -> None:
    """Leave the window out of the last block's masks."""
    forward = SeededDecoder.forward

    def changed(self: SeededDecoder, *arguments: Any, **options: Any) -> Any:
        predictions = forward(self, *arguments, **options)
        for name in ("mask_embeddings", "teacher_embeddings"):
            own = getattr(predictions[-1], name)
            flat = torch.cat([own[..., :-COEFFICIENTS], 0 * own[..., -COEFFICIENTS:]], -1)
            setattr(predictions[-1], name, flat)
        return predictions

    SeededDecoder.forward = changed


def truth_twice() -> None:
    """Match every instance to two queries; the mask NMS has to take one away."""
    solve = seeded_criterion.hungarian

    def twice(costs: list[Tensor]) -> list[Match]:
        counts = [cost.shape[2] for cost in costs]
        matches = solve([torch.cat([cost, cost], 2) for cost in costs])
        return [
            Match(m.queries, m.targets % max(n, 1)) for m, n in zip(matches, counts, strict=True)
        ]

    seeded_criterion.hungarian = twice


if os.environ.get("ABLATION"):
    globals()[os.environ["ABLATION"]]()
