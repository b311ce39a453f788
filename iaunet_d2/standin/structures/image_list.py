"""Images of different size as one padded tensor."""

import math
from collections.abc import Sequence
from typing import Any

import torch


class ImageList:
    """N images in the upper left corners of one tensor.

    Attributes:
        tensor: (N, ..., H, W), as large as the largest image.
        image_sizes: (height, width) of every image before padding.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> torch.Tensor:
        """One image (..., h, w) without its padding."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        """The images on a device or in a type; arguments as of ``Tensor.to``."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> "ImageList":
        """Pad images to one size, at the right and at the bottom.

        Args:
            tensors: images (..., h, w) that differ in h and w only.
            size_divisibility: height and width become multiples of this; 0 or 1 leaves them.
            pad_value: fills what is outside of an image.
            padding_constraints: ``size_divisibility`` here takes precedence; ``square_size``
                above 0 sets both sides.

        Raises:
            ValueError: no images, images of different channels, or larger than ``square_size``.
        """
        channels = {tuple(image.shape[:-2]) for image in tensors}
        if len(channels) != 1:
            raise ValueError(f"a batch needs images of the same channels, not {channels or 'none'}")
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in tensors]
        constraints = padding_constraints or {}
        square = constraints.get("square_size", 0)
        multiple = max(constraints.get("size_divisibility", size_divisibility), 1)
        sides = (square, square) if square > 0 else tuple(map(max, zip(*sizes, strict=True)))
        if any(size[0] > sides[0] or size[1] > sides[1] for size in sizes):
            raise ValueError(f"images of {sizes} do not fit in a square of {square}")
        height, width = (math.ceil(side / multiple) * multiple for side in sides)
        batch = tensors[0].new_full((len(sizes), *channels.pop(), height, width), pad_value)
        for index, (h, w) in enumerate(sizes):
            batch[index, ..., :h, :w] = tensors[index]
        return ImageList(batch, sizes)
