"""Seeds and windows against formulas, brute force and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from iaunet_d2.networks import seed_target
from iaunet_d2.networks.seeds import INNER, RIDGE, STRIDE, inner_distance, peaks, seed_of
from iaunet_d2.networks.windows import window_terms, with_places


def disc(height, width, x, y, radius):
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def crescent(size=80):
    """A bent worm: its centroid lies outside of it."""
    ring = disc(size, size, 40, 40, 36) & ~disc(size, size, 40, 40, 26)
    ring[:, 44:] = False
    return ring


def target(*masks, places=2):
    return seed_target(np.array(masks), places, np.random.default_rng(0))


def test_a_disc_is_hot_in_the_middle_by_the_formula():
    mask = disc(64, 96, 50, 30, 16)
    heat = target(mask).heat.numpy()
    assert heat.shape == (16, 24) and heat.max() == 1
    seed = seed_of(inner_distance(mask))
    assert seed == pytest.approx((50, 30), abs=1)
    assert heat[int(seed[1]) // 4, int(seed[0]) // 4] == 1
    spread = 0.35 * inner_distance(mask).max()
    for row, column in ((5, 12), (7, 10), (9, 14)):
        x, y = 4 * column + 2, 4 * row + 2
        away = (x - seed[0]) ** 2 + (y - seed[1]) ** 2
        assert heat[row, column] == pytest.approx(math.exp(-away / (2 * spread**2)), rel=1e-5)
    outside = ~mask[2::4, 2::4]
    assert not heat[outside].any()


def test_the_seed_of_a_bent_worm_lies_on_its_ridge():
    mask = crescent()
    distance = inner_distance(mask)
    centre_y, centre_x = (np.mean(axis) for axis in np.nonzero(mask))
    assert not mask[int(centre_y), int(centre_x)]
    x, y = (int(value) for value in seed_of(distance))
    assert mask[y, x] and distance[y, x] >= RIDGE * distance.max()
    assert target(mask).heat[y // 4, x // 4] == 1


@pytest.mark.parametrize("mask", [crescent(), disc(40, 60, 3, 20, 12), disc(9, 9, 4.5, 4.5, 2)])
def test_places_are_well_inside_and_distances_are_scipys(mask):
    expected = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    np.testing.assert_allclose(inner_distance(mask), expected, atol=1e-4)
    places = target(mask, places=200).places[0]
    assert (places % 1 == 0.5).all() and len(np.unique(places.numpy(), axis=0)) > 3
    x, y = places.long().T
    assert (expected[y, x] >= INNER * expected.max() - 1e-4).all()


def test_one_pixel_none_and_an_instance_without_pixels():
    one = np.zeros((13, 9), dtype=bool)
    one[12, 8] = True  # the heat map's last cell reaches beyond the image
    found = target(one, np.zeros_like(one))
    assert found.heat.shape == (4, 3) and found.heat.sum() == 1 and found.heat[3, 2] == 1
    assert found.places[0].tolist() == [[8.5, 12.5]] * 2 and not found.places[1].any()
    empty = seed_target(np.zeros((0, 13, 9), dtype=bool), 3, np.random.default_rng(0))
    assert not empty.heat.any() and empty.places.shape == (0, 3, 2)


def test_instances_inside_and_over_each_other_keep_their_own_seeds():
    outer, inner = disc(64, 64, 32, 32, 30), disc(64, 64, 20, 32, 6)
    both, alone = target(outer, inner).heat, [target(m).heat for m in (outer, inner)]
    torch.testing.assert_close(both, torch.maximum(*alone))
    for mask in (outer, inner):
        x, y = (int(value) // 4 for value in seed_of(inner_distance(mask)))
        assert both[y, x] == 1


def test_six_hundred_instances():
    masks = [disc(600, 400, 10 + 20 * (i % 20), 10 + 20 * (i // 20), 7) for i in range(600)]
    found = target(*masks)
    assert found.places.shape == (600, 2, 2) and int((found.heat == 1).sum()) == 600
    logits = torch.special.logit(found.heat.clamp(1e-3, 1 - 1e-3))[None]
    anchors, valid = peaks(logits, 1000, 0.5)
    assert anchors.shape == (1, 600, 2) and valid.all()


def brute_peaks(heat, threshold):
    height, width = heat.shape
    found = []
    for row in range(height):
        for column in range(width):
            around = heat[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            if heat[row, column] == around.max() and heat[row, column].sigmoid() > threshold:
                found.append((heat[row, column].item(), column, row))
    return [(4 * x + 2, 4 * y + 2) for _, x, y in sorted(found, reverse=True)]


def test_peaks_by_brute_force_best_first():
    heat = torch.randn(2, 9, 14)
    heat[1] -= 1
    anchors, valid = peaks(heat, 1000, 0.6)
    for image in range(2):
        expected = brute_peaks(heat[image], 0.6)
        own = anchors[image][valid[image]].tolist()
        assert [tuple(place) for place in own] == expected
        assert valid[image].tolist() == sorted(valid[image].tolist(), reverse=True)
    few, _ = peaks(heat, 3, 0.6)
    assert torch.equal(few, anchors[:, :3])


def test_no_peak_where_none_may_be():
    anchors, valid = peaks(torch.full((2, 4, 5), -torch.inf), 10, 0.0)
    assert anchors.shape == (2, 1, 2) and not valid.any()
    _, valid = peaks(torch.full((1, 4, 5), -3.0), 10, 0.5)
    assert not valid.any()


def quadratic(place, anchor, predicted, sharpness):
    """-(p - c)' L L' (p - c), everything in units, by NumPy in float64."""
    shift_x, shift_y, first, second, skew = predicted
    lower = sharpness * np.array([[math.exp(first), 0], [skew, math.exp(second)]])
    away = place - anchor - np.array([shift_x, shift_y])
    return -away @ lower @ lower.T @ away


def test_windows_are_ellipses_on_places_and_on_votes():
    torch.manual_seed(2)
    votes = torch.randn(1, 2, 7, 9) * 0.2
    features = with_places(torch.randn(1, 5, 7, 9), votes, stride=2)
    assert features.shape == (1, 16, 7, 9) and features.dtype == torch.float32
    predicted, anchors = torch.randn(1, 3, 11) * 0.5, torch.rand(1, 3, 2) * 15
    window = torch.einsum("bqc,bchw->bqhw", window_terms(predicted, anchors), features[:, 5:])
    for query in range(3):
        numbers = predicted[0, query].tolist()
        anchor = anchors[0, query].double().numpy() / 32
        for row, column in ((0, 0), (6, 8), (3, 2)):
            place = np.array([2 * column + 1, 2 * row + 1]) / 32
            vote = place + votes[0, :, row, column].double().numpy()
            expected = 1 + numbers[10] + quadratic(place, anchor, numbers[:5], math.sqrt(8))
            expected += quadratic(vote, anchor, numbers[5:10], 1)
            assert window[0, query, row, column].item() == pytest.approx(expected, abs=1e-3)


def test_votes_part_cells_that_no_ellipse_on_places_parts():
    # Two rows of pixels, interleaved: even ones vote for the left, odd ones for the right.
    votes = torch.zeros(1, 2, 4, 16)
    x = (torch.arange(16) + 0.5) * 4 / 32
    votes[:, 0, :, 0::2], votes[:, 0, :, 1::2] = 0.5 - x[0::2], 1.5 - x[1::2]
    features = with_places(torch.zeros(1, 0, 4, 16), votes)
    wide = torch.zeros(1, 2, 11)
    wide[..., 2:4] = -4  # places say nothing
    anchors = torch.tensor([[[16.0, 8.0], [48.0, 8.0]]])
    masks = torch.einsum("bqc,bchw->bqhw", window_terms(wide, anchors), features)[0]
    left = masks[0] > masks[1]
    assert left[:, 0::2].all() and not left[:, 1::2].any()


def test_the_first_window_is_a_disc_of_eleven_pixels():
    anchors = torch.tensor([[[34.0, 50.0]]])
    terms = window_terms(torch.zeros(1, 1, 11), anchors)[0, 0]
    # That on votes makes it a little smaller: 1 / (8 + 1) of a unit squared, 10.7 pixels.
    for x, y, inside in ((34, 50, True), (44.5, 50, True), (34, 60.8, False), (25, 43, False)):
        u, v = x / 32, y / 32
        place = torch.tensor([u, v, u * u, u * v, v * v])
        logit = (terms * torch.cat([place, place, torch.ones(1)])).sum()
        assert (logit > 0) == inside
    assert STRIDE == 4
