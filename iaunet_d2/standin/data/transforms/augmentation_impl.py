"""The augmentations. Each draws from numpy's global generator, in the order of Detectron2's."""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from fvcore.transforms import transform as fv
from fvcore.transforms.transform import NoOpTransform, Transform, TransformList
from PIL import Image

from ... import ArgumentError
from .augmentation import AugInput, Augmentation, as_augmentation
from .transform import ResizeTransform

_BILINEAR = Image.Resampling.BILINEAR


class RandomApply(Augmentation):
    """Another augmentation, or transform, with probability ``prob``; else nothing."""

    def __init__(self, tfm_or_aug: Augmentation | Transform, prob: float = 0.5) -> None:
        if not 0 <= prob <= 1:
            raise ArgumentError(f"a probability is between 0 and 1, got {prob}")
        self.aug = as_augmentation(tfm_or_aug)
        self.prob = prob

    def get_transform(self, *args: Any) -> Transform:
        hit = self._rand_range() < self.prob
        return self.aug.get_transform(*args) if hit else NoOpTransform()

    def __call__(self, aug_input: AugInput) -> Transform:
        hit = self._rand_range() < self.prob
        return self.aug(aug_input) if hit else NoOpTransform()

    def __repr__(self) -> str:
        return f"RandomApply({self.aug!r}, prob={self.prob})"


class RandomFlip(Augmentation):
    """Mirror along one axis with probability ``prob``; for both axes use two of them."""

    def __init__(
        self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False
    ) -> None:
        if horizontal == vertical:
            raise ValueError("RandomFlip is either horizontal or vertical; use two for both")
        self.prob = prob
        self.horizontal = horizontal
        self.vertical = vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        height, width = image.shape[:2]
        return fv.HFlipTransform(width) if self.horizontal else fv.VFlipTransform(height)


class Resize(Augmentation):
    """Resize to ``shape``, (height, width) or one side of a square, in pixels."""

    def __init__(self, shape: int | tuple[int, int], interp: int = _BILINEAR) -> None:
        self.shape = (shape, shape) if isinstance(shape, int) else (shape[0], shape[1])
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        return ResizeTransform(height, width, self.shape[0], self.shape[1], self.interp)


class ResizeShortestEdge(Augmentation):
    """Scale so that the shorter side has a given length, but the longer one at most ``max_size``.

    Args:
        short_edge_length: pixels; one number, or the two ends of a range, or the numbers to choose
            from.
        max_size: pixels.
        sample_style: "range" or "choice".
        interp: Pillow's resampling filter.

    Raises:
        ValueError: another style, or a range that is not two numbers.
    """

    def __init__(
        self,
        short_edge_length: int | tuple[int, ...] | list[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = _BILINEAR,
    ) -> None:
        if sample_style not in ("range", "choice"):
            raise ValueError(f'sample_style is "range" or "choice", got {sample_style!r}')
        lengths = (
            [short_edge_length] * 2 if isinstance(short_edge_length, int) else short_edge_length
        )
        if sample_style == "range" and len(lengths) != 2:
            raise ValueError(f"a range of lengths has two ends, got {short_edge_length}")
        self.short_edge_length = lengths
        self.max_size = max_size
        self.sample_style = sample_style
        self.is_range = sample_style == "range"
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        if self.is_range:
            low, high = self.short_edge_length
            length = int(np.random.randint(low, high + 1))
        else:
            length = int(np.random.choice(self.short_edge_length))
        if length == 0:
            return NoOpTransform()
        height, width = image.shape[:2]
        target = self.get_output_shape(height, width, length, self.max_size)
        return ResizeTransform(height, width, *target, self.interp)

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: int, max_size: int
    ) -> tuple[int, int]:
        """The (height, width) that an image of ``oldh`` x ``oldw`` will have."""
        # The shorter side is set, not computed: a product could round it to another length.
        ratio = float(short_edge_length) / min(oldh, oldw)
        sides = [float(short_edge_length), ratio * oldw]
        if oldh >= oldw:
            sides = [ratio * oldh, float(short_edge_length)]
        if (longest := max(sides)) > max_size:
            sides = [side * (max_size / longest) for side in sides]
        return int(sides[0] + 0.5), int(sides[1] + 0.5)


@dataclass(eq=False, repr=False)
class ResizeScale(Augmentation):
    """Scale to fit into a target box that is itself scaled by a random factor (large-scale
    jittering).

    Args:
        min_scale, max_scale: range of the factor.
        target_height, target_width: the box, in pixels.
        interp: Pillow's resampling filter.
    """

    min_scale: float
    max_scale: float
    target_height: int
    target_width: int
    interp: int = _BILINEAR

    def get_transform(self, image: np.ndarray) -> Transform:
        factor = np.random.uniform(self.min_scale, self.max_scale)
        size = np.array(image.shape[:2])
        box = np.array((self.target_height, self.target_width)) * factor
        target = np.round(size * np.min(box / size)).astype(int)
        height, width = image.shape[:2]
        return ResizeTransform(height, width, int(target[0]), int(target[1]), self.interp)


@dataclass(eq=False, repr=False)
class FixedSizeCrop(Augmentation):
    """Cut a random piece of ``crop_size`` out; pad at the right and the bottom where the image is
    smaller.

    Args:
        crop_size: (height, width) in pixels.
        pad: whether to pad.
        pad_value: what images are padded with.
        seg_pad_value: what segmentations are padded with.
    """

    crop_size: tuple[int, int]
    pad: bool = True
    pad_value: float = 128.0
    seg_pad_value: int = 255

    def get_transform(self, image: np.ndarray) -> TransformList:
        size, target = np.array(image.shape[:2]), np.array(self.crop_size)
        # One draw for both axes: the piece lies on the diagonal of what can be cut off.
        top, left = np.round(np.maximum(size - target, 0) * np.random.uniform(0.0, 1.0)).astype(int)
        steps = [fv.CropTransform(left, top, target[1], target[0], size[1], size[0])]
        if self.pad:
            below, right = np.maximum(target - size, 0)
            kept = np.minimum(size, target)
            values = (self.pad_value, self.seg_pad_value)
            steps.append(fv.PadTransform(0, 0, right, below, kept[1], kept[0], *values))
        return TransformList(steps)


class RandomCrop(Augmentation):
    """Cut a random piece out.

    Args:
        crop_type: how its size follows from ``crop_size`` = (a, b) in an image of H x W pixels:
            "relative", a·H x b·W; "relative_range", the same with factors drawn from [a, 1] and [b,
            1]; "absolute", a x b; "absolute_range", sides drawn from [a, b]. No side is longer than
            the image's.
        crop_size: (a, b).

    Raises:
        ValueError: another type.
    """

    def __init__(self, crop_type: str, crop_size: tuple[Any, Any]) -> None:
        known = ("relative_range", "relative", "absolute", "absolute_range")
        if crop_type not in known:
            raise ValueError(f"crop_type is one of {', '.join(known)}, got {crop_type!r}")
        self.crop_type = crop_type
        self.crop_size = crop_size

    def get_transform(self, image: np.ndarray) -> Transform:
        size = image.shape[:2]
        height, width = self.get_crop_size(size)
        if height > size[0] or width > size[1]:
            raise ValueError(f"{self} wants {height} x {width} pixels of an image of {size}")
        top = np.random.randint(size[0] - height + 1)
        left = np.random.randint(size[1] - width + 1)
        return fv.CropTransform(left, top, width, height)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the piece to cut from an image of (height, width), in pixels."""
        first, second = self.crop_size
        if self.crop_type == "absolute":
            return min(first, image_size[0]), min(second, image_size[1])
        if self.crop_type == "absolute_range":
            height, width = (
                np.random.randint(min(side, first), min(side, second) + 1) for side in image_size
            )
            return height, width
        factors = np.array(self.crop_size)
        if self.crop_type == "relative_range":
            least = factors.astype(np.float32)
            factors = least + np.random.rand(2) * (1 - least)
        return int(image_size[0] * factors[0] + 0.5), int(image_size[1] * factors[1] + 0.5)


@dataclass(eq=False, repr=False)
class RandomContrast(Augmentation):
    """Blend with the image's mean: contrast times a factor from [``intensity_min``,
    ``intensity_max``).
    """

    intensity_min: float
    intensity_max: float

    def get_transform(self, image: np.ndarray) -> Transform:
        factor = np.random.uniform(self.intensity_min, self.intensity_max)
        return fv.BlendTransform(image.mean(), 1 - factor, factor)


@dataclass(eq=False, repr=False)
class RandomBrightness(Augmentation):
    """Blend with black: brightness times a factor from [``intensity_min``, ``intensity_max``)."""

    intensity_min: float
    intensity_max: float

    def get_transform(self, image: np.ndarray) -> Transform:
        factor = np.random.uniform(self.intensity_min, self.intensity_max)
        return fv.BlendTransform(0, 1 - factor, factor)
