"""Masks of the instances of one image, as bitmaps or as polygons; instances may overlap."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as rle_tools
import torch
from torchvision.ops import roi_align

from .boxes import Boxes


def polygons_to_bitmask(polygons: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Rasterise one instance as COCO does.

    Args:
        polygons: its parts, each [x0, y0, x1, y1, ...] in pixels, a pixel's centre at +0.5.
        height: of the image, pixels.
        width: of the image, pixels.

    Returns:
        bool (H, W), the union of the parts.
    """
    if len(polygons) == 0:  # pycocotools does not take none
        return np.zeros((height, width), dtype=bool)
    parts = rle_tools.frPyObjects(list(polygons), height, width)
    return rle_tools.decode(rle_tools.merge(parts)).astype(bool)


class BitMasks:
    """N masks of the size of the image.

    Attributes:
        tensor: bool (N, H, W).
        image_size: (H, W).
    """

    def __init__(self, tensor: torch.Tensor | np.ndarray) -> None:
        """Take (N, H, W); what is not zero belongs to the instance.

        Raises:
            ValueError: another number of dimensions.
        """
        if isinstance(tensor, torch.Tensor):
            masks = tensor.to(torch.bool)
        else:
            masks = torch.as_tensor(tensor, dtype=torch.bool, device="cpu")
        if masks.dim() != 3:
            raise ValueError(f"masks are a tensor (N, H, W), not {tuple(masks.shape)}")
        self.image_size = masks.shape[1:]
        self.tensor = masks

    def to(self, *args: Any, **kwargs: Any) -> "BitMasks":
        """The masks on a device; arguments as of ``Tensor.to``."""
        return type(self)(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        """Where the masks lie."""
        return self.tensor.device

    def nonempty(self) -> torch.Tensor:
        """Bool (N,): whether a mask has a pixel."""
        return self.tensor.flatten(1).any(dim=1)

    def get_bounding_boxes(self) -> Boxes:
        """The tightest box around each mask, on the CPU; zeros for a mask without pixels."""
        masks = self.tensor.view(torch.uint8)  # PyTorch reduces bytes ten times as fast as bools
        if masks.numel() == 0:
            return Boxes(torch.zeros(len(masks), 4))
        left, right = _extent(masks.amax(dim=1).bool())
        top, bottom = _extent(masks.amax(dim=2).bool())
        return Boxes(torch.stack([left, top, right, bottom], dim=1).cpu())

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """What each mask shows inside its box, for mask heads that work on boxes.

        Args:
            boxes: (N, 4), one per mask, pixels.
            mask_size: side M of the result, pixels.

        Returns:
            bool (N, M, M).

        Raises:
            ValueError: there are not as many boxes as masks.
        """
        if len(boxes) != len(self):
            raise ValueError(f"{len(boxes)} boxes for {len(self)} masks")
        boxes = boxes.to(self.device)
        index = torch.arange(len(boxes), device=self.device, dtype=boxes.dtype)[:, None]
        rois = torch.cat([index, boxes], dim=1)  # (N, 5): which mask, box
        values = roi_align(self.tensor[:, None].float(), rois, mask_size, aligned=True)
        return values[:, 0] >= 0.5

    @staticmethod
    def from_polygon_masks(
        polygon_masks: "PolygonMasks | Sequence[Any]", height: int, width: int
    ) -> "BitMasks":
        """Rasterise the polygons of every instance."""
        masks = np.zeros((len(polygon_masks), height, width), dtype=bool)
        for mask, polygons in zip(masks, polygon_masks, strict=True):
            mask[:] = polygons_to_bitmask(polygons, height, width)
        return BitMasks(torch.from_numpy(masks))

    def __getitem__(self, item: Any) -> "BitMasks":
        """The masks of an int, a slice, or a tensor of indices or bools; they may share storage.

        Raises:
            ValueError: the index does not give whole masks.
        """
        masks = self.tensor[item]
        if isinstance(item, int):
            masks = masks.unsqueeze(0)
        if masks.dim() != 3:
            raise ValueError(f"masks[{item}] is not a list of masks")
        return type(self)(masks)

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Each mask as a tensor (H, W)."""
        return iter(self.tensor)

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)})"

    @staticmethod
    def cat(bitmasks_list: Sequence["BitMasks"]) -> "BitMasks":
        """All masks of several objects of one image size, copied, in order."""
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list]))


def _extent(occupied: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First occupied position of each row (N, L) and the one after the last; 0 where none is."""
    length = occupied.shape[1]
    position = torch.arange(length, device=occupied.device)
    start = torch.where(occupied, position, length).amin(dim=1)
    end = torch.where(occupied, position + 1, 0).amax(dim=1)
    return start.minimum(end).float(), end.float()


class PolygonMasks:
    """Instances as polygons; an instance may have several parts.

    Attributes:
        polygons: per instance a list of float64 arrays [x0, y0, x1, y1, ...], always on the CPU.
    """

    def __init__(self, polygons: list[list[Any]]) -> None:
        """Take a list of instances, each a list of parts with three or more points.

        Raises:
            ValueError: something is not a list, or a part is not a polygon.
        """
        if not isinstance(polygons, list):
            raise ValueError(f"polygons are a list of instances, not {type(polygons)}")
        self.polygons = [_parts(instance) for instance in polygons]

    def to(self, *args: Any, **kwargs: Any) -> "PolygonMasks":
        """These polygons: they stay on the CPU."""
        return self

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def nonempty(self) -> torch.Tensor:
        """Bool (N,): whether an instance has a part."""
        return torch.tensor([len(parts) > 0 for parts in self.polygons], dtype=torch.bool)

    def area(self) -> torch.Tensor:
        """Areas (N,) in square pixels, float64; where parts of an instance overlap, both count."""
        return torch.tensor([sum(_polygon_area(p) for p in parts) for parts in self.polygons])

    def get_bounding_boxes(self) -> Boxes:
        """The tightest box around each instance, its far corner at 0 or more, as in Detectron2."""
        boxes = torch.zeros(len(self), 4)
        boxes[:, :2] = torch.inf
        for box, parts in zip(boxes, self.polygons, strict=True):
            if parts:
                points = torch.from_numpy(np.concatenate(parts)).view(-1, 2).float()
                box[:2] = points.amin(dim=0)
                box[2:] = points.amax(dim=0).clamp(min=0)
        return Boxes(boxes)

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """As :meth:`BitMasks.crop_and_resize`: bool (N, M, M) for boxes (N, 4)."""
        if len(boxes) != len(self):
            raise ValueError(f"{len(boxes)} boxes for {len(self)} instances")
        masks = np.zeros((len(self), mask_size, mask_size), dtype=bool)
        for mask, parts, box in zip(masks, self.polygons, boxes.cpu().numpy(), strict=True):
            # 0.1: a box without extent would magnify without limit
            zoom = mask_size / np.maximum(box[2:] - box[:2], 0.1)
            moved = [((p.reshape(-1, 2) - box[:2]) * zoom).ravel() for p in parts]
            mask[:] = polygons_to_bitmask(moved, mask_size, mask_size)
        return torch.from_numpy(masks).to(boxes.device)

    def __getitem__(self, item: Any) -> "PolygonMasks":
        """The instances of an int, a slice, a list of ints, or a tensor of indices or bools.

        Raises:
            ValueError: a tensor that is neither.
        """
        if isinstance(item, int):
            item = [item]
        elif isinstance(item, (torch.Tensor, np.ndarray)):
            index = torch.as_tensor(item)
            if index.dim() != 1 or index.is_floating_point():
                raise ValueError(
                    f"polygons are not indexed with {index.dtype} {tuple(index.shape)}"
                )
            item = index.nonzero()[:, 0].tolist() if index.dtype == torch.bool else index.tolist()
        if isinstance(item, slice):
            return PolygonMasks(self.polygons[item])
        return PolygonMasks([self.polygons[i] for i in item])

    def __len__(self) -> int:
        return len(self.polygons)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        """The parts of each instance."""
        return iter(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"

    @staticmethod
    def cat(polymasks_list: Sequence["PolygonMasks"]) -> "PolygonMasks":
        """All instances of several objects, in order."""
        return PolygonMasks([parts for masks in polymasks_list for parts in masks])


def _parts(instance: Any) -> list[np.ndarray]:
    """One instance's polygons as float64 arrays, checked."""
    if not isinstance(instance, list):
        raise ValueError(f"the polygons of an instance are a list, not {type(instance)}")
    parts = [p.cpu().numpy() if isinstance(p, torch.Tensor) else p for p in instance]
    parts = [np.array(p, dtype=np.float64) for p in parts]
    for part in parts:
        if len(part) < 6 or len(part) % 2:
            raise ValueError(
                f"Cannot create a polygon: it has {len(part)} numbers, not three or more x, y pairs"
            )
    return parts


def _polygon_area(polygon: np.ndarray) -> np.float64:
    """Area inside [x0, y0, x1, y1, ...] (shoelace formula)."""
    x, y = polygon[0::2], polygon[1::2]
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
