"""The result of looking at one image: found instances, each a crop and a corner."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Cells:
    """Instances found in one image (one plane of a stack), best first; they may overlap.

    Attributes:
        crops: N bool (h, w), each the smallest rectangle around its mask; never empty.
        corners: (N, 2) int64, row and column in the image of each crop's first pixel.
        scores: (N,) float32, 0 to 1.
        classes: (N,) int64, numbers into ``class_names``.
        image_size: height and width of the image in pixels.
        class_names: one per class of the model.
        pixel_size: µm per pixel, vertically and horizontally; None where it is not known.
        name: of the image, for people: the file's name, with the plane if it has several.
        pixels: the image's own values (H, W, C), which intensities are measured in; None where the
            image is too large to be kept.
        channel_names: one per channel of ``pixels``; empty where they have none.
    """

    crops: Sequence[np.ndarray]
    corners: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    image_size: tuple[int, int]
    class_names: tuple[str, ...] = ("cell",)
    pixel_size: tuple[float, float] | None = None
    name: str = "image"
    pixels: np.ndarray | None = None
    channel_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def boxes(self) -> np.ndarray:
        """x0, y0, x1, y1 around each mask's pixels, x1 and y1 exclusive: (N, 4) int64."""
        sides = np.array([crop.shape for crop in self.crops], dtype=np.int64).reshape(-1, 2)
        return np.concatenate([self.corners[:, ::-1], (self.corners + sides)[:, ::-1]], axis=1)

    @property
    def areas(self) -> np.ndarray:
        """Pixels of each mask: (N,) int64."""
        return np.array([np.count_nonzero(crop) for crop in self.crops], dtype=np.int64)

    def mask(self, i: int) -> np.ndarray:
        """One mask as a full frame: (H, W) bool."""
        frame = np.zeros(self.image_size, dtype=bool)
        (top, left), crop = self.corners[i], self.crops[i]
        frame[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        return frame

    def take(self, indices: np.ndarray | Sequence[int]) -> "Cells":
        """Those at the indices (K,), or where a mask (N,) is true, in the order they have."""
        chosen = np.arange(len(self))[np.asarray(indices, dtype=None if len(indices) else np.int64)]
        return replace(
            self,
            crops=[self.crops[i] for i in chosen],
            corners=self.corners[chosen],
            scores=self.scores[chosen],
            classes=self.classes[chosen],
        )

    def above(self, score: float) -> "Cells":
        """Those with at least this score."""
        return self.take(self.scores >= score)

    def table(self) -> dict[str, np.ndarray]:
        """Measurements, a column per key, a row per cell; see :mod:`.outputs.measurements`."""
        from .outputs.measurements import measure

        return measure(self)

    def labels(self) -> np.ndarray:
        """Label image (H, W): 0 is background, cell i is i + 1; the best score wins an overlap."""
        from .outputs.labels import label_image

        return label_image(self)

    def save(self, file: str | os.PathLike[str], format_name: str) -> None:
        """Write one file in a format of :data:`~.outputs.FORMATS`.

        Raises:
            ValueError: there is no such format, or it cannot hold these cells.
            OSError: the file cannot be written.
        """
        from .outputs import write

        write(self, file, format_name)

    def to_geojson(self, file: str | os.PathLike[str]) -> None:
        """Write outlines for QuPath."""
        self.save(file, "geojson")

    def to_rois(self, file: str | os.PathLike[str]) -> None:
        """Write outlines for ImageJ and Fiji: a zip of ROIs."""
        self.save(file, "rois")

    def to_csv(self, file: str | os.PathLike[str]) -> None:
        """Write the table of measurements."""
        self.save(file, "csv")

    def to_tiff(self, file: str | os.PathLike[str]) -> None:
        """Write the label image."""
        self.save(file, "labels")

    def to_coco(self, file: str | os.PathLike[str]) -> None:
        """Write COCO JSON, masks as run lengths."""
        self.save(file, "coco")

    def overlay(self, file: str | os.PathLike[str]) -> None:
        """Write a picture of the image with outlines."""
        self.save(file, "overlay")

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Cells({len(self)} in {self.name!r}, {width} x {height})"


def no_cells(image_size: tuple[int, int], **about: Any) -> Cells:
    """The result of an image in which nothing was found; ``about`` as in :class:`Cells`."""
    return Cells(
        [],
        np.zeros((0, 2), np.int64),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
        image_size,
        **about,
    )
