"""A run of predictions as one HTML page that needs no other file."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...env import describe_environment
from ...files import atomic_write
from ...webpage import data_uri, document
from .histogram import Histogram, score_histogram, size_histogram, svg
from .report_style import STYLE

MOST_THUMBNAILS = 200
MOST_LINES = 5000  # of the table: a browser takes seconds for more
_STARTS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


@dataclass(frozen=True)
class ReportEntry:
    """What the page says of one image.

    Attributes:
        name: of the image.
        cells: how many were found.
        class_counts: class name -> cells; with several classes, each has a column.
        scores: (cells,) 0 to 1.
        areas: (cells,) in pixels.
        thumbnail: a PNG or JPEG file; None leaves the place empty.
        error: why nothing could be said of the image; None if all went well.
        seconds: that the image took.
        pixel_size: µm per pixel, vertically and horizontally; sizes are in µm² if it is known of
            every image with cells.
    """

    name: str
    cells: int = 0
    class_counts: Mapping[str, int] = field(default_factory=dict)
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    areas: np.ndarray = field(default_factory=lambda: np.zeros(0))
    thumbnail: bytes | None = None
    error: str | None = None
    seconds: float = 0.0
    pixel_size: tuple[float, float] | None = None


def write_report(
    entries: Sequence[ReportEntry], settings: Mapping[str, Any], file: str | Path
) -> None:
    """Write the page: what was found, images, distributions, failures, settings, versions.

    Args:
        entries: one per image, in the order in which they are shown.
        settings: of the run, name -> value.
        file: to write.

    Raises:
        OSError: the file cannot be written.
        ValueError: a thumbnail is neither PNG nor JPEG.
    """
    content = page(entries, settings)
    with atomic_write(file) as stream:
        # The names of files may hold bytes that are no text.
        stream.write(content.encode(errors="backslashreplace"))


def page(entries: Sequence[ReportEntry], settings: Mapping[str, Any]) -> str:
    """The text of the page; arguments as in :func:`write_report`."""
    done = [entry for entry in entries if entry.error is None]
    failed = [entry for entry in entries if entry.error is not None]
    scale, unit = _unit(done)
    body = [
        "<h1>Cells found</h1>",
        _summary(done, failed),
        _failures(failed),
        _distributions(done, scale, unit),
        _images(done, scale, unit),
        "<h2>Settings</h2>",
        _pairs(settings),
        "<h2>Versions</h2>",
        f"<pre>{html.escape(describe_environment())}</pre>",
    ]
    return document(f"Cells found: {_number(len(entries), 'image')}", "\n".join(body), STYLE)


def _unit(done: Sequence[ReportEntry]) -> tuple[dict[int, float], str]:
    """Factor of each entry's areas, by its place, and their unit."""
    if any(entry.cells for entry in done) and all(e.pixel_size or not e.cells for e in done):
        sizes = [entry.pixel_size or (0.0, 0.0) for entry in done]
        return {k: high * wide for k, (high, wide) in enumerate(sizes)}, "µm²"
    return dict.fromkeys(range(len(done)), 1.0), "pixels"


def _summary(done: Sequence[ReportEntry], failed: Sequence[ReportEntry]) -> str:
    cells = sum(entry.cells for entry in done)
    tiles = [
        (f"{len(done) + len(failed):,}", "images"),
        (f"{cells:,}", "cells"),
        (f"{cells / len(done):,.1f}" if done else "–", "cells per image"),
        (f"{np.median([e.seconds for e in done]):.2f} s" if done else "–", "median per image"),
        (f"{len(failed):,}", "failed"),
    ]
    shown = [f"<div><b>{value}</b><span>{label}</span></div>" for value, label in tiles]
    return f'<div class="tiles">{"".join(shown)}</div>'


def _failures(failed: Sequence[ReportEntry]) -> str:
    if not failed:
        return ""
    shown = failed[:MOST_LINES]
    items = [
        f"<li><b>{html.escape(entry.name)}</b>: {html.escape(entry.error or '')}</li>"
        for entry in shown
    ]
    left_out = _left_out(len(failed) - len(shown), "failure")
    return f'<h2>Failed</h2><ul class="failed">{"".join(items)}</ul>{left_out}'


def _distributions(done: Sequence[ReportEntry], scale: Mapping[int, float], unit: str) -> str:
    if not any(entry.cells for entry in done):
        return "<p>No cells were found.</p>" if done else ""
    scores = np.concatenate([entry.scores for entry in done])
    areas = np.concatenate([entry.areas * scale[k] for k, entry in enumerate(done)])
    figures = []
    if len(scores):
        figures.append(_figure(score_histogram(scores), "Scores of the cells", "score", ""))
    if len(areas):
        histogram = size_histogram(areas)
        rest = f"; median {_short(float(np.median(areas)))} {unit}"
        if histogram.beyond:
            rest += f"; {histogram.beyond:,} beyond, up to {_short(float(areas.max()))} {unit}"
        figures.append(_figure(histogram, "Sizes of the cells", f"area, {unit}", rest))
    return f'<h2>Over all images</h2><div class="plots">{"".join(figures)}</div>'


def _figure(histogram: Histogram, title: str, axis: str, rest: str) -> str:
    caption = html.escape(title + rest)
    return f"<figure>{svg(histogram, title, axis)}<figcaption>{caption}</figcaption></figure>"


def _images(done: Sequence[ReportEntry], scale: Mapping[int, float], unit: str) -> str:
    if not done:
        return ""
    classes = list(dict.fromkeys(name for entry in done for name in entry.class_counts))
    classes = classes if len(classes) > 1 else []
    heads = ["", "image", "cells", *classes, f"mean area, {unit}", "mean score", "seconds"]
    pictured = [k for k, e in enumerate(done) if e.thumbnail is not None]
    with_picture = set(pictured[:MOST_THUMBNAILS])
    lines = []
    for k, entry in enumerate(done[:MOST_LINES]):
        texts = [
            html.escape(entry.name),
            f"{entry.cells:,}",
            *(f"{entry.class_counts.get(name, 0):,}" for name in classes),
            _short(float(entry.areas.mean()) * scale[k]) if len(entry.areas) else "–",
            f"{entry.scores.mean():.3f}" if len(entry.scores) else "–",
            f"{entry.seconds:.2f}",
        ]
        picture = _picture(entry) if k in with_picture else ""
        lines.append("<tr>" + "".join(f"<td>{text}</td>" for text in [picture, *texts]) + "</tr>")
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    notes = _left_out(len(pictured) - len(with_picture), "picture")
    notes += _left_out(len(done) - len(lines), "image")
    return (
        f'<h2>Images</h2>{notes}<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _picture(entry: ReportEntry) -> str:
    content = entry.thumbnail or b""
    kind = next((k for start, k in _STARTS.items() if content.startswith(start)), None)
    if kind is None:
        raise ValueError(
            f"{entry.name}: its thumbnail begins with {content[:8]!r}; a PNG or JPEG is needed"
        )
    name = html.escape(entry.name)
    return f'<img alt="{name} with outlines" src="{data_uri(kind, content)}">'


def _pairs(settings: Mapping[str, Any]) -> str:
    rows = [
        f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in settings.items()
    ]
    return f"<dl>{''.join(rows)}</dl>"


def _left_out(count: int, what: str) -> str:
    if count <= 0:
        return ""
    return f'<p class="note">{_number(count, what)} more left out, to keep this page small.</p>'


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _short(value: float) -> str:
    """Three digits that count, or all those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
