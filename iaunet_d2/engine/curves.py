"""A picture of the run: losses, average precision and learning rate over the iterations."""

import json
import logging
import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..files import atomic_write

logger = logging.getLogger(__name__)

Series = dict[str, list[tuple[int, float]]]

METRICS = ("/AP", "/AP50", "/AP75")


def read_metrics(path: str | Path) -> Series:
    """Read Detectron2's ``metrics.json``: one JSON object per line.

    A run that was killed and resumed has lines twice; the later one counts. A last line that a kill
    cut short is left out.

    Returns:
        name -> (iteration, value) in the order of iterations.
    """
    points: dict[str, dict[int, float]] = {}
    for line in Path(path).read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            logger.debug("%s: left out a line that is not whole: %.40s", path, line)
            continue
        for name, value in record.items():
            if name != "iteration" and math.isfinite(value):
                points.setdefault(name, {})[int(record["iteration"])] = value
    return {name: sorted(values.items()) for name, values in points.items()}


def write_curves(output_dir: str) -> None:
    """Draw ``curves.png`` from the ``metrics.json`` in the same folder, where there is one."""
    source = Path(output_dir) / "metrics.json"
    if not source.is_file():
        return
    series = read_metrics(source)
    losses = {n: v for n, v in series.items() if n.endswith("total_loss")}
    metrics = {n: v for n, v in series.items() if n.endswith(METRICS)}
    rate = {n: v for n, v in series.items() if n == "lr"}
    figure = Figure(figsize=(15, 4), layout="constrained")
    FigureCanvasAgg(figure)
    titles = ("loss", "average precision (0–100)", "learning rate")
    axes = figure.subplots(1, 3)
    for axis, title, curves in zip(axes, titles, (losses, metrics, rate), strict=True):
        _draw(axis, title, curves)
    values = [value for curve in losses.values() for _, value in curve]
    if values and max(values) > 10 * min(values) > 0:
        axes[0].set_yscale("log")
    axes[1].set_ylim(0, 100)
    with atomic_write(Path(output_dir) / "curves.png") as stream:
        figure.savefig(stream, format="png", dpi=100)


def _draw(axis: Axes, title: str, curves: Series) -> None:
    axis.set_title(title)
    axis.set_xlabel("iteration")
    axis.grid(alpha=0.3)
    for name, points in sorted(curves.items()):
        iterations, values = zip(*points, strict=True)
        axis.plot(iterations, values, marker="." if len(points) < 50 else "", label=name)
    if curves:
        axis.legend()
