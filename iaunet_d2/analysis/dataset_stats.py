"""What a data set holds: instances, sizes, overlaps, and the pixels' mean and standard deviation.

Images are read one after the other, as the network's mapper reads them, and none is kept.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..data import BadFileError
from .image_stats import ImageStats, histogram_moments, image_stats
from .split_reader import SplitReader

PERCENTILES = (5, 25, 50, 75, 95)
MOST_SIZES = 4  # of images, that are listed one by one


@dataclass(frozen=True)
class Channels:
    """Mean and standard deviation per channel, on the scale 0 to 255."""

    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class DatasetStats:
    """What :func:`dataset_stats` gives; lengths and areas are in pixels of the files.

    Attributes:
        name: of the data set.
        images: their number.
        images_without_instances: how many of them have none.
        instances: their number.
        per_class: class name -> instances.
        per_image: min, median, mean and max of the instances per image.
        image_sizes: "width x height" -> images, the most frequent first.
        area, equivalent_diameter, box_width, box_height: percentile -> value, of the masks; the
            diameter is that of the circle of the same area. Empty where there is no instance.
        min_shared: an instance counts as sharing if so many of its pixels lie in others too.
        sharing_instances: share (0 to 1) of the instances that do.
        shared_foreground: share (0 to 1) of the foreground pixels that lie in several masks.
        mean_over_images: mean of the images' means, and mean of their standard deviations.
        over_all_pixels: of all pixels of all images taken together.
    """

    name: str
    images: int
    images_without_instances: int
    instances: int
    per_class: dict[str, int]
    per_image: dict[str, float]
    image_sizes: dict[str, int]
    area: dict[str, float]
    equivalent_diameter: dict[str, float]
    box_width: dict[str, float]
    box_height: dict[str, float]
    min_shared: int
    sharing_instances: float
    shared_foreground: float
    mean_over_images: Channels
    over_all_pixels: Channels

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def yaml(self) -> str:
        """``MODEL.PIXEL_MEAN`` and ``PIXEL_STD`` for a config: the mean over the images."""
        channels = self.mean_over_images
        mean = ", ".join(f"{value:.3f}" for value in channels.mean)
        # Images of one colour everywhere have none; dividing by it would give no number.
        std = ", ".join(f"{max(value, 1e-3):.3f}" for value in channels.std)
        return f"MODEL:\n  PIXEL_MEAN: [{mean}]\n  PIXEL_STD: [{std}]"

    def table(self) -> str:
        """Text, one line per figure."""
        sizes = list(self.image_sizes.items())
        listed = ", ".join(f"{size} ({count})" for size, count in sizes[:MOST_SIZES])
        if len(sizes) > MOST_SIZES:
            listed = f"{len(sizes)} different, {self._size_range()}; most often {sizes[0][0]}"
        per_image = ", ".join(f"{key} {value:.4g}" for key, value in self.per_image.items())
        empty = self.images_without_instances
        rows = [
            ("images", f"{self.images:,}"),
            ("  width x height", listed),
            ("  without instances", f"{empty:,} ({empty / self.images:.1%})"),
            ("instances", f"{self.instances:,}"),
            *((f"  {name}", f"{count:,}") for name, count in self.per_class.items()),
            ("  per image", per_image),
            (f"  sharing >= {self.min_shared} px", f"{self.sharing_instances:.1%}"),
            ("foreground shared", f"{self.shared_foreground:.2%}"),
        ]
        width = max(len(label) for label, _ in rows)
        lines = [self.name, *(f"  {label:<{width}}  {value}" for label, value in rows)]
        return "\n".join([*lines, "", *self._measures(), "", *self._pixel_lines()])

    def _size_range(self) -> str:
        sides = np.array([list(map(int, size.split("x"))) for size in self.image_sizes])
        low, high = sides.min(0), sides.max(0)
        return f"{low[0]} to {high[0]} x {low[1]} to {high[1]}"

    def _measures(self) -> list[str]:
        lines = ["  percentile".ljust(28) + "".join(f"{p:>10}" for p in PERCENTILES)]
        for label, values in (
            ("area, px", self.area),
            ("equivalent diameter, px", self.equivalent_diameter),
            ("box width, px", self.box_width),
            ("box height, px", self.box_height),
        ):
            cells = [f"{value:,.1f}" for value in values.values()] or ["-"] * len(PERCENTILES)
            lines.append(f"  {label:<26}" + "".join(f"{cell:>10}" for cell in cells))
        return lines

    def _pixel_lines(self) -> list[str]:
        lines = ["  pixels, 0 to 255".ljust(28) + f"{'mean':>22}  {'standard deviation':>22}"]
        for label, channels in (
            ("mean over images", self.mean_over_images),
            ("over all pixels", self.over_all_pixels),
        ):
            mean, std = (
                " ".join(f"{value:.3f}" for value in values)
                for values in (channels.mean, channels.std)
            )
            lines.append(f"  {label:<26}{mean:>22}  {std:>22}")
        return lines


def dataset_stats(reader: SplitReader, min_shared: int = 1, progress: bool = True) -> DatasetStats:
    """Count and measure a data set.

    Args:
        reader: of the data set.
        min_shared: an instance counts as sharing if so many of its pixels lie in others too.
        progress: show a progress bar.

    Raises:
        BadFileError: an image cannot be used.
        ValueError: ``min_shared`` is below 1.
    """
    if min_shared < 1:
        raise ValueError(f"instances share at least 1 pixel; {min_shared} was asked for")
    images: list[ImageStats] = []
    means, stds = [], []
    pixels = np.zeros(0)
    for record, image in reader.images(progress=progress):
        found = image_stats(image, reader.annotations(record), min_shared)
        mean, std = histogram_moments(found.histogram)
        means.append(mean)
        stds.append(std)
        pixels = found.histogram if not images else pixels + found.histogram
        images.append(found)
    if not images:
        raise BadFileError(f"data set {reader.name!r}: none of its images can be read.")
    over_images = Channels(np.mean(means, axis=0).tolist(), np.mean(stds, axis=0).tolist())
    over_pixels = Channels(*(values.tolist() for values in histogram_moments(pixels)))
    return _gathered(reader, images, min_shared, over_images, over_pixels)


def _gathered(
    reader: SplitReader,
    images: Sequence[ImageStats],
    min_shared: int,
    over_images: Channels,
    over_pixels: Channels,
) -> DatasetStats:
    counts = np.array([len(image.areas) for image in images])
    areas = np.concatenate([image.areas for image in images])
    boxes = np.concatenate([image.boxes for image in images])
    names = reader.class_names()
    per_class = np.bincount(np.concatenate([i.classes for i in images]), minlength=len(names))
    sizes, frequency = np.unique([image.size for image in images], axis=0, return_counts=True)
    order = np.argsort(-frequency, kind="stable")
    foreground = sum(image.foreground for image in images)
    return DatasetStats(
        name=reader.name,
        images=len(images),
        images_without_instances=int((counts == 0).sum()),
        instances=len(areas),
        per_class={name: int(n) for name, n in zip(names, per_class, strict=True)},
        per_image={
            "min": int(counts.min()),
            "median": float(np.median(counts)),
            "mean": float(counts.mean()),
            "max": int(counts.max()),
        },
        image_sizes={f"{sizes[k][0]}x{sizes[k][1]}": int(frequency[k]) for k in order},
        area=_percentiles(areas),
        equivalent_diameter=_percentiles(np.sqrt(4 * areas / math.pi)),
        box_width=_percentiles(boxes[:, 0]),
        box_height=_percentiles(boxes[:, 1]),
        min_shared=min_shared,
        sharing_instances=sum(image.sharing for image in images) / max(len(areas), 1),
        shared_foreground=sum(image.shared for image in images) / max(foreground, 1),
        mean_over_images=over_images,
        over_all_pixels=over_pixels,
    )


def _percentiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.percentile(values, PERCENTILES)
    return {str(p): float(v) for p, v in zip(PERCENTILES, found, strict=True)}
