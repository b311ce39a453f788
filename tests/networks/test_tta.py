"""Views of an image and boxes from them: against NumPy's turns, and merging by hand."""

import numpy as np
import pytest
import torch

from iaunet_d2.networks import Detected
from iaunet_d2.networks.tta import VIEWS, View, boxes_from_view, fused, seen, suppressed


def detected(boxes, scores, labels=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    labels = [0] * len(boxes) if labels is None else labels
    return Detected(boxes, torch.tensor(scores), torch.tensor(labels, dtype=torch.int64))


def box_of(drawn):
    ys, xs = np.nonzero(drawn)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def numpy_view(image, view):
    return np.rot90(np.fliplr(image) if view.mirrored else image, view.turns)


def test_the_views_are_eight_different_ones_and_begin_with_the_image():
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert VIEWS[0] == View(0, False)
    assert (
        len(
            {
                (tuple(v.shape), tuple(v.flatten().tolist()))
                for v in (seen(image, view) for view in VIEWS)
            }
        )
        == 8
    )


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_images_turn_as_numpy_does(view):
    images = torch.rand(2, 3, 5, 8)
    for got, image in zip(seen(images, view), images, strict=True):
        for channel, plane in zip(got, image, strict=True):
            assert np.array_equal(channel.numpy(), numpy_view(plane.numpy(), view))


@pytest.mark.parametrize("view", VIEWS, ids=str)
@pytest.mark.parametrize("box", [(3, 1, 9, 4), (0, 0, 1, 1), (18, 30, 20, 32), (0, 5, 20, 6)])
def test_a_drawn_box_comes_back_exactly(view, box):
    x0, y0, x1, y1 = box
    drawn = np.zeros((32, 20), dtype=bool)
    drawn[y0:y1, x0:x1] = True
    turned = torch.tensor([box_of(numpy_view(drawn, view))], dtype=torch.float32)
    assert boxes_from_view(turned, view, drawn.shape).tolist() == [list(map(float, box))]


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_boxes_beyond_the_image_and_between_pixels_and_none(view):
    # A point's way through the view, from coordinates turned by hand.
    height, width = 32, 20
    points = torch.tensor([[-3.25, 7.5], [25.125, 40.0]])
    x, y = points.T
    if view.mirrored:
        x = width - x
    sides = (height, width)
    for _ in range(view.turns):
        x, y = y, sides[1] - x
        sides = sides[::-1]
    corners = torch.stack([x, y], dim=1)
    box = torch.cat([corners.amin(0), corners.amax(0)])[None]
    assert boxes_from_view(box, view, (height, width)).tolist() == [[-3.25, 7.5, 25.125, 40.0]]
    assert boxes_from_view(torch.zeros(0, 4), view, (height, width)).shape == (0, 4)


def test_suppression_over_views_keeps_the_best_of_each_class():
    one = detected([[0, 0, 10, 10], [50, 50, 60, 60]], [0.6, 0.3])
    # IoU 9 / 11 with the first, and with class 1 its twin.
    two = detected([[1, 0, 11, 10], [0, 0, 10, 10]], [0.9, 0.2], [0, 1])
    merged = suppressed([one, two], 0.5)
    assert merged.scores.tolist() == pytest.approx([0.9, 0.3, 0.2])
    assert merged.boxes.tolist() == [[1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 10, 10]]
    assert merged.labels.tolist() == [0, 0, 1]
    assert len(suppressed([one, two], 0.9).scores) == 4


def test_fusion_worked_by_hand():
    # Views 1 and 2 agree on a cell, view 1 alone has another; the third finds nothing.
    one = detected([[0, 0, 10, 10], [50, 50, 60, 60]], [0.8, 0.6])
    two = detected([[2, 0, 12, 10]], [0.4])
    merged = fused([one, two, detected([], [])], 0.5)
    # Weighted: (0.8 * 0 + 0.4 * 2) / 1.2 = 2/3; mean score 0.6, two of three views: 0.4.
    torch.testing.assert_close(
        merged.boxes, torch.tensor([[2 / 3, 0, 10 + 2 / 3, 10], [50, 50, 60, 60]])
    )
    assert merged.scores.tolist() == pytest.approx([0.4, 0.2])
    assert merged.labels.tolist() == [0, 0]


def test_fusion_compares_with_the_fused_box_not_with_its_members():
    # Boxes of width 10 at x = 0, 3 and 5.5. The first two (IoU 7/13) fuse to one at 1.5, whose IoU
    # with the third is 6/14; the second's own would be 7.5/12.5.
    views = [detected([[x, 0, x + 10, 10]], [s]) for x, s in ((0, 0.5), (3, 0.5), (5.5, 0.4))]
    merged = fused(views, 0.5)
    assert merged.boxes[:, 0].tolist() == pytest.approx([1.5, 5.5])
    assert merged.scores.tolist() == pytest.approx([0.5 * 2 / 3, 0.4 / 3])


def test_fusion_keeps_classes_apart_and_joins_the_nearest_cluster():
    one = detected([[0, 0, 10, 10], [6, 0, 16, 10]], [0.9, 0.8], [0, 0])
    # IoU with the first 8/12, with the second 6/14; class 1 lies on it but is another.
    two = detected([[2, 0, 12, 10], [0, 0, 10, 10]], [0.6, 0.5], [0, 1])
    merged = fused([one, two], 0.3)
    assert merged.labels.tolist() == [0, 0, 1]
    assert merged.boxes[:, 0].tolist() == pytest.approx([2 * 0.6 / 1.5, 6, 0])
    assert merged.scores.tolist() == pytest.approx([0.75, 0.4, 0.25])


def test_fusion_of_more_boxes_than_views_is_no_surer_than_their_mean():
    one = detected([[0, 0, 10, 10]] * 3, [0.9, 0.6, 0.6])
    assert fused([one], 0.5).scores.tolist() == pytest.approx([0.7])


@pytest.mark.parametrize("merge", [suppressed, fused])
def test_nothing_found_in_any_view(merge):
    merged = merge([detected([], [])] * 8, 0.5)
    assert merged.boxes.shape == (0, 4) and merged.scores.shape == merged.labels.shape == (0,)


def test_the_order_of_views_does_not_matter_to_fusion():
    torch.manual_seed(0)
    views = []
    for _ in range(8):
        start = torch.rand(6, 2) * 40
        boxes = torch.cat([start, start + 10 + 5 * torch.rand(6, 2)], 1)
        views.append(Detected(boxes, torch.rand(6), torch.randint(0, 2, (6,))))
    a, b = fused(views, 0.4), fused(views[::-1], 0.4)
    torch.testing.assert_close(a.boxes, b.boxes)
    torch.testing.assert_close(a.scores, b.scores)
