"""All metrics of all data sets in one table."""

import math
import re
from collections.abc import Mapping
from pathlib import PurePath

from tabulate import tabulate

Metrics = Mapping[str, Mapping[str, float]]


def results_table(results: Mapping[str, Metrics], tablefmt: str = "simple_outline") -> str:
    """One row per metric, grouped by task, and one column per data set.

    Args:
        results: data set -> task -> metric -> value (0 to 100).
        tablefmt: of tabulate, such as ``"pipe"`` for Markdown.

    Returns:
        The table; a metric that a data set does not have, or that could not be computed, is "-".
    """
    rows = []
    for task in dict.fromkeys(task for tasks in results.values() for task in tasks):
        metrics = dict.fromkeys(m for tasks in results.values() for m in tasks.get(task, {}))
        for place, metric in enumerate(metrics):
            values = [tasks.get(task, {}).get(metric, math.nan) for tasks in results.values()]
            rows.append([task if place == 0 else "", metric, *map(_shown, values)])
    headers = ["task", "metric", *map(_short, results)]
    aligned = ["left", "left", *(["right"] * len(results))]
    return tabulate(rows, headers=headers, tablefmt=tablefmt, colalign=aligned if rows else None)


def _shown(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _short(name: str) -> str:
    """A data set's name in a column's width: of ``coco:<json>:<folder>`` the end of the file's."""
    json_file = re.match(r"coco:(.+\.json):", name, re.IGNORECASE)
    if json_file is None:
        return name
    return "coco:" + "/".join(PurePath(json_file[1]).parts[-2:])
