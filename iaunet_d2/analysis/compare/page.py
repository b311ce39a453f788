"""The comparison as one HTML file that needs no other: table, plots, pictures."""

import html
from collections.abc import Sequence

from ...webpage import data_uri, document
from .pictures import Strip
from .plots import plots
from .rows import Comparison
from .tables import best_rows, footnotes, grid, shown_columns

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1b; background: #fff;
  margin: 2rem auto; padding: 0 1.2rem; max-width: 1500px; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.sub { color: #555; margin-top: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .28rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #333; } tbody tr { border-bottom: 1px solid #e4e4e4; }
tr.published td { color: #777; font-style: italic; } td.best { font-weight: 700; }
img.plot { max-width: 100%; height: auto; display: block; }
.strip { display: flex; gap: 10px; overflow-x: auto; margin: .4rem 0 1.6rem; }
figure { margin: 0; flex: 0 0 auto; } figure img { display: block; max-width: 480px; }
figcaption { font-size: .84rem; } figcaption b { display: block; }
ul, pre { font-size: .84rem; color: #444; } pre { overflow-x: auto; }
"""


def page(comparison: Comparison, strips: Sequence[Strip] = (), command: str = "") -> str:
    """The HTML file.

    Args:
        comparison: everything measured.
        strips: images side by side.
        command: that made it, to be shown.
    """
    body = [
        f"<h1>{html.escape(comparison.dataset)}</h1>",
        f'<p class="sub">{comparison.images} images, {html.escape(comparison.device)}; '
        f"multiply-accumulates of a {comparison.size} × {comparison.size} image</p>",
        f'<div class="wide">{_table(comparison)}</div>',
        "<ul>",
        *(f"<li>{html.escape(note)}</li>" for note in footnotes(comparison)),
        "</ul>",
    ]
    for title, png in plots(comparison).items():
        body.append(f"<h2>{title}</h2>")
        body.append(f'<img class="plot" alt="{title}" src="{data_uri("png", png)}">')
    if strips:
        body.append("<h2>The same images</h2>")
        body += [_strip(strip) for strip in strips]
    body.append("<h2>How this was made</h2>")
    made = "\n\n".join(part for part in (command, comparison.environment) if part)
    body.append(f"<pre>{html.escape(made)}</pre>")
    return document(f"Comparison on {comparison.dataset}", "\n".join(body), _STYLE)


def _table(comparison: Comparison) -> str:
    heads, rows = grid(comparison)
    best = [set[int](), *(best_rows(comparison, c) for c in shown_columns(comparison))]
    lines = ["<table><thead><tr>"]
    lines += [f"<th>{html.escape(head)}</th>" for head in heads]
    lines.append("</tr></thead><tbody>")
    for place, (row, cells) in enumerate(zip(comparison.table_rows(), rows, strict=True)):
        lines.append('<tr class="published">' if row.published else "<tr>")
        for column, text in enumerate(cells):
            kind = ' class="best"' if place in best[column] else ""
            lines.append(f"<td{kind}>{html.escape(text)}</td>")
        lines.append("</tr>")
    return "".join([*lines, "</tbody></table>"])


def _strip(strip: Strip) -> str:
    figures = [
        f'<figure><img alt="{html.escape(panel.title)}" src="{data_uri("jpeg", panel.jpeg)}">'
        f"<figcaption><b>{html.escape(panel.title)}</b>{html.escape(panel.caption)}</figcaption>"
        "</figure>"
        for panel in strip.panels
    ]
    return f'<p>{html.escape(strip.name)}</p><div class="strip">{"".join(figures)}</div>'
