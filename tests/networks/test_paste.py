"""Pasting masks over boxes into the image, by hand and against cropping, which does the reverse."""

import pytest
import torch

from iaunet_d2.networks import ScoredMasks
from iaunet_d2.networks import paste_masks as paste_crops
from iaunet_d2.networks.mask_branch import cropped_masks


def paste_masks(masks, boxes, size, threshold=0.5):
    """As full frames."""
    crops, corners = paste_crops(masks, boxes, size, threshold)
    zeros = torch.zeros(len(crops))
    return ScoredMasks(crops, corners, zeros, zeros, size).dense()


def test_a_box_on_whole_pixels_gives_the_mask_pixel_by_pixel():
    mask = torch.tensor([[[0.9, 0.1], [0.6, 0.4]]])
    # Each cell is 2 x 2 pixels; the pixel next to a cell's centre is a quarter of a cell away.
    pasted = paste_masks(mask, torch.tensor([[1.0, 2.0, 3.0, 4.0]]), (5, 4))[0]
    expected = torch.zeros(5, 4, dtype=torch.bool)
    expected[2, 1] = expected[3, 1] = True
    assert torch.equal(pasted, expected)


def test_interpolation_between_the_centres_of_the_cells():
    # One row over 8 pixels: cells centred at x = 2 and x = 6 with 1 and 0; at a pixel's centre
    # 2.5 .. 5.5 the probability is 1 - (x - 2) / 4. Vertically both rows are the same.
    mask = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    for threshold, last in ((0.5, 3), (0.2, 4), (0.8, 2)):
        row = paste_masks(mask, box, (8, 8), threshold)[0, 4]
        assert row.nonzero().max() == last


@pytest.mark.parametrize(
    "box", [(-30.0, -30, -10, -10), (5, 5, 5, 9), (5, 9, 7, 5), (90, 0, 99, 9)], ids=str
)
def test_boxes_outside_or_without_area_give_empty_masks(box):
    assert not paste_masks(torch.ones(1, 4, 4), torch.tensor([box]), (20, 20)).any()


def test_boxes_are_cut_at_the_border_of_a_non_square_image():
    pasted = paste_masks(torch.ones(1, 28, 28), torch.tensor([[-10.0, 4.0, 7.0, 300.0]]), (12, 9))
    expected = torch.zeros(12, 9, dtype=torch.bool)
    expected[4:, :7] = True
    assert torch.equal(pasted[0], expected)


def test_no_masks():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 7)).shape == (0, 5, 7)


def test_overlapping_masks_stay_whole():
    boxes = torch.tensor([[2.0, 2, 30, 30], [10, 10, 38, 38], [2, 2, 30, 30]])
    pasted = paste_masks(torch.ones(3, 28, 28), boxes, (40, 40))
    assert pasted.flatten(1).sum(1).tolist() == [784, 784, 784]
    assert (pasted[0] & pasted[1]).sum() == 20 * 20


def test_pasting_undoes_cropping():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(80.0), indexing="ij")
    masks = torch.stack(
        [((x - cx) / 15) ** 2 + ((y - cy) / 11) ** 2 < 1 for cx, cy in ((30, 25), (38, 30))]
    )
    boxes = torch.tensor([[14.0, 13, 46, 37], [22, 18, 54, 42], [14, 13, 46, 37]])
    matched = torch.tensor([0, 1, 0])
    pasted = paste_masks(cropped_masks(masks, matched, boxes, 28), boxes, (64, 80))
    iou = (pasted & masks[matched]).sum((1, 2)) / (pasted | masks[matched]).sum((1, 2))
    assert iou.min() > 0.97
    assert cropped_masks(masks, matched[:0], boxes[:0], 28).shape == (0, 28, 28)
