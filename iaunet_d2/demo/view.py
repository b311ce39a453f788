"""What the page shows, as HTML and pictures."""

import html

import numpy as np

from ..drawing import instance_color
from ..inference.cells import Cells
from ..inference.outputs import FORMATS
from ..inference.outputs.coverage import coverage, overlap_fractions
from ..inference.outputs.overlay import picture
from .state import Found

LONGEST_SIDE = 1600  # of the picture, in pixels
READABLE_SIDE = 768  # smaller images are enlarged by a whole number
MOST_ROWS = 500
DOWNLOADS = "/cells"

LABELS = {
    "labels": "Label image",
    "layers": "Label layers",
    "coco": "COCO JSON",
    "geojson": "QuPath GeoJSON",
    "rois": "ImageJ ROIs",
    "csv": "CSV table",
    "overlay": "Picture",
}

# Column of the measurements -> head and decimals; lengths in µm where they are known.
_IN_PIXELS = {
    "area": ("Area, px", 0),
    "perimeter": ("Perimeter, px", 1),
    "major_axis": ("Major axis, px", 1),
    "minor_axis": ("Minor axis, px", 1),
}
_IN_UM = {
    "area_um2": ("Area, µm²", 2),
    "perimeter_um": ("Perimeter, µm", 2),
    "major_axis_um": ("Major axis, µm", 2),
    "minor_axis_um": ("Minor axis, µm", 2),
}
_RATIOS = {
    "eccentricity": ("Eccentricity", 3),
    "solidity": ("Solidity", 3),
    "overlap_fraction": ("Overlap", 3),
}
_MEAN = "mean_intensity"

STYLE = """
.gradio-container { width: 100% !important; max-width: 1400px !important;
  margin: 0 auto !important; }
#head, #status, #downloads, #table, #head > *, #status > *, #downloads > *, #table > * {
  padding-left: 0 !important; padding-right: 0 !important; }
#head h1 { font-size: 1.4rem; margin: 0; }
#head p { margin: 0; opacity: 0.75; }
.status { margin: 0; padding: 8px 12px; border-left: 4px solid #2f7d4f; border-radius: 2px;
  overflow-wrap: anywhere; }
.status.error { border-color: #c0392b; }
.status small { display: block; opacity: 0.75; }
.downloads { display: flex; flex-wrap: wrap; gap: 6px; }
.downloads p { margin: 0; width: 100%; font-weight: 600; }
.downloads a { padding: 4px 10px; border: 1px solid var(--border-color-primary);
  border-radius: 4px; color: inherit; text-decoration: none; }
.downloads a:hover { border-color: var(--color-accent); }
.cells { max-height: 420px; overflow: auto; border: 1px solid var(--border-color-primary); }
.cells table { border-collapse: collapse; border: 0 !important; width: 100%; margin: 0 !important;
  font-size: 0.9rem; }
.cells tr { border: 0 !important; }
.cells th { position: sticky; top: 0; background: var(--background-fill-secondary); }
.cells th, .cells td { padding: 4px 10px; text-align: right; white-space: nowrap; border: 0;
  border-bottom: 1px solid var(--border-color-primary); font-variant-numeric: tabular-nums; }
.cells i { display: inline-block; width: 10px; height: 10px; margin-right: 6px; }
"""


def drawing(cells: Cells) -> np.ndarray:
    """The image with outlines, small ones enlarged by a whole number: (H', W', 3) uint8, RGB."""
    drawn = picture(cells, LONGEST_SIDE)
    times = -(-READABLE_SIDE // max(drawn.shape[:2]))
    return drawn.repeat(times, axis=0).repeat(times, axis=1)


def summary(found: Found, shown: Cells, threshold: float) -> str:
    """How many cells there are, of what image."""
    height, width = shown.image_size
    count = f"{len(shown):,} cell{'' if len(shown) == 1 else 's'}"
    size = f"{width} × {height} px"
    if shown.pixel_size is not None:
        size += f", {shown.pixel_size[0]:g} µm per px"
    rest = f"score at least {threshold:.2f}; {len(found.cells):,} found in all; {size}"
    note = f"<small>{html.escape(found.note)}</small>" if found.note else ""
    name = html.escape(shown.name)
    return f'<p class="status">{name}: <b>{count}</b><small>{rest}</small>{note}</p>'


def problem(message: str) -> str:
    """An error, in place of the summary."""
    return f'<p class="status error" role="alert">{html.escape(message)}</p>'


def downloads(found: Found, threshold: float) -> str:
    """A link per format, for the cells that are shown."""
    links = [
        f'<a href="{DOWNLOADS}/{found.token}/{threshold:.2f}/{name}" download '
        f'title="{html.escape(kind.description)}">{LABELS.get(name, name)}</a>'
        for name, kind in FORMATS.items()
    ]
    return f'<div class="downloads"><p>Download these cells</p>{"".join(links)}</div>'


def table(cells: Cells) -> str:
    """The measurements, a row per cell, under the colour it is drawn in."""
    if not len(cells):
        return ""
    values = cells.take(range(min(len(cells), MOST_ROWS))).table()
    if len(cells) > MOST_ROWS:  # what other cells cover is known with all of them alone
        values["overlap_fraction"] = overlap_fractions(cells, coverage(cells))[:MOST_ROWS]
    columns = {"score": ("Score", 3), **(_IN_UM if "area_um2" in values else _IN_PIXELS), **_RATIOS}
    for key in values:
        if key.startswith(_MEAN):
            columns[key] = (f"Mean intensity {key[len(_MEAN) + 1 :]}".strip(), 1)
    texts = [[f"{x:.{digits}f}" for x in values[key]] for key, (_, digits) in columns.items()]
    heads = [head for head, _ in columns.values()]
    if len(cells.class_names) > 1:
        heads, texts = ["Class", *heads], [list(values["class"]), *texts]
    rows = []
    for i, row in enumerate(zip(*texts, strict=True)):
        red, green, blue = instance_color(i)
        mark = f'<i style="background:rgb({red},{green},{blue})"></i>{i + 1}'
        rows.append(f"<tr><td>{mark}</td>{''.join(f'<td>{html.escape(x)}</td>' for x in row)}</tr>")
    head = "".join(f"<th>{html.escape(x)}</th>" for x in ["Cell", *heads])
    more = len(cells) - len(rows)
    rest = f"<p>{more:,} more are in the CSV table.</p>" if more else ""
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="cells">{body}{rest}</div>'
