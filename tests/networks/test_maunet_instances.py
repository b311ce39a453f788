"""MAUNet's three watersheds on fields made by hand."""

import numpy as np
import pytest
from scipy import ndimage

from iaunet_d2.networks import dense_target
from iaunet_d2.networks.maunet_instances import (
    DistanceSettings,
    distance_instances,
    odd_side,
    peaks,
)

EMPTY = np.zeros((40, 60), dtype=np.float32)


def disks(*circles, size=(64, 96)):
    """Masks (N, H, W) of circles (row, column, radius)."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.array([(y - r) ** 2 + (x - c) ** 2 <= radius**2 for r, c, radius in circles])


def field(masks, height=1.0):
    """A distance field: a cone in each mask, ``height`` (one, or one each) at its middle."""
    total = np.zeros(masks.shape[1:], dtype=np.float32)
    heights = np.broadcast_to(height, len(masks))
    for mask, top in zip(masks, heights, strict=True):
        depth = ndimage.distance_transform_edt(mask)
        total = np.maximum(total, top * depth / depth.max())
    return total.astype(np.float32)


def cut(masks, distance, interior=None, **settings):
    """Instances where every mask is interior, if nothing else is given.

    The foreground reaches a pixel further, as the boundary class of cells below 1,600 pixels does.
    """
    foreground = ndimage.binary_dilation(masks.any(0))
    inside = masks.any(0) if interior is None else interior
    return distance_instances(
        inside.astype(np.float32) * 0.9,
        1 - foreground.astype(np.float32) * 0.9,
        distance,
        DistanceSettings(**settings),
    )


def ious(labels, masks):
    """Best IoU of each mask with a label."""
    found = [labels == k for k in range(1, labels.max() + 1)]
    return [max((m & f).sum() / (m | f).sum() for f in found) for m in masks]


def test_two_touching_disks_come_apart():
    masks = disks((32, 30, 14), (32, 56, 14))
    assert ndimage.label(masks.any(0))[1] == 1
    labels = cut(masks, field(masks))
    assert labels.max() == 2 and labels.dtype == np.int32
    assert min(ious(labels, masks)) > 0.95
    # In the nook between them the boundary is a pixel wider.
    assert ((labels > 0) ^ masks.any(0)).sum() <= 4


def test_one_cell_and_none():
    masks = disks((30, 40, 12))
    labels = cut(masks, field(masks))
    assert np.array_equal(labels > 0, masks[0]) and labels.max() == 1
    for interior, background in ((EMPTY, EMPTY + 1), (EMPTY, EMPTY), (EMPTY, EMPTY + 0.5)):
        labels = distance_instances(interior, background, EMPTY + 0.7)
        assert labels.shape == EMPTY.shape and labels.dtype == np.int32 and not labels.any()


def test_a_weak_cell_that_the_first_step_misses_is_found_by_its_peak():
    masks = disks((20, 20, 12), (44, 70, 12))
    weak = field(masks, [1.0, 0.75])  # below 0.85 of the greatest, above 0.6
    labels = cut(masks, weak)
    assert labels.max() == 2 and min(ious(labels, masks)) > 0.95


def test_a_part_of_the_interior_without_a_peak_is_a_cell_all_the_same():
    masks = disks((20, 20, 12), (44, 70, 12))
    labels = cut(masks, field(masks, [1.0, 0.4]))
    assert labels.max() == 2 and min(ious(labels, masks)) > 0.95
    # The authors' code loses it.
    labels = cut(masks, field(masks, [1.0, 0.4]), published=True)
    assert labels.max() == 1 and min(ious(labels, masks[:1])) > 0.95


def test_the_seed_is_a_share_of_the_greatest_or_absolute():
    masks = disks((32, 30, 14), (32, 56, 14))
    low = field(masks, 0.6)  # a network that predicts too low
    assert cut(masks, low).max() == 2
    # In absolute terms nothing is a seed; the peaks of the second step find both.
    assert cut(masks, low, seed=0.8, seed_relative=False).max() == 2
    # Without a peak they are one.
    assert cut(masks, low, seed=0.8, seed_relative=False, peak=2.0).max() == 1
    assert cut(masks, low, seed=0.3, seed_relative=False, peak=2.0).max() == 2


def test_cells_grow_from_the_interior_into_the_foreground():
    masks = disks((32, 40, 16))
    inner = disks((32, 40, 11))[0]
    labels = cut(masks, field(masks), interior=inner)
    assert np.array_equal(labels > 0, masks[0])
    # Foreground without interior is no cell.
    two = disks((32, 30, 12), (32, 75, 12))
    labels = cut(two, field(two), interior=two[0])
    assert np.array_equal(labels > 0, two[0])


def test_thresholds_are_on_probabilities():
    mask = disks((32, 40, 12))[0].astype(np.float32)
    distance = field(disks((32, 40, 12)))
    found = [
        distance_instances(mask * interior, 1 - mask * (1 - background), distance).max()
        for interior, background in ((0.71, 0.29), (0.69, 0.29))
    ]
    assert found == [1, 0]
    # An interior pixel is a cell's even where the background is not below its threshold.
    assert distance_instances(mask * 0.71, 1 - mask * 0.5, distance).max() == 1


def test_small_parts_of_the_interior_are_dropped():
    masks = disks((32, 40, 14), (8, 8, 3))
    assert masks[1].sum() == 29
    for least, count in ((29, 2), (30, 1)):
        # Smoothing is wide for small cells: let the peak be low.
        labels = cut(masks, field(masks), min_interior=least, least_share=0.0, peak=0.05)
        assert labels.max() == count


def test_instances_far_below_the_mean_are_dropped():
    masks = disks((32, 40, 20), (8, 8, 3))
    areas = masks.sum((1, 2))
    share = areas[1] / areas.mean()
    for least, count in ((share * 0.99, 2), (share * 1.01, 1)):
        labels = cut(masks, field(masks), least_share=least, peak=0.05)
        assert labels.max() == count


def test_many_touching_cells_with_interiors_apart():
    places = [(r, 12 + 17 * i) for r in (20, 37) for i in range(5)]
    masks = disks(*((r, c, 9) for r, c in places))
    inner = disks(*((r, c, 7) for r, c in places)).any(0)
    labels = cut(masks, field(masks), interior=inner)
    # Where four of them meet, the foreground has no gap to measure from.
    assert labels.max() == 10 and min(ious(labels, masks)) > 0.85


def test_a_field_below_zero_or_of_zeros_is_no_error():
    mask = disks((32, 40, 12))
    for distance in (np.zeros(mask.shape[1:], np.float32), field(mask) - 2):
        assert cut(mask, distance).shape == mask.shape[1:]


@pytest.mark.parametrize(("area", "side"), [(16, 5), (100, 11), (120, 11), (121, 13), (1, 3)])
def test_side_of_the_window(area, side):
    assert odd_side(area) == side


def test_peaks_keep_their_distance_and_their_height():
    smooth = np.zeros((20, 40))
    smooth[10, 5], smooth[10, 8], smooth[10, 30], smooth[3, 20] = 1.0, 0.9, 0.8, 0.3
    assert np.argwhere(peaks(smooth, 6, 0.5)).tolist() == [[10, 30]]  # [10, 5] is at the frame
    assert np.argwhere(peaks(smooth, 5, 0.5)).tolist() == [[10, 5], [10, 30]]
    assert np.argwhere(peaks(smooth, 1, 0.5)).tolist() == [[10, 5], [10, 8], [10, 30]]
    assert not peaks(smooth, 1, 1.5).any()


def perfect(masks):
    """Interior and background probabilities and distance of the targets of masks."""
    target = dense_target(masks, np.zeros(len(masks), dtype=int), 1)
    classes = target.classes.numpy()
    return [(classes == k).astype(np.float32) for k in (1, 0)], target.distance.numpy()


@pytest.mark.parametrize("radius", [5, 6, 7, 8, 12, 20, 30])
def test_perfect_maps_give_the_cells_back(radius):
    """The boundary class reaches one pixel outside, of a cell of radius 30 two."""
    step = 2 * radius + 8
    places = [(step // 2 + step * i, step // 2 + step * j) for i in range(3) for j in range(3)]
    masks = disks(*((r, c, radius) for r, c in places), size=(3 * step, 3 * step))
    (interior, background), distance = perfect(masks)
    for published in (False, True):
        settings = DistanceSettings(published=published)
        labels = distance_instances(interior, background, distance, settings)
        assert labels.max() == 9
        worst = min(ious(labels, masks))
        assert worst == 1 if radius < 22 or not published else worst > 0.93


def test_published_cutting_leaves_a_line_between_cells():
    masks = disks((32, 30, 13), (32, 56, 13))
    (interior, background), distance = perfect(masks)
    for published in (False, True):
        settings = DistanceSettings(published=published)
        labels = distance_instances(interior, background, distance, settings)
        assert labels.max() == 2 and min(ious(labels, masks)) > 0.9
        touching = (labels[:, 1:] * labels[:, :-1] == 2).any()
        assert touching != published


def test_published_cutting_of_nothing():
    settings = DistanceSettings(published=True)
    assert not distance_instances(EMPTY, EMPTY + 1, EMPTY, settings).any()
