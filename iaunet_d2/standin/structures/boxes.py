"""Axis-parallel boxes, in pixels: one that covers the pixels 2 to 4 reaches from 2.0 to 5.0."""

from collections.abc import Iterator, Sequence
from enum import IntEnum, unique
from typing import Any

import numpy as np
import torch

from .. import LeftOutError


@unique
class BoxMode(IntEnum):
    """Ways to write a box as numbers; only the first two are converted here."""

    # (left, top, right, bottom)
    XYXY_ABS = 0
    # (left, top, width, height)
    XYWH_ABS = 1
    # The same as shares of the image.
    XYXY_REL = 2
    XYWH_REL = 3
    # (centre x, centre y, width, height, counter-clockwise degrees)
    XYWHA_ABS = 4

    @staticmethod
    def convert(box: Any, from_mode: "BoxMode", to_mode: "BoxMode") -> Any:
        """Write boxes in another way.

        Args:
            box: a list or tuple of 4 numbers, or an array or tensor (N, 4); it is not changed.
            from_mode: how ``box`` is written.
            to_mode: how the result is written.

        Returns:
            The same type as ``box``.

        Raises:
            ValueError: a single box does not have 4 numbers.
            NotImplementedError: relative boxes.
            LeftOutError: rotated boxes.
        """
        if from_mode == to_mode:
            return box
        modes = {BoxMode(from_mode), BoxMode(to_mode)}
        if BoxMode.XYWHA_ABS in modes:
            raise LeftOutError("detectron2.structures.BoxMode.XYWHA_ABS")
        if modes != {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
            names = f"{BoxMode(from_mode).name} to {BoxMode(to_mode).name}"
            raise NotImplementedError(f"boxes are not converted from {names}")
        single = isinstance(box, (list, tuple))
        if single and len(box) != 4:
            raise ValueError(f"a box has 4 numbers, not {len(box)}: {box}")
        # As in Detectron2, single boxes pass through PyTorch's default type: float32, or int64
        # where all numbers are whole.
        corners = torch.tensor(box) if single else torch.as_tensor(box).clone()
        sign = 1 if to_mode == BoxMode.XYXY_ABS else -1
        corners[..., 2:] += sign * corners[..., :2]
        if single:
            return type(box)(corners.tolist())
        return corners.numpy() if isinstance(box, np.ndarray) else corners


class Boxes:
    """N boxes of one image, with the indexing of a tensor.

    Attributes:
        tensor: float32 (N, 4), each row (left, top, right, bottom).
    """

    def __init__(self, tensor: torch.Tensor | np.ndarray | Sequence[Any]) -> None:
        """Take (N, 4) numbers; anything without elements is no boxes.

        Raises:
            ValueError: another shape.
        """
        if isinstance(tensor, torch.Tensor):
            rows = tensor.to(torch.float32)
        else:
            rows = torch.as_tensor(tensor, dtype=torch.float32, device="cpu")
        if rows.numel() == 0:
            rows = rows.reshape(-1, 4)
        if rows.dim() != 2 or rows.shape[1] != 4:
            raise ValueError(f"boxes are a tensor (N, 4), not {tuple(rows.shape)}")
        self.tensor = rows

    def clone(self) -> "Boxes":
        """A copy with storage of its own."""
        return type(self)(self.tensor.clone())

    def to(self, device: torch.device | str) -> "Boxes":
        """The boxes on a device."""
        return type(self)(self.tensor.to(device=device))

    @property
    def device(self) -> torch.device:
        """Where the boxes lie."""
        return self.tensor.device

    def area(self) -> torch.Tensor:
        """Areas (N,) in square pixels."""
        return _sides(self.tensor).prod(dim=1)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Cut the boxes, in place, to an image of (height, width).

        Raises:
            ValueError: a coordinate is NaN or infinite.
        """
        if not self.tensor.isfinite().all():
            raise ValueError("boxes with NaN or infinite coordinates cannot be clipped")
        height, width = box_size
        limit = self.tensor.new_tensor([width, height, width, height])
        self.tensor = self.tensor.clamp(min=0).minimum(limit)

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """Bool (N,): whether both sides are longer than ``threshold`` pixels."""
        return (_sides(self.tensor) > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> torch.Tensor:
        """Bool (N,): whether a box leaves (height, width) by at most that many pixels."""
        height, width = box_size
        near = (self.tensor[:, :2] >= -boundary_threshold).all(dim=1)
        limit = self.tensor.new_tensor([width, height]) + boundary_threshold
        return near & (self.tensor[:, 2:] < limit).all(dim=1)

    def get_centers(self) -> torch.Tensor:
        """Centres (N, 2) as (x, y)."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates, in place."""
        self.tensor *= self.tensor.new_tensor([scale_x, scale_y, scale_x, scale_y])

    def __getitem__(self, item: Any) -> "Boxes":
        """The boxes of an int, a slice, or a tensor of indices or bools; they may share storage.

        Raises:
            ValueError: the index does not give rows of boxes.
        """
        rows = self.tensor[item]
        if isinstance(item, int):
            rows = rows.unsqueeze(0)
        if rows.dim() != 2:
            raise ValueError(f"boxes[{item}] is not a list of boxes")
        return type(self)(rows)

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Each box as a tensor (4,)."""
        return iter(self.tensor)

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    @classmethod
    def cat(cls, boxes_list: Sequence["Boxes"]) -> "Boxes":
        """All boxes of several objects, copied, in order."""
        if not boxes_list:
            return cls([])
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]))


def _sides(boxes: torch.Tensor) -> torch.Tensor:
    """(width, height) of boxes (..., 4)."""
    return boxes[..., 2:] - boxes[..., :2]


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Areas (N, M) of what every box of ``boxes1`` shares with every box of ``boxes2``."""
    first, second = boxes1.tensor[:, None], boxes2.tensor[None]  # (N, 1, 4), (1, M, 4)
    near = torch.maximum(first[..., :2], second[..., :2])
    far = torch.minimum(first[..., 2:], second[..., 2:])
    return (far - near).clamp(min=0).prod(dim=2)


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Intersection over union (N, M); 0 where nothing is shared, empty boxes included."""
    shared = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area() - shared
    return torch.where(shared > 0, shared / union, shared.new_zeros(()))


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """Measure the share (N, M) of every box of ``boxes2`` that a box of ``boxes1`` covers.

    Empty boxes are covered by nothing: 0.
    """
    shared = pairwise_intersection(boxes1, boxes2)
    return torch.where(shared > 0, shared / boxes2.area(), shared.new_zeros(()))
