"""What every image format gives: planes that are read in parts."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Plane(Protocol):
    """One two-dimensional image with its channels, read in parts and only when asked.

    Attributes:
        shape: height, width, channels.
        dtype: of the file's values.
        name: for people: the file's name, and which plane of it where it has several.
        pixel_size: µm per pixel, vertically and horizontally; None where the file does not tell.
        channel_names: one per channel; empty where the file does not tell.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def name(self) -> str: ...

    @property
    def pixel_size(self) -> tuple[float, float] | None: ...

    @property
    def channel_names(self) -> tuple[str, ...]: ...

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The file's own values of a rectangle inside the plane: (height, width, C).

        Raises:
            BadFileError: that part of the file is damaged, or holds NaN or Inf.
        """
        ...


@dataclass(frozen=True)
class ArrayPlane:
    """A plane that is in memory already (or memory-mapped): (H, W, C)."""

    pixels: np.ndarray
    name: str = "image"
    pixel_size: tuple[float, float] | None = None
    channel_names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.pixels.shape
        return height, width, channels

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.pixels.dtype

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The values of a rectangle: (height, width, C)."""
        return np.asarray(self.pixels[top : top + height, left : left + width])
