"""Crops around boxes and their masks, by hand and against OpenCV-like indexing by loops."""

import pytest
import torch
from torchvision.ops import masks_to_boxes

from iaunet_d2.networks import Target, crops, with_boxes
from iaunet_d2.networks.crops import cut_crops, cut_masks, jittered_boxes, whole_boxes


def boxes_of(*boxes):
    return torch.tensor(boxes, dtype=torch.float32).view(-1, 4)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((1.49, 2.5, 7.51, 9.0), (1, 3, 8, 9)),  # halves up
        ((-5.2, -0.4, 3.0, 4.0), (0, 0, 3, 4)),
        ((6.0, 5.0, 90.0, 90.0), (6, 5, 20, 10)),  # cut at width 20 and height 10
        ((3.1, 3.1, 3.2, 3.2), (3, 3, 4, 4)),  # less than a pixel
        ((19.9, 9.9, 25.0, 25.0), (19, 9, 20, 10)),
        ((30.0, -20.0, 40.0, -10.0), (19, 0, 20, 1)),  # outside
    ],
)
def test_boxes_on_whole_pixels(box, expected):
    assert whole_boxes(boxes_of(box), (10, 20)).tolist() == [list(expected)]


def test_no_boxes():
    none = boxes_of()
    assert whole_boxes(none, (10, 20)).shape == (0, 4)
    assert cut_crops(torch.rand(3, 10, 20), none.long(), 8).shape == (0, 3, 8, 8)
    assert cut_masks(torch.zeros(0, 10, 20, dtype=torch.bool), none.long(), 8).shape == (0, 8, 8)
    assert jittered_boxes(none, 0.5, 0.2).shape == (0, 4)


def test_a_crop_of_its_own_size_is_the_image_there():
    image = torch.arange(3 * 10 * 20.0).view(3, 10, 20)
    crop = cut_crops(image, torch.tensor([[5, 2, 13, 10]]), 8)[0]
    assert torch.equal(crop, image[:, 2:10, 5:13])


def test_crops_take_the_nearest_pixels():
    image = torch.arange(200.0).view(1, 10, 20)
    # 2 columns to 4, 6 rows to 4: each output pixel's centre, row (i + 0.5) * 1.5.
    crop = cut_crops(image, torch.tensor([[7, 1, 9, 7]]), 4)[0, 0]
    rows = [1 + int((i + 0.5) * 1.5) for i in range(4)]
    expected = [[20.0 * r + c for c in (7, 7, 8, 8)] for r in rows]
    assert rows == [1, 3, 4, 6] and crop.tolist() == expected


def test_several_crops_against_loops():
    torch.manual_seed(0)
    image = torch.rand(2, 31, 47)
    boxes = whole_boxes(torch.rand(9, 4).mul(30).cumsum(1)[:, [0, 1, 2, 3]], (31, 47))
    crops = cut_crops(image, boxes, 16)
    for crop, (x0, y0, x1, y1) in zip(crops, boxes.tolist(), strict=True):
        for i in range(16):
            for j in (0, 5, 15):
                y = y0 + ((2 * i + 1) * (y1 - y0)) // 32
                x = x0 + ((2 * j + 1) * (x1 - x0)) // 32
                assert y < y1 and x < x1 and torch.equal(crop[:, i, j], image[:, y, x])


def test_masks_of_their_own_size_and_halved():
    masks = torch.zeros(2, 10, 20, dtype=torch.bool)
    masks[0, 3:6, 7:9] = True
    masks[1, 2:10, 5:12] = True
    boxes = torch.tensor([[5, 2, 13, 10]] * 2)
    assert torch.equal(cut_masks(masks, boxes, 8), masks[:, 2:10, 5:13])
    # Halved, a pixel is 2 x 2: of the first one, columns 7 and 8 are whole, rows 3 to 5 are one
    # half and one whole; half is enough.
    halved = cut_masks(masks, boxes, 4)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0:2, 1] = True
    assert torch.equal(halved[0], expected)
    assert halved[1].tolist() == [[True] * 4] * 4  # 7 of 8 columns: the last pixel by half


def test_masks_raised_to_the_crop():
    masks = torch.zeros(1, 6, 6, dtype=torch.bool)
    masks[0, 1:3, 2:4] = True
    raised = cut_masks(masks, torch.tensor([[1, 0, 5, 4]]), 16)
    rows, columns = raised[0].nonzero().T
    # 4 crop pixels per image pixel; the border lies where bilinear interpolation is 1/2.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 11, 4, 11)


def test_few_masks_are_float_at_a_time(monkeypatch):
    torch.manual_seed(0)
    masks = torch.rand(7, 20, 30) > 0.5
    boxes = whole_boxes(torch.rand(7, 4).mul(10).cumsum(1), (20, 30))
    expected, counts = cut_masks(masks, boxes, 8), []
    whole = crops.cropped_masks

    def counted(all_masks, matched, *others):
        counts.append(len(matched))
        return whole(all_masks, matched, *others)

    monkeypatch.setattr(crops, "cropped_masks", counted)
    monkeypatch.setattr(crops, "PIXELS_AT_ONCE", 3 * 20 * 30 + 1)
    assert torch.equal(cut_masks(masks, boxes, 8), expected)
    assert counts == [3, 3, 1]


def test_jitter_keeps_centres_and_the_range_of_sides():
    torch.manual_seed(0)
    boxes = boxes_of((10, 20, 30, 70)).repeat(4000, 1)
    got = jittered_boxes(boxes, 0.5, 0.2)
    centres = (got[:, :2] + got[:, 2:]) / 2
    torch.testing.assert_close(centres, torch.tensor([[20.0, 45.0]]).expand(4000, 2))
    factors = (got[:, 2:] - got[:, :2]) / torch.tensor([20.0, 50.0])
    assert factors.min() >= 0.8 and factors.max() <= 1.2
    changed = (factors - 1).abs().amax(1) > 1e-5
    assert changed.float().mean() == pytest.approx(0.5, abs=0.04)
    # Uniform, and each side on its own.
    assert factors[changed].std(0).tolist() == pytest.approx([0.4 / 12**0.5] * 2, rel=0.05)
    assert abs(torch.corrcoef(factors[changed].T)[0, 1]) < 0.08


@pytest.mark.parametrize(("probability", "changed"), [(0.0, 0), (1.0, 50)])
def test_jitter_of_none_and_of_all(probability, changed):
    boxes = boxes_of((10, 20, 30, 70)).repeat(50, 1)
    got = jittered_boxes(boxes, probability, 0.2)
    assert int((got != boxes).any(1).sum()) == changed


def test_boxes_of_masks_leave_out_those_without_a_pixel():
    masks = torch.zeros(3, 8, 9, dtype=torch.bool)
    masks[0, 2, 3] = True
    masks[2, 1:8, 0:9:4] = True
    target = with_boxes(Target(torch.tensor([4, 5, 6]), masks))
    assert target.labels.tolist() == [4, 6] and len(target.masks) == 2
    assert target.boxes.tolist() == [[3, 2, 4, 3], [0, 1, 9, 8]]
    none = with_boxes(Target(torch.zeros(0, dtype=torch.int64), masks[:0]))
    assert none.boxes.shape == (0, 4) and none.boxes.dtype == torch.float32


def test_boxes_of_masks_are_torchvision_s_and_copy_no_mask():
    torch.manual_seed(0)
    masks = torch.rand(40, 13, 17) > 0.97
    masks[:, 6, 8] = True
    target = Target(torch.zeros(40, dtype=torch.int64), masks)
    got = with_boxes(target)
    expected = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
    assert torch.equal(got.boxes, expected)
    assert got.masks.data_ptr() == masks.data_ptr()
