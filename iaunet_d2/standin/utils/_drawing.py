"""What :mod:`.visualizer` draws on and with: a picture, masks in any form, colours."""

import colorsys
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as rle_tools

from ..structures import polygons_to_bitmask


class GenericMask:
    """One instance's mask, given in any form, as bitmap and as polygons."""

    def __init__(self, mask_or_polygons: Any, height: int, width: int) -> None:
        """Take a COCO RLE, a list of polygons [x0, y0, x1, y1, ...], or an array (height, width).

        Raises:
            ValueError: something else, or a mask of another size.
        """
        self.height, self.width = height, width
        self._source_polygons: list[np.ndarray] | None = None
        if isinstance(mask_or_polygons, list):
            self._source_polygons = [np.asarray(p).reshape(-1) for p in mask_or_polygons]
            return
        if isinstance(mask_or_polygons, dict):
            rle = mask_or_polygons
            if isinstance(rle["counts"], list):
                rle = rle_tools.frPyObjects(rle, *rle["size"])
            mask_or_polygons = rle_tools.decode(rle)
        if getattr(mask_or_polygons, "shape", None) != (height, width):
            raise ValueError(f"a mask of {height} x {width} pixels is needed: {mask_or_polygons!r}")
        self.mask = np.asarray(mask_or_polygons, dtype=np.uint8)

    @cached_property
    def mask(self) -> np.ndarray:
        """uint8 (H, W)."""
        return polygons_to_bitmask(self._source_polygons or [], self.height, self.width).astype(
            "u1"
        )

    @cached_property
    def _contours(self) -> tuple[list[np.ndarray], bool]:
        """Outer and inner outlines, and whether there are inner ones."""
        if self._source_polygons is not None:
            return self._source_polygons, False
        mask = np.ascontiguousarray(self.mask)
        outlines, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        if tree is None:
            return [], False
        # Outlines run through pixel centres, which lie at +0.5; two points make no polygon.
        polygons = [outline.reshape(-1) + 0.5 for outline in outlines if len(outline) >= 3]
        return polygons, bool((tree[0, :, 3] >= 0).any())

    @property
    def polygons(self) -> list[np.ndarray]:
        """Outlines [x0, y0, x1, y1, ...] in pixels."""
        return self._contours[0]

    @property
    def has_holes(self) -> bool:
        """Whether the mask has holes."""
        return self._contours[1]

    def area(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())

    def bbox(self) -> np.ndarray:
        """(left, top, right, bottom) of the outlines."""
        parts = rle_tools.frPyObjects(self.polygons, self.height, self.width)
        left, top, width, height = rle_tools.toBbox(rle_tools.merge(parts))
        return np.array([left, top, left + width, top + height])


class VisImage:
    """A picture to draw on, with the coordinates of the image."""

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        """Take an RGB image (H, W, 3) in 0..255; the picture is ``scale`` times as large."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.img = img
        self.scale = scale
        self.height, self.width = img.shape[:2]
        self.fig = Figure(frameon=False)
        self.dpi = self.fig.get_dpi()
        # Matplotlib cuts the size to whole pixels; the hundredth keeps the last one.
        width, height = ((side * scale + 0.01) / self.dpi for side in (self.width, self.height))
        self.fig.set_size_inches(width, height)
        self.canvas = FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes((0.0, 0.0, 1.0, 1.0))
        self.ax.axis("off")
        self.reset_image(img)

    def reset_image(self, img: np.ndarray) -> None:
        """Put another image (H, W, 3) in 0..255 under the drawings."""
        frame = (0, self.width, self.height, 0)
        self.ax.imshow(img.astype("uint8"), extent=frame, interpolation="nearest")

    def save(self, filepath: str) -> None:
        """Write the picture; the file's ending is its format."""
        self.fig.savefig(filepath)

    def get_image(self) -> np.ndarray:
        """The picture: uint8 RGB (H * scale, W * scale, 3)."""
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()


def rgb(color: Any) -> tuple[float, float, float]:
    """Any Matplotlib colour as (red, green, blue) in 0..1."""
    from matplotlib.colors import to_rgb

    return to_rgb(color)


def brighter(color: Any, factor: float) -> tuple[float, ...]:
    """``color`` with its lightness changed by ``factor`` (-1..1) of itself."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*rgb(color))
    lightness = min(max(lightness * (1 + factor), 0.0), 1.0)
    return tuple(np.clip(colorsys.hls_to_rgb(hue, lightness, saturation), 0, 1).tolist())


def jittered(color: np.ndarray) -> tuple[float, ...]:
    """``color`` moved by half a unit in a random direction towards light."""
    direction = np.random.rand(3)  # follows seed_all_rng
    return tuple(np.clip(color + 0.5 * direction / np.linalg.norm(direction), 0, 1).tolist())
