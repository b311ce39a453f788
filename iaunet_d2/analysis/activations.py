"""Pages that show where in the image the queries of IAUNet v1 came from.

The paper's claim is that its queries explain themselves: a query is the average of the pixels that
its activation map highlights, learnt from nothing but the final masks (section 5).
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from scipy import ndimage

from ..data.readers import stretched
from ..drawing import displayable, instance_color
from ..files import atomic_write
from ..inference.outputs.outlines import outline
from ..inference.sources.base import ArrayPlane, Plane
from ..meta_arch.iaunet_v1 import Explanation, IAUNetV1
from .contact_sheet import fitted

if TYPE_CHECKING:
    from ..inference.segmenter import Segmenter

logger = logging.getLogger(__name__)

SUFFIX = ".activations.png"
PANEL_WIDTH = 2.4  # inches
DPI = 120
LONGEST_SIDE = 1024  # of an image that is drawn in a panel, in pixels
FAINTEST = 0.15  # opacity of a heat map where it is 0; at its highest value it is STRONGEST
STRONGEST = 0.85
COLORS = "inferno"
KEY = (
    "A row is an instance. Its query",
    "began, at each level, as an average",
    "of pixels; a heat map shows their",
    "weights, which sum to 1.",
    "",
    "% inside: the weight that lies",
    "within the instance's outline.",
)


def require_v1(segmenter: "Segmenter") -> IAUNetV1:
    """The model, if it has activation maps.

    Raises:
        ValueError: it is another one.
    """
    if not isinstance(segmenter.model, IAUNetV1):
        raise ValueError(
            f"{segmenter.weights}: is a model of {type(segmenter.model).__name__}. Activation maps "
            "are those of IAUNetV1 alone, whose queries come from them: train one with "
            "configs/systems/iaunet_v1_r50.yaml"
        )
    return segmenter.model


def explain_plane(segmenter: "Segmenter", plane: Plane) -> tuple[np.ndarray, Explanation]:
    """Run the model on a plane, shown whole.

    Returns:
        the plane as an RGB picture (H, W, 3) uint8, and its instances with their maps, those above
        the segmenter's score threshold.

    Raises:
        BadFileError: the file is damaged.
        ValueError: the model is no IAUNet v1.
    """
    model = require_v1(segmenter)
    if tile := segmenter.tile_side(plane.shape[:2]):
        logger.warning(
            "%s: is larger than the images of the training. It is shown to the model whole, and "
            "its cells look smaller than those of the training; predict would cut tiles of %d "
            "pixels. Cut such a part out for a true picture.",
            plane.name,
            tile,
        )
    loaded = segmenter.load(plane, "off")
    if loaded.entry is None or not isinstance(loaded.plane, ArrayPlane):
        raise ValueError(f"{plane.name}: is not in memory")
    picture = displayable(np.rint(stretched(loaded.plane.pixels, loaded.limits)).astype(np.uint8))
    explanation = model.explain(loaded.entry)
    return picture, explanation.take(explanation.found.scores >= segmenter.score_thresh)


def share_inside(
    activation: np.ndarray, mask: np.ndarray, corner: Sequence[int], extent: tuple[float, float]
) -> float:
    """How much of an activation map lies inside a mask.

    Args:
        activation: (h, w), its sum is 1.
        mask: a crop (m, n), bool.
        corner: row and column of the crop's first pixel.
        extent: height and width that the map covers, in the image's pixels.

    Returns:
        0 to 1: every pixel counts with its part of the map's cell that its centre is in.
    """
    rows, columns = np.nonzero(mask)
    height, width = activation.shape
    y = ((rows + corner[0] + 0.5) * height / extent[0]).astype(int).clip(max=height - 1)
    x = ((columns + corner[1] + 0.5) * width / extent[1]).astype(int).clip(max=width - 1)
    return float(activation[y, x].sum() * height * width / (extent[0] * extent[1]))


def activation_page(
    name: str,
    picture: np.ndarray,
    explanation: Explanation,
    instances: int = 6,
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw one image, and a row for each of its best instances.

    On top the image, and the instances that are shown, numbered. A row holds the outline of an
    instance, then its query's activation map at every level, coarsest first, as a heat map over the
    image. Colours run from 0 to the highest value of each map.

    Args:
        name: of the image.
        picture: (H, W, 3) uint8, RGB.
        explanation: of the image.
        instances: at most so many, the best.
        class_names: written beside the scores where there are several.

    Raises:
        ValueError: ``instances`` is below 1.
    """
    if instances < 1:
        raise ValueError(f"--instances {instances}: at least 1 is needed")
    shown = explanation.take(np.arange(len(explanation.found)) < instances)
    levels, rows = len(shown.activations), len(shown.found)
    figure = _figure(picture.shape[:2], levels + 1, rows)
    grid = GridSpec(rows + 2, levels + 1, figure)
    ground, size = _small(picture), (picture.shape[0], picture.shape[1])
    figure.suptitle(name if len(name) < 80 else f"{name[:38]}…{name[-38:]}")
    panels = (figure.add_subplot(grid[:2, :2]), figure.add_subplot(grid[:2, 2:4]))
    total = len(explanation.found)
    for panel, title in zip(panels, ("image", _shown(rows, total)), strict=True):
        _show(panel, ground, size)
        panel.set_title(title, fontsize=10)
    _key(figure.add_subplot(grid[:2, 4:]))
    for i in range(rows):
        _outline(panels[1], shown, i, number=True)
        panel = figure.add_subplot(grid[i + 2, 0])
        _show(panel, ground, size)
        _outline(panel, shown, i)
        panel.set_ylabel(_label(shown, i, class_names), fontsize=9)
        for level in range(levels):
            _level(figure.add_subplot(grid[i + 2, level + 1]), ground, size, shown, i, level)
    return figure


def write_page(figure: Figure, file: Path) -> None:
    """Write a page as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as stream:
        figure.savefig(stream, format="png", dpi=DPI)


def _level(
    axis: Axes, ground: np.ndarray, size: tuple[int, int], shown: Explanation, i: int, level: int
) -> None:
    """One instance at one level: the map over the image, the outline, and the share inside it."""
    activation = shown.activations[level][i].numpy()
    _heat(axis, ground, size, activation, shown.extent)
    _outline(axis, shown, i)
    if i == 0:
        axis.set_title(f"level {level + 1}: {' × '.join(map(str, activation.shape))}", fontsize=9)
    found = shown.found
    corner = found.corners[i].tolist()
    share = share_inside(activation, found.crops[i].numpy(), corner, shown.extent)
    axis.set_xlabel(f"{share:.0%} inside", fontsize=8)


def _key(axis: Axes) -> None:
    """Tell how to read the page, beside the colours of the heat maps."""
    axis.set_axis_off()
    axis.text(0.02, 0.95, "\n".join(KEY), fontsize=8, va="top", linespacing=1.4)
    bar = axis.inset_axes((0.05, 0.12, 0.9, 0.05))
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=COLORS, aspect="auto", extent=(0, 1, 0, 1))
    bar.set_yticks([])
    bar.set_xticks([0, 1], ["0", "highest of the map"], fontsize=8)


def _figure(size: tuple[int, int], columns: int, rows: int) -> Figure:
    """A page for panels of an image's shape; none is drawn flatter or slimmer than 1 to 3."""
    high = PANEL_WIDTH * min(max(size[0] / size[1], 1 / 3), 3.0)
    height = (rows + 2) * (high + 0.35) + 0.5
    figure = Figure(figsize=(columns * PANEL_WIDTH + 0.4, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _shown(rows: int, total: int) -> str:
    if total == 0:
        return "no instance above the score threshold"
    return f"{total} found" if rows == total else f"the best {rows} of {total} found"


def _label(shown: Explanation, i: int, class_names: Sequence[str]) -> str:
    of_class = int(shown.found.classes[i])
    kind = f"{class_names[of_class]}\n" if of_class < len(class_names) > 1 else ""
    return f"{i + 1}\n{kind}score {shown.found.scores[i]:.2f}"


def _small(picture: np.ndarray) -> np.ndarray:
    if max(picture.shape[:2]) <= LONGEST_SIDE:
        return picture
    height, width = fitted((picture.shape[0], picture.shape[1]), LONGEST_SIDE)
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def _show(axis: Axes, ground: np.ndarray, size: tuple[int, int], faded: bool = False) -> None:
    """Draw the image; coordinates are the original's pixels, whatever is drawn."""
    if faded:
        grey = ground.mean(2, keepdims=True).repeat(3, axis=2)
        ground = np.rint(grey).astype(np.uint8)
    axis.imshow(ground, extent=(0, size[1], size[0], 0))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlim(0, size[1])
    axis.set_ylim(size[0], 0)


def _heat(
    axis: Axes,
    ground: np.ndarray,
    size: tuple[int, int],
    activation: np.ndarray,
    extent: tuple[float, float],
) -> None:
    """Lay a map over the grey image: the higher, the brighter and the less transparent."""
    _show(axis, ground, size, faded=True)
    relative = activation / max(float(activation.max()), np.finfo(np.float32).tiny)
    axis.imshow(
        relative,
        cmap=COLORS,
        vmin=0,
        vmax=1,
        alpha=FAINTEST + (STRONGEST - FAINTEST) * relative,
        extent=(0, extent[1], extent[0], 0),
        interpolation="nearest",
    )
    # The map covers the padding too, which is not shown.
    axis.set_xlim(0, size[1])
    axis.set_ylim(size[0], 0)


def _outline(axis: Axes, shown: Explanation, i: int, number: bool = False) -> None:
    """Draw an instance's outline along the edges of its pixels."""
    color = tuple(channel / 255 for channel in instance_color(i))
    top, left = (int(place) for place in shown.found.corners[i])
    crop = shown.found.crops[i].numpy()
    for polygon in outline(crop, (top, left)):
        for ring in (polygon.exterior, *polygon.holes):
            closed = np.concatenate([ring, ring[:1]])
            axis.plot(closed[:, 0], closed[:, 1], color=color, linewidth=1.2)
    if number:
        row, column = _middle(crop)
        x, y = left + column + 0.5, top + row + 0.5
        box = {"boxstyle": "round,pad=0.15", "facecolor": "black", "alpha": 0.6, "linewidth": 0}
        axis.text(x, y, str(i + 1), color="white", ha="center", va="center", fontsize=9, bbox=box)


def _middle(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of the pixel that lies deepest in a mask's largest part."""
    parts, _ = ndimage.label(mask)
    largest = np.bincount(parts[mask]).argmax()
    depth = ndimage.distance_transform_edt(np.pad(parts == largest, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), mask.shape)
    return int(row), int(column)
