"""The results as text: a table of all points, and how cost grows."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from .fit import Growth, growth
from .points import CATEGORIES, NUMERIC, Point
from .results import Result, timed

MEGAPIXEL = "megapixel"
_PER = {"batch": "image", "size": MEGAPIXEL, "queries": "query", "instances": "instance"}


def report(results: Sequence[Result], settings: Any) -> str:
    """Table, growth and notes, as Markdown.

    Args:
        results: of all points.
        settings: with the numbers of repeats and warm-up runs.
    """
    lines = [table(results), ""]
    if found := [f"- {line}" for line in growth_lines(results)]:
        lines += ["How cost grows:", "", *found, ""]
    lines.append(
        f"ms: median (quartiles) of {settings.repeats} runs after {settings.warm_up}; all points "
        "took turns. Images are noise, instances are discs; loading data is no part of it. "
        "Backbones alone are laid out as timm gives them; models are laid out channels-last, with "
        "batch norms folded for inference."
    )
    first = results[0].point.model if results else ""
    if len({r.point.model for r in results}) > 1:
        lines.append(f"× {first}: how many times as fast as {first} under the same conditions.")
    failed = [f"{_named(r.point)}: {r.failed or r.memory_failed}" for r in results]
    failed = [text for text, r in zip(failed, results, strict=True) if r.failed or r.memory_failed]
    return "\n".join([*lines, *(["", "Not measured:", ""] if failed else []), *failed, ""])


def table(results: Sequence[Result]) -> str:
    """One line per point; conditions that all points share stand above it."""
    shown = [f for f in (*CATEGORIES, *NUMERIC) if len({getattr(r.point, f) for r in results}) > 1]
    models = dict.fromkeys(r.point.model for r in results)
    ratios, shares = len(models) > 1, any(r.matcher_share is not None for r in results)
    memory = any(r.peak_bytes is not None for r in results)
    backbones = _backbones(results)
    heads = ["model", "mode", *shown, "ms", "images/s"]
    heads += [f"× {next(iter(models))}"] * ratios + ["× backbone"] * bool(backbones)
    heads += ["matcher"] * shares + ["memory, MiB"] * memory
    rows = []
    for result in results:
        point, times = result.point, result.milliseconds()
        row = [point.model, point.mode, *(_condition(point, f) for f in shown)]
        if times is None:
            rows.append([*row, "failed"])
            continue
        row.append(f"{times.median:.4g} ({times.low:.4g}–{times.high:.4g})")
        row.append(f"{1000 * point.batch / times.median:.3g}")
        if ratios:
            row.append(_ratio(results, result, next(iter(models))))
        if backbones:
            alone = backbones.get(_backbone_key(point)) if point.mode == "inference" else None
            row.append("" if alone is None else f"{times.median / alone:.2f}")
        if shares:
            share = result.matcher_share
            row.append("" if share is None else f"{100 * share:.1f} %")
        if memory:
            row.append("" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:.0f}")
        rows.append(row)
    text = tabulate(rows, heads, tablefmt="pipe", disable_numparse=True)
    same = [f for f in (*CATEGORIES, *NUMERIC) if f not in shown and results]
    common = ", ".join(f"{f} {_condition(results[0].point, f)}" for f in same)
    return f"All: {common}\n\n{text}" if common else text


def _condition(point: Point, name: str) -> str:
    value = getattr(point, name)
    if name == "compiled":
        return "yes" if value else "no"
    return "-" if name in ("queries", "instances") and value == 0 else str(value)


def _ratio(results: Sequence[Result], result: Result, first: str) -> str:
    """Time of the first model under the same conditions, by the result's."""
    own, times = _conditions_but_queries(result.point), result.milliseconds()
    candidates = [
        r
        for r in timed(results)
        if r.point.model == first
        and _conditions_but_queries(r.point) == own
        and (
            r.point.queries == result.point.queries or not (r.point.queries * result.point.queries)
        )
    ]
    reference = candidates[0].milliseconds() if candidates else None
    if reference is None or times is None:
        return ""
    return f"{reference.median / times.median:.2f}"


def _conditions_but_queries(point: Point) -> tuple[Any, ...]:
    values = asdict(point)
    return tuple(value for key, value in values.items() if key not in ("model", "queries"))


def _backbones(results: Sequence[Result]) -> dict[tuple[Any, ...], float]:
    found = {}
    for result in timed(results):
        times = result.milliseconds()
        if result.point.mode == "backbone" and times is not None:
            found[_backbone_key(result.point)] = times.median
    return found


def _backbone_key(point: Point) -> tuple[Any, ...]:
    return point.model, point.device, point.precision, point.compiled, point.batch, point.size


def series(results: Sequence[Result], axis: str) -> Iterator[list[Result]]:
    """Groups of results that differ in one number alone, ascending.

    Where the number is 0 (a model without queries) there is no series.
    """
    groups: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    for result in timed(results):
        if getattr(result.point, axis) > 0:
            groups[result.point.without(axis)].append(result)
    for group in groups.values():
        if len(group) > 1:
            yield sorted(group, key=lambda r: getattr(r.point, axis))


def abscissa(point: Point, axis: str) -> float:
    """What cost is fitted over: of sizes, megapixels."""
    return point.size**2 / 1e6 if axis == "size" else float(getattr(point, axis))


def fits(results: Sequence[Result]) -> list[dict[str, Any]]:
    """How time and memory grow along each axis, JSON-ready."""
    found = []
    for axis in NUMERIC:
        for group in series(results, axis):
            x = [abscissa(r.point, axis) for r in group]
            times = [t.median for r in group if (t := r.milliseconds()) is not None]
            peaks = [r.peak_bytes / 2**20 for r in group if r.peak_bytes]
            for what, unit, y in (("time", "ms", times), ("memory", "MiB", peaks)):
                if len(y) == len(x):
                    fit = growth(x, y)
                    entry = {"of": what, "unit": unit, "along": axis, "per": _PER[axis]}
                    ends = [getattr(group[k].point, axis) for k in (0, -1)]
                    conditions = asdict(group[0].point)
                    del conditions[axis]
                    found.append({**entry, "range": ends, "at": conditions, **asdict(fit)})
    return found


def growth_lines(results: Sequence[Result]) -> list[str]:
    """How time and memory grow, a sentence for each."""
    lines = []
    for entry in fits(results):
        fit = Growth(**{k: entry[k] for k in Growth.__dataclass_fields__})
        low, high = entry["range"]
        at = entry["at"]
        where = f"{at['model']}, {at['mode']}" + _unusual(at)
        text = fit.text(entry["unit"], entry["per"])
        lines.append(f"{where}, {entry['along']} {low}…{high}: {entry['of']} {text}")
    return lines


def _unusual(conditions: dict[str, Any]) -> str:
    text = "" if conditions["device"] == "cpu" else f", {conditions['device']}"
    text += "" if conditions["precision"] == "fp32" else f", {conditions['precision']}"
    return text + (", compiled" if conditions["compiled"] else "")


def _named(point: Point) -> str:
    conditions = ", ".join(f"{f} {_condition(point, f)}" for f in (*CATEGORIES, *NUMERIC))
    return f"{point.model}, {point.mode}, {conditions}"
