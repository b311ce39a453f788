"""A comparison as text: console, Markdown, LaTeX and CSV, all from the same cells."""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

from tabulate import tabulate

from .rows import METRICS, Comparison, Row

MISSING = "-"


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        key: of :meth:`Row.number`.
        title: its head.
        shown: a number as text.
        best: 1 if more is better, -1 if less is.
    """

    key: str
    title: str
    shown: Callable[[float], str]
    best: int


def _decimals(count: int, unit: float = 1.0) -> Callable[[float], str]:
    return lambda value: f"{value / unit:.{count}f}"


def _three_digits(value: float) -> str:
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{max(0, digits)}f}"


COLUMNS = (
    Column("parameters", "params, M", _decimals(1, 1e6), -1),
    Column("gmacs", "GMACs", _decimals(1), -1),
    *(Column(metric, metric, _decimals(1), 1) for metric in METRICS),
    Column("images_per_second", "images/s", _three_digits, 1),
    Column("ms", "ms/image", _three_digits, -1),
    Column("inference_bytes", "memory, MiB", _decimals(0, 2**20), -1),
    Column("training_bytes", "training memory, MiB", _decimals(0, 2**20), -1),
    Column("step_seconds", "s/step", _three_digits, -1),
)


def shown_columns(comparison: Comparison) -> list[Column]:
    """The columns in which some row has a number."""
    return [c for c in COLUMNS if any(math.isfinite(r.number(c.key)[0]) for r in comparison.rows)]


def cell(row: Row, column: Column) -> str:
    """Text of a cell: a number, ``mean ± deviation``, or ``median (quartiles)``."""
    if row.published and column.key in row.published.cells:
        return row.published.cells[column.key].rstrip("MG")
    value, deviation = row.number(column.key)
    if not math.isfinite(value):
        untrained = column.key in METRICS and not row.metrics and not row.published
        return "untrained" if untrained and not row.weights else MISSING
    text = column.shown(value)
    if math.isfinite(deviation):
        return f"{text} ± {column.shown(deviation)}"
    if column.key == "ms" and row.milliseconds:
        return f"{text} ({column.shown(row.number('ms_low')[0])}–{_high(row, column)})"
    return text


def _high(row: Row, column: Column) -> str:
    return column.shown(row.number("ms_high")[0])


def best_rows(comparison: Comparison, column: Column) -> set[int]:
    """Places of the measured rows with the best text of a column, if there are several rows."""
    numbers = {
        place: row.number(column.key)[0]
        for place, row in enumerate(comparison.table_rows())
        if not (row.published or row.is_seed) and math.isfinite(row.number(column.key)[0])
    }
    if len(numbers) < 2:
        return set()
    best = max(numbers.values(), key=lambda value: column.best * value)
    return {place for place, value in numbers.items() if column.shown(value) == column.shown(best)}


def row_name(row: Row) -> str:
    """Name of a row, with the number of its seeds and whether it was published elsewhere."""
    if row.published:
        return f"{row.name} (published)"
    return row.name + (f" ({len(row.weights)} seeds)" if len(row.weights) > 1 else "")


def grid(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heads, and the cells of every row, names first."""
    columns = shown_columns(comparison)
    heads = ["model", *(column.title for column in columns)]
    return heads, [[row_name(r), *(cell(r, c) for c in columns)] for r in comparison.table_rows()]


def footnotes(comparison: Comparison) -> list[str]:
    """Notes of the rows, each under its row's name, and of the whole."""
    own = [f"{row.name}: {note}" for row in comparison.measured() for note in row.notes]
    tables = dict.fromkeys(r.published.table for r in comparison.rows if r.published)
    if tables:
        own.append(
            f"published: {', '.join(tables)} of the IAUNet paper (CVPRW 2025), as printed; its "
            '"FLOPs" stand under GMACs'
        )
    return [*own, *comparison.notes]


def console(comparison: Comparison) -> str:
    """Table and notes for a terminal."""
    heads, rows = grid(comparison)
    table = tabulate(
        rows, heads, tablefmt="simple", disable_numparse=True, colalign=_aligned(heads)
    )
    return "\n".join([table, "", *footnotes(comparison)])


def markdown(comparison: Comparison) -> str:
    """Table and notes for a README."""
    heads, rows = grid(comparison)
    rows = [[text.replace("|", r"\|") for text in row] for row in rows]
    table = tabulate(rows, heads, tablefmt="pipe", disable_numparse=True, colalign=_aligned(heads))
    return "\n".join([table, "", *(f"- {note}" for note in footnotes(comparison)), ""])


def latex(comparison: Comparison) -> str:
    """A ``tabular`` with booktabs' rules; the best measured value of a column is bold."""
    heads, rows = grid(comparison)
    best = [set[int](), *(best_rows(comparison, c) for c in shown_columns(comparison))]
    lines = [
        *(f"% {note}" for note in footnotes(comparison)),
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        " & ".join(map(escaped, heads)) + r" \\",
        r"\midrule",
    ]
    table_rows, group = comparison.table_rows(), False
    for place, (row, cells) in enumerate(zip(table_rows, rows, strict=True)):
        if bool(row.published) > group:
            lines.append(r"\midrule")
            group = True
        texts = [
            rf"\textbf{{{escaped(text)}}}" if place in best[k] else escaped(text)
            for k, text in enumerate(cells)
        ]
        lines.append(" & ".join(texts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}


def escaped(text: str) -> str:
    """Text as LaTeX has it."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def csv_text(comparison: Comparison) -> str:
    """Numbers in full, a column each for mean and deviation; what is not finite is empty."""
    keys = [c.key for c in COLUMNS]
    at = keys.index("ms") + 1
    keys[at:at] = ["ms_low", "ms_high"]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    deviations = [f"{key}_sd" for key in METRICS]
    writer.writerow(["model", "published", "config", "seeds", *keys, *deviations])
    for row in comparison.table_rows():
        source = row.published.table if row.published else ""
        numbers = [row.number(key)[0] for key in keys]
        numbers += [row.number(key)[1] for key in METRICS]
        shown = [repr(value) if math.isfinite(value) else "" for value in numbers]
        writer.writerow([row.name, source, row.config, len(row.weights) or "", *shown])
    return text.getvalue()


def _aligned(heads: list[str]) -> list[str]:
    return ["left", *(["right"] * (len(heads) - 1))]
