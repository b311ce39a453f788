"""Ground truth as Detectron2's mapper gives it: bit masks, polygons, or no masks at all."""

import pytest
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from torch import Tensor

from iaunet_d2.meta_arch.base import truth_masks

SIZE = (8, 10)
# Corners at (2, 3) and (6, 5): columns 2 to 5 of rows 3 and 4.
RECTANGLE = [2.0, 3.0, 6.0, 3.0, 6.0, 5.0, 2.0, 5.0]
# Of two parts: a pixel each in opposite corners.
PARTS = [[0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0], [9.0, 7.0, 10.0, 7.0, 10.0, 8.0, 9.0, 8.0]]


def expected() -> Tensor:
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 3:5, 2:6] = True
    masks[1, 0, 0] = masks[1, 7, 9] = True
    return masks


@pytest.mark.parametrize(
    "masks", [BitMasks(expected()), PolygonMasks([[RECTANGLE], PARTS])], ids=["bits", "polygons"]
)
def test_bit_masks_and_polygons(masks: BitMasks | PolygonMasks) -> None:
    instances = Instances(SIZE, gt_masks=masks, gt_classes=torch.zeros(2, dtype=torch.int64))
    assert truth_masks(instances).equal(expected())


@pytest.mark.parametrize("fields", [{}, {"gt_masks": PolygonMasks([])}], ids=["none", "empty"])
def test_an_image_without_annotations(fields: dict[str, PolygonMasks]) -> None:
    instances = Instances(SIZE, gt_classes=torch.zeros(0, dtype=torch.int64), **fields)
    found = truth_masks(instances)
    assert found.shape == (0, *SIZE) and found.dtype == torch.bool
