"""The results as a picture: a panel for each thing that was varied."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ..compare.plots import COLORS
from .fit import growth
from .points import MODES, NUMERIC, Point
from .report import abscissa, series
from .results import Result, timed

_LABELS = {
    "batch": "images in a batch",
    "size": "side of the image, pixels",
    "queries": "queries",
    "instances": "instances an image",
}


def plot(results: Sequence[Result]) -> bytes:
    """PNG: a row for each mode; where nothing was varied, bars of all points."""
    modes = [mode for mode in MODES if any(r.point.mode == mode for r in timed(results))]
    axes_of = {mode: _varied(results, mode) for mode in modes}
    columns = max((len(names) + 1 for names in axes_of.values()), default=1)
    figure = Figure(figsize=(4.6 * columns, 3.6 * max(1, len(modes))), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(max(1, len(modes)), columns, squeeze=False)
    for panels, mode in zip(grid, modes, strict=False):
        own = [r for r in timed(results) if r.point.mode == mode]
        for panel, name in zip(panels, axes_of[mode], strict=False):
            _draw_series(panel, own, name)
        _draw_bars(panels[len(axes_of[mode])], own)
        for panel in panels[len(axes_of[mode]) + 1 :]:
            panel.set_axis_off()
        panels[0].set_title(mode, loc="left", fontweight="bold")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _varied(results: Sequence[Result], mode: str) -> list[str]:
    own = [r for r in results if r.point.mode == mode]
    return [name for name in NUMERIC if any(True for _ in series(own, name))]


def _draw_series(panel: Axes, results: Sequence[Result], name: str) -> None:
    """Time over one axis, both logarithmic, with quartiles and the exponent of the power law."""
    ticks: set[int] = set()
    for number, group in enumerate(series(results, name)):
        x = [getattr(r.point, name) for r in group]
        spreads = [t for r in group if (t := r.milliseconds()) is not None]
        middle = [s.median for s in spreads]
        whiskers = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
        fitted = growth([abscissa(r.point, name) for r in group], middle)
        what = "pixels" if name == "size" else name
        label = f"{_label(group[0].point)}: {what}^{fitted.exponent:.2f}"
        color = COLORS[number % len(COLORS)]
        panel.errorbar(x, middle, whiskers, fmt="o-", ms=5, capsize=3, color=color, label=label)
        ticks.update(x)
    panel.set(xscale="log", yscale="log", xlabel=_LABELS[name], ylabel="ms")
    panel.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([str(tick) for tick in sorted(ticks)])
    low, high = panel.get_ylim()
    middle_of_all = (low * high) ** 0.5  # what hardly grows shall look so
    panel.set_ylim(min(low, middle_of_all / 3), max(high, middle_of_all * 3))
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small", frameon=False)


def _draw_bars(panel: Axes, results: Sequence[Result]) -> None:
    """The first point of each model on each device, in each precision, compiled or not."""
    first: dict[str, Result] = {}
    for result in results:
        first.setdefault(_label(result.point), result)
    spreads = [t for r in first.values() if (t := r.milliseconds()) is not None]
    middle = [s.median for s in spreads]
    whiskers = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    places = range(len(first))
    models = list(dict.fromkeys(r.point.model for r in results))
    colors = [COLORS[models.index(r.point.model) % len(COLORS)] for r in first.values()]
    bars = panel.barh(places, middle, 0.65, xerr=whiskers, capsize=3, color=colors)
    panel.bar_label(bars, [f"{value:.3g}" for value in middle], padding=4, fontsize=8)
    panel.set_yticks(list(places), list(first))
    panel.invert_yaxis()
    panel.margins(x=0.2)
    point = next(iter(first.values())).point
    panel.set_xlabel(f"ms, batch {point.batch}, {point.size} × {point.size}")


def _label(point: Point) -> str:
    parts = [point.model, point.device if point.device != "cpu" else ""]
    parts += [point.precision if point.precision != "fp32" else ""]
    return " ".join([part for part in parts if part] + ["compiled"] * point.compiled)
