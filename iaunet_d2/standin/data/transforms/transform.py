"""Resizing as Pillow does it, and any function of colours; the other transforms are fvcore's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import NoOpTransform, Transform
from PIL import Image

__all__ = ["ColorTransform", "PILColorTransform", "ResizeTransform"]

_TORCH_MODES = {
    Image.Resampling.NEAREST: "nearest",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}


def _resize_uint8(image: np.ndarray, size: tuple[int, int], interp: int) -> np.ndarray:
    """Pillow's resizing, which smooths when it shrinks. (H, W) or (H, W, C) -> ``size`` (h, w)."""
    single = image.ndim == 3 and image.shape[2] == 1
    source = Image.fromarray(image[:, :, 0] if single else image)
    # A copy: what Pillow lends is read-only, which torch warns of.
    resized = np.array(source.resize(size[::-1], interp))
    return resized[:, :, None] if single else resized


def _resize_any(image: np.ndarray, size: tuple[int, int], interp: int) -> np.ndarray:
    """torch's resizing, for what is not uint8. (H, W[, C[, D]]) -> ``size`` (h, w)."""
    mode = _TORCH_MODES[Image.Resampling(interp)]
    height, width = image.shape[:2]
    planes = np.ascontiguousarray(image).reshape(height, width, -1).transpose(2, 0, 1)
    resized = F.interpolate(
        torch.from_numpy(planes)[None],
        size=size,
        mode=mode,
        align_corners=None if mode == "nearest" else False,
    )[0]
    return resized.permute(1, 2, 0).reshape(*size, *image.shape[2:]).numpy()


class ResizeTransform(Transform):
    """Resize from (``h``, ``w``) to (``new_h``, ``new_w``) pixels; segmentations always by nearest
    neighbour.

    Args:
        h, w: size of the image it will meet.
        new_h, new_w: the size it makes of it.
        interp: one of Pillow's resampling filters, bilinear by default.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        super().__init__()
        self.h, self.w = h, w
        self.new_h, self.new_w = new_h, new_w
        self.interp = Image.Resampling.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize (H, W), or (H, W, C); uint8 by Pillow, other types by torch without smoothing.

        Raises:
            ValueError: the image is not (``h``, ``w``).
        """
        if img.shape[:2] != (self.h, self.w):
            raise ValueError(f"expected an image of {self.h} x {self.w}, got {img.shape[:2]}")
        resize = _resize_uint8 if img.dtype == np.uint8 else _resize_any
        return resize(img, (self.new_h, self.new_w), self.interp if interp is None else interp)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale points (N, 2), each (x, y), in place."""
        factors = (self.new_w / self.w, self.new_h / self.h)
        # Assigned, not multiplied in place: integer points stay integers, as in Detectron2.
        coords[:, :2] = coords[:, :2] * factors
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize labels (H, W) without mixing them."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def inverse(self) -> "ResizeTransform":
        """Back to the first size."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class ColorTransform(Transform):
    """Change colours by any function, and nothing that belongs to the image.

    Args:
        op: from an image (H, W) or (H, W, C) to one of the same size.

    Raises:
        ValueError: ``op`` is not a function.
    """

    def __init__(self, op: Callable[[Any], Any]) -> None:
        if not callable(op):
            raise ValueError(f"op is a function of an image, got {op!r}")
        super().__init__()
        self.op = op

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Give what the function makes of the image."""
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Give the points (N, 2) as they are."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Give the labels (H, W) as they are."""
        return segmentation

    def inverse(self) -> Transform:
        """Undo what is done to coordinates: nothing."""
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """A :class:`ColorTransform` by a function of Pillow's images, as in ``PIL.ImageOps``."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Give what the function makes of the image (H, W) or (H, W, 3), uint8."""
        return np.array(self.op(Image.fromarray(img)))
