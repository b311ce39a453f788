"""Training images joined of several: mosaic of four, and MixUp of two (YOLOX; VSM, section 3.2.1).

The image that is joined goes through the mapper like one from a file: scale, crop, flips.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from .augmentation import ManyChannelInput
from .errors import BadFileError
from .mapper import IAUNetDatasetMapper
from .rasterise import Patch, encode_patch, patches_in_frame
from .stream import SampleStream
from .unlabeled import KEY as UNLABELED

FILL = 114
"""Grey where no image is, on the 0–255 scale (YOLOX)."""

# Where the four images meet, as shares of the side. YOLOX's whole range would leave slivers of a
# few pixels; it cuts a window out of a mosaic twice as large, which this range makes needless.
_CENTRE = (0.25, 0.75)
_MIXUP_SCALE = (0.5, 1.5)
_JOINING = 1  # tells these random numbers from the others of a position


@dataclass(frozen=True)
class Joining:
    """How often images are joined.

    Attributes:
        image_size: side of a mosaic in pixels; its images are scaled so that their longest side is.
        mosaic_prob: share of samples that are mosaics.
        mixup_prob: share of samples that another image is mixed into.
        until: position from which on no images are joined.
    """

    image_size: int
    mosaic_prob: float = 0.0
    mixup_prob: float = 0.0
    until: int = 0

    @property
    def wanted(self) -> bool:
        """Whether any images are joined at all."""
        return self.mosaic_prob > 0 or self.mixup_prob > 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Joining":
        """From ``INPUT.MOSAIC_PROB``, ``MIXUP_PROB``, ``NO_MOSAIC_LAST`` and the length of the run.

        Raises:
            ValueError: a share is not in 0..1.
        """
        options, solver = cfg.INPUT, cfg.SOLVER
        for key in ("MOSAIC_PROB", "MIXUP_PROB", "NO_MOSAIC_LAST"):
            if not 0 <= options[key] <= 1:
                raise ValueError(f"INPUT.{key} {options[key]} must lie in 0..1")
        samples = solver.MAX_ITER * solver.IMS_PER_BATCH * solver.ACCUMULATE_STEPS
        until = round((1 - options.NO_MOSAIC_LAST) * samples)
        return cls(options.IMAGE_SIZE, options.MOSAIC_PROB, options.MIXUP_PROB, until)


class MosaicStream(SampleStream):
    """A stream some of whose samples are joined of several images.

    Which, and of what, depends on (seed, position) alone; their entries carry ``joined``. Only
    images with ground truth are joined, and in mixed data sets only those of one data set, so that
    the ratio stays.

    Args:
        records: see :class:`~.stream.SampleStream`.
        mapper: reads the images, and maps what is joined of them.
        joining: how often.
        seed: of the order, and of what is joined.
        options: further arguments of :class:`~.stream.SampleStream`.
    """

    mapper: IAUNetDatasetMapper

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        mapper: IAUNetDatasetMapper,
        joining: Joining,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(records, mapper, seed=seed, **options)
        self.joining = joining
        self.seed = seed
        self._labelled = np.array([not record.get(UNLABELED) for record in records])

    def sample(self, index: int, position: int) -> dict[str, Any]:
        """An image at a position, alone or joined with others; see the base class."""
        if position >= self.joining.until or not self._labelled[index]:
            return super().sample(index, position)
        # The index, too: where a bad file ends this sample, the next one has other companions.
        random = np.random.default_rng([self.seed, position, index, _JOINING])
        is_mosaic = random.random() < self.joining.mosaic_prob
        is_mixed = random.random() < self.joining.mixup_prob
        if not (is_mosaic or is_mixed):
            return super().sample(index, position)
        record = self.record(index)
        first, end = self.mixture.part_of(index)
        others = first + np.flatnonzero(self._labelled[first:end])
        if is_mosaic:
            several = [record, *(self.record(int(k)) for k in random.choice(others, 3))]
            image, annotations = mosaic(several, self.mapper, self.joining.image_size, random)
        else:
            image, annotations = self.mapper.read(record), record.get("annotations", [])
        if is_mixed:
            other = self.record(int(random.choice(others)))
            image, more = mixed_up(image, other, self.mapper, random)
            annotations = [*annotations, *more]
        joined = {**record, "annotations": annotations, "position": position, "joined": True}
        return self.mapper.map(image, joined)


def mosaic(
    records: Sequence[dict[str, Any]],
    mapper: IAUNetDatasetMapper,
    side: int,
    random: np.random.Generator,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Four images around a random point, each with the corner that faces it.

    Args:
        records: four data-set dicts; which is where is drawn.
        mapper: reads the files.
        side: of the result in pixels; each image's longest side becomes as long.
        random: numbers are drawn from it.

    Returns:
        ``uint8`` (side, side, C), and the annotations of what is left of the instances.

    Raises:
        BadFileError: an image or an annotation cannot be used.
    """
    x, y = (int(v) for v in np.clip(np.rint(random.uniform(*_CENTRE, 2) * side), 1, side - 1))
    canvas = np.full((side, side, mapper.num_channels), FILL, np.uint8)
    annotations: list[dict[str, Any]] = []
    for place, k in enumerate(random.permutation(4)):
        right, lower = place % 2, place // 2
        image = mapper.read(records[k])
        scale = side / max(image.shape[:2])
        height, width = (max(1, round(n * scale)) for n in image.shape[:2])
        # Where the resized image's first pixel would be.
        left, top = (x if right else x - width), (y if lower else y - height)
        annotations += _paste(canvas, image, records[k], mapper, (height, width), (top, left))
    return canvas, annotations


def mixed_up(
    image: np.ndarray,
    record: dict[str, Any],
    mapper: IAUNetDatasetMapper,
    random: np.random.Generator,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Half an image and half another, which is scaled at random and shifted.

    Args:
        image: ``uint8`` (H, W, C).
        record: data-set dict of the other.
        mapper: reads its file.
        random: numbers are drawn from it.

    Returns:
        ``uint8`` (H, W, C), and the annotations of the other in it.

    Raises:
        BadFileError: the other image or an annotation of it cannot be used.
    """
    other = mapper.read(record)
    fitting = min(image.shape[0] / other.shape[0], image.shape[1] / other.shape[1])
    scale = fitting * random.uniform(*_MIXUP_SCALE)
    size = [max(1, round(n * scale)) for n in other.shape[:2]]
    # A smaller one lies anywhere inside; of a larger one, any part is seen.
    corner = [
        int(random.integers(min(0, n - m), max(0, n - m) + 1))
        for n, m in zip(image.shape[:2], size, strict=True)
    ]
    canvas = np.full_like(image, FILL)
    annotations = _paste(canvas, other, record, mapper, (size[0], size[1]), (corner[0], corner[1]))
    half = (image.astype(np.uint16) + canvas.astype(np.uint16) + 1) // 2
    return half.astype(np.uint8), annotations


def _paste(
    canvas: np.ndarray,
    image: np.ndarray,
    record: dict[str, Any],
    mapper: IAUNetDatasetMapper,
    size: tuple[int, int],
    corner: tuple[int, int],
) -> list[dict[str, Any]]:
    """Paste a resized image at a place (top, left), which may lie outside; its annotations there.

    What the canvas cuts off is lost; remnants below ``min_instance_area`` are dropped.
    """
    frame = (canvas.shape[0], canvas.shape[1])
    top, left = (max(0, v) for v in corner)
    bottom, right = (min(n, v + m) for n, v, m in zip(frame, corner, size, strict=True))
    height, width = bottom - top, right - left
    transforms = T.TransformList(
        [
            T.ResizeTransform(*image.shape[:2], *size),
            T.CropTransform(left - corner[1], top - corner[0], width, height, size[1], size[0]),
        ]
    )
    seen = ManyChannelInput(image)
    for transform in transforms.transforms:
        seen.transform(transform)
    canvas[top:bottom, left:right] = seen.image
    annotations = record.get("annotations", [])
    try:
        patches = patches_in_frame(
            [a["segmentation"] for a in annotations],
            transforms,
            image.shape[:2],
            (height, width),
            mapper.min_instance_area,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadFileError(
            f"{record['file_name']}: an annotation cannot be used: {error}. Correct the annotation "
            "file."
        ) from error
    return [
        {
            "segmentation": encode_patch(Patch(p.top + top, p.left + left, p.pixels), frame),
            "category_id": annotations[k]["category_id"],
            "iscrowd": annotations[k].get("iscrowd", 0),
        }
        for k, p in patches.items()
    ]
