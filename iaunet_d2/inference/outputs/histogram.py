"""Histograms as SVG, to stand inside a page."""

import html
import math
from dataclasses import dataclass

import numpy as np

_WIDTH, _HEIGHT = 520, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44
_BINS = 25  # at most, of sizes
_TAIL = 99.0  # percentile of sizes up to which they are drawn


@dataclass(frozen=True)
class Histogram:
    """Counts between evenly spaced edges.

    Attributes:
        edges: (B + 1,).
        counts: (B,).
        beyond: values over the last edge, which are not drawn.
    """

    edges: np.ndarray
    counts: np.ndarray
    beyond: int = 0


def score_histogram(scores: np.ndarray) -> Histogram:
    """Scores (N,) in twentieths from 0 to 1."""
    counts, edges = np.histogram(scores, bins=20, range=(0.0, 1.0))
    return Histogram(edges, counts)


def size_histogram(sizes: np.ndarray) -> Histogram:
    """Sizes (N,) in at most 25 round steps from 0; the largest 1 % may lie beyond the last edge."""
    top = float(np.percentile(sizes, _TAIL)) if len(sizes) else 1.0
    step = round_step(top / _BINS)
    edges = step * np.arange(max(1, math.ceil(top / step - 1e-9)) + 1)
    counts, _ = np.histogram(sizes, bins=edges)
    return Histogram(edges, counts, int(np.count_nonzero(sizes > edges[-1])))


def round_step(least: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below ``least`` (over 0)."""
    power = 10.0 ** math.floor(math.log10(least))
    return power * next(k for k in (1, 2, 5, 10) if k * power >= least * (1 - 1e-9))


def svg(histogram: Histogram, title: str, axis: str) -> str:
    """A drawing of bars with axes; colours are the page's (``currentColor``, class ``bar``).

    Args:
        histogram: what to draw.
        title: for those who cannot see it, plain text.
        axis: name of the horizontal axis with its unit, plain text.
    """
    edges, counts = histogram.edges, histogram.counts
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    span, most = edges[-1] - edges[0], max(1, int(counts.max()))

    def across(value: float) -> float:
        return _LEFT + inner_width * (value - edges[0]) / span

    def up(count: float) -> float:
        return _TOP + inner_height * (1 - count / most)

    floor = up(0)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        *(_line_at(up(tick), f"{tick:,}") for tick in count_ticks(most)),
    ]
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            left, wide = across(low) + 0.5, across(high) - across(low) - 1
            label = f"{low:,.10g} to {high:,.10g}: {count:,}"
            parts.append(
                f'<rect class="bar" x="{left:.1f}" y="{up(count):.1f}" width="{wide:.1f}" '
                f'height="{floor - up(count):.1f}"><title>{label}</title></rect>'
            )
    every = max(1, math.ceil((len(edges) - 1) / 6))
    for edge in edges[::every]:
        parts.append(_text(across(edge), floor + 16, f"{edge:,.10g}", "middle"))
    parts.append(_text(_LEFT + inner_width / 2, _HEIGHT - 8, html.escape(axis), "middle"))
    return "".join([*parts, "</svg>"])


def count_ticks(most: int) -> list[int]:
    """Whole numbers from 0 to ``most``, about five, in round steps."""
    step = max(1, round(round_step(most / 4)))
    return list(range(0, most + 1, step))


def _line_at(y: float, label: str) -> str:
    line = f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(_LEFT - 6, y + 4, label, "end")


def _text(x: float, y: float, content: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{content}</text>'
