"""Bars and scatter plots of a comparison, as PNG."""

import io
import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .rows import Comparison, Row

BARS = ("AP", "AP50", "AP75", "AP-overlapping", "AP-separate")
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b2a300")
PUBLISHED = "#9a9a9a"
_COSTS: tuple[tuple[str, str, float], ...] = (
    ("ms", "ms per image", 1.0),
    ("inference_bytes", "peak memory, inference, MiB", 2**20),
    ("step_seconds", "s per training step", 1.0),
    ("training_bytes", "peak memory, training, MiB", 2**20),
)
_AGAINST: tuple[tuple[str, str, float], ...] = (
    ("gmacs", "GMACs", 1.0),
    ("parameters", "parameters, M", 1e6),
    ("images_per_second", "images per second", 1.0),
)


def plots(comparison: Comparison) -> dict[str, bytes]:
    """Title -> PNG; accuracy is left out where nothing was evaluated."""
    drawn = {}
    if comparison.evaluated:
        drawn["Accuracy"] = accuracy_bars(comparison)
        drawn["Accuracy against cost"] = scatter_plots(comparison)
    drawn["Cost"] = cost_bars(comparison)
    return drawn


def accuracy_bars(comparison: Comparison) -> bytes:
    """AP of each measured model, and of groups of instances; deviation over seeds as whiskers."""
    rows = [row for row in comparison.measured() if row.metrics]
    figure = _figure(1.6 * len(BARS) + 3, 3.6)
    axis = figure.subplots()
    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        numbers = [row.number(metric) for metric in BARS]
        at = np.arange(len(BARS)) + (place - (len(rows) - 1) / 2) * width
        heights = [0.0 if math.isnan(mean) else mean for mean, _ in numbers]
        whiskers = [0.0 if math.isnan(deviation) else deviation for _, deviation in numbers]
        bars = axis.bar(
            at,
            heights,
            width * 0.94,
            yerr=whiskers if any(whiskers) else None,
            capsize=3,
            color=_color(place),
            label=row.name,
        )
        texts = ["" if math.isnan(mean) else f"{mean:.1f}" for mean, _ in numbers]
        axis.bar_label(bars, texts, padding=1, fontsize=7)
    axis.set_xticks(np.arange(len(BARS)), BARS)
    axis.set_ylabel("%")
    axis.margins(y=0.12)
    _plain(axis)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return _png(figure)


def scatter_plots(comparison: Comparison) -> bytes:
    """AP against multiply-accumulates, parameters and speed; published rows are hollow."""
    figure = _figure(13.5, 4.3)
    axes = figure.subplots(1, len(_AGAINST))
    for axis, (key, label, unit) in zip(axes, _AGAINST, strict=True):
        place = 0
        for row in comparison.rows:
            place += row.published is None
            cost, (mean, deviation) = row.number(key)[0] / unit, row.number("AP")
            if math.isfinite(cost) and math.isfinite(mean):
                _point(axis, row, cost, mean, deviation, _color(place - 1))
        axis.set(xlabel=label, ylabel="AP" if key == "gmacs" else "")
        axis.margins(x=0.15, y=0.15)
        axis.set_xlim(0, 1.05 * axis.get_xlim()[1])
        _plain(axis)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    kept = dict(zip(labels, handles, strict=True))
    columns = min(5, max(1, len(kept)))
    figure.legend(
        kept.values(), kept.keys(), loc="outside lower center", ncols=columns, frameon=False
    )
    return _png(figure)


def _point(axis: Axes, row: Row, cost: float, mean: float, deviation: float, color: str) -> None:
    if row.published:
        ours = row.published.model == "IAUNet"
        axis.plot(
            [cost],
            [mean],
            "D" if ours else "o",
            label="IAUNet, published" if ours else "others, published",
            ls="none",
            mfc="white",
            mec=COLORS[0] if ours else PUBLISHED,
            ms=5,
            zorder=1,
        )
        return
    whisker = None if math.isnan(deviation) else deviation
    axis.errorbar(
        [cost], [mean], whisker, fmt="o", ms=8, color=color, capsize=3, label=row.name, zorder=2
    )


def cost_bars(comparison: Comparison) -> bytes:
    """Time and memory of each measured model; of times per image the quartiles too."""
    rows = comparison.measured()
    shown = [c for c in _COSTS if any(math.isfinite(r.number(c[0])[0]) for r in rows)]
    figure = _figure(3.6 * len(shown) + 1, 0.9 + 0.38 * len(rows))
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    at = np.arange(len(rows))
    colors = [_color(place) for place in range(len(rows))]
    for axis, (key, label, unit) in zip(axes, shown, strict=True):
        values = [_zero(row.number(key)[0] / unit) for row in rows]
        whiskers = None
        if key == "ms":
            low = [v - _zero(r.number("ms_low")[0]) for r, v in zip(rows, values, strict=True)]
            high = [_zero(r.number("ms_high")[0]) - v for r, v in zip(rows, values, strict=True)]
            whiskers = [low, high]
        bars = axis.barh(at, values, 0.7, xerr=whiskers, capsize=3, color=colors)
        texts = [f"{v:.3g}" if v < 1000 else f"{v:.0f}" for v in values]
        axis.bar_label(bars, texts, padding=4, fontsize=8)
        axis.set_yticks(at, [row.name for row in rows])
        axis.set_xlabel(label)
        axis.margins(x=0.18)
        _plain(axis)
    axes[0].invert_yaxis()
    return _png(figure)


def _zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _color(place: int) -> str:
    return COLORS[place % len(COLORS)]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axis: Axes) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
