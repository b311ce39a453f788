"""SimOTA against an assignment written with loops, and cases worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from iaunet_d2.networks import sim_ota as module
from iaunet_d2.networks.sim_ota import PriorOutputs, class_costs, sim_ota

LEVELS = ((8, 6), (16, 3), (32, 2))  # stride and side of each grid


def priors_of(levels=LEVELS):
    cells = [
        ((x + 0.5) * stride, (y + 0.5) * stride, float(stride))
        for stride, side in levels
        for y in range(side)
        for x in range(side)
    ]
    return torch.tensor(cells, dtype=torch.float64)


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return common / (sum(areas) - common)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_loops(priors, boxes, objectness, classes, target_boxes, labels, radius):
    """{prior: target} and the number of priors that several boxes claim.

    In plain Python, from the description of the method.
    """
    inside, near = {}, {}
    for p, (x, y, stride) in enumerate(priors):
        for t, (x0, y0, x1, y1) in enumerate(target_boxes):
            inside[p, t] = x0 < x < x1 and y0 < y < y1
            reach = (abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2))
            near[p, t] = max(reach) < radius * stride
    pairs = [pair for pair in inside if inside[pair] or near[pair]]
    candidates = sorted({p for p, _ in pairs})
    own = sorted({t for _, t in pairs})
    ious, costs = {}, {}
    for p in candidates:
        for t in own:
            ious[p, t] = iou(boxes[p], target_boxes[t])
            cost = -3 * math.log(ious[p, t] + 1e-7)
            for k, logit in enumerate(classes[p]):
                score = math.sqrt(sigmoid(logit) * sigmoid(objectness[p]))
                cost -= math.log(score if k == labels[t] else 1 - score)
            costs[p, t] = cost if inside[p, t] and near[p, t] else cost + 1e6
    claims = {p: [] for p in candidates}
    for t in own:
        best = sorted((ious[p, t] for p in candidates), reverse=True)[:10]
        count = max(1, math.floor(sum(best)))
        for p in sorted(candidates, key=lambda p: costs[p, t])[:count]:
            claims[p].append(t)
    match = {}
    for p, claimants in claims.items():
        if len(claimants) == 1:
            match[p] = claimants[0]
        elif claimants:
            match[p] = min(own, key=lambda t: costs[p, t])
    return match, sum(len(claimants) > 1 for claimants in claims.values())


def compared(case, radius):
    """SimOTA's {prior: target}, after comparison with the loops', and the number of conflicts."""
    priors, outputs, targets, labels = case
    got = found(sim_ota(priors, outputs, targets, labels, radius))
    predicted = (outputs.boxes, outputs.objectness, outputs.class_logits)
    lists = [tensor.tolist() for tensor in (priors, *predicted, targets, labels)]
    expected, conflicts = by_loops(*lists, radius)
    assert got == expected
    return got, conflicts


def random_case(seed, count, num_classes, spread):
    """Boxes on a field larger than the priors' and predictions that lie near some of them."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    priors = priors_of()
    centre, side = uniform(count, 2) * 64 - 8, uniform(count, 2) ** 2 * 50 + 0.5
    targets = torch.cat([centre - side / 2, centre + side / 2], dim=1)
    centre = priors[:, :2] + (uniform(len(priors), 2) - 0.5) * spread
    half = priors[:, 2:] * (0.4 + uniform(len(priors), 2))
    boxes = torch.cat([centre - half, centre + half], dim=1)
    if count:
        chosen = torch.randint(count, (len(priors),), generator=g)
        good = uniform(len(priors)) < 0.4
        boxes[good] = (targets[chosen] + (uniform(len(priors), 4) - 0.5) * spread / 8)[good]
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 0.1)
    objectness, classes = uniform(len(priors)) * 8 - 4, uniform(len(priors), num_classes) * 8 - 4
    labels = torch.randint(num_classes, (count,), generator=g)
    return priors, PriorOutputs(boxes, objectness, classes), targets, labels


def found(match):
    assert match.priors.tolist() == sorted(set(match.priors.tolist()))
    return dict(zip(match.priors.tolist(), match.targets.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    count=st.integers(0, 9),
    num_classes=st.integers(1, 3),
    spread=st.sampled_from([4.0, 12.0]),
    radius=st.sampled_from([0.4, 1.5, 2.5]),
    at_once=st.sampled_from([1, 150, 2**22]),
)
def test_the_assignment_is_that_of_loops(seed, count, num_classes, spread, radius, at_once):
    case = random_case(seed, count, num_classes, spread)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS_AT_ONCE", at_once)  # in one piece or in many
        compared(case, radius)


def test_random_cases_hold_conflicts_many_claims_and_boxes_without_any_prior():
    """Otherwise the comparison above would not say much."""
    most, conflicts, without = 0, 0, 0
    for seed in range(30):
        got, contested = compared(random_case(seed, 9, 2, 4.0), 2.5 if seed % 2 else 0.4)
        most = max(most, *(list(got.values()).count(t) for t in range(9)))
        conflicts += contested
        without += 9 - len(set(got.values()))
    assert most >= 4 and conflicts >= 5 and without >= 20


def outputs_of(boxes, objectness=0.0, classes=0.0):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).view(-1, 4)
    return PriorOutputs(
        boxes,
        torch.full((len(boxes),), objectness),
        torch.full((len(boxes), 1), classes) if isinstance(classes, float) else classes,
    )


def match(priors, outputs, targets, labels=None, radius=2.5):
    targets = torch.as_tensor(targets, dtype=torch.float32).view(-1, 4)
    labels = torch.zeros(len(targets), dtype=torch.int64) if labels is None else labels
    return found(sim_ota(torch.tensor(priors), outputs, targets, labels, radius))


ROW = [[4.0, 4.0, 8.0], [12.0, 4.0, 8.0], [20.0, 4.0, 8.0], [28.0, 4.0, 8.0]]


@pytest.mark.parametrize(("boxes", "expected"), [(3, {0: 0, 1: 0, 2: 0}), (1, {0: 0}), (0, None)])
def test_a_box_takes_as_many_as_its_ious_add_up_to(boxes, expected):
    target = [0.0, 0.0, 32.0, 8.0]
    got = match(ROW, outputs_of([target] * boxes + [[90.0, 0.0, 99.0, 8.0]] * (4 - boxes)), target)
    # With no IoU at all the four cost the same: it is one of them, never none.
    assert got == expected if expected else len(got) == 1


def test_half_ious_add_up_and_are_rounded_down():
    target = [0.0, 0.0, 32.0, 8.0]
    half, third = [0.0, 0.0, 16.0, 8.0], [0.0, 0.0, 32.0, 24.0]
    assert match(ROW, outputs_of([target, half, third, third]), target) == {0: 0, 1: 0}


def test_no_more_than_ten_ious_count():
    priors = [[4.0 + 8 * i, 4.0, 8.0] for i in range(14)]
    target = [0.0, 0.0, 112.0, 8.0]
    assert len(match(priors, outputs_of([target] * 14), target, radius=20.0)) == 10


def test_inside_and_near_goes_before_a_better_prediction():
    # The second prior predicts the box exactly but lies outside it, the fourth is no candidate.
    target = [0.0, 0.0, 8.0, 8.0]
    poor = [0.0, 0.0, 2.0, 8.0]
    assert match(ROW, outputs_of([poor, target, poor, target]), target) == {0: 0}


def test_the_cost_weighs_iou_against_class():
    # IoU 1 against 1/2 costs 3 ln 2 = 2.08 less. With objectness 1, sqrt(class) = 1/2 costs ln 2,
    # and 1/20 costs ln 20 = 3.00: 2.30 more, which is more than the IoU is worth; 1/10 is not.
    target, half = [0.0, 0.0, 16.0, 8.0], [0.0, 0.0, 8.0, 8.0]

    def best(root):
        logits = torch.tensor([[math.log(p / (1 - p))] for p in (root**2, 0.25)])
        return match(ROW[:2], outputs_of([target, half], 40.0, logits), target)

    assert best(1 / 10) == {0: 0}
    assert best(1 / 20) == {1: 0}


def test_classes_count_by_the_label_of_the_box():
    target = [[0.0, 0.0, 16.0, 8.0]]
    logits = torch.tensor([[3.0, -3.0], [-3.0, 3.0]])
    outputs = outputs_of([[0.0, 0.0, 7.0, 8.0]] * 2, 2.0, logits)
    assert match(ROW[:2], outputs, target, torch.tensor([0])) == {0: 0}
    assert match(ROW[:2], outputs, target, torch.tensor([1])) == {1: 0}


def test_a_prior_of_two_boxes_goes_to_the_cheaper():
    targets = [[0.0, 0.0, 16.0, 8.0], [0.0, 0.0, 12.0, 8.0]]
    for better in (0, 1):
        boxes = [targets[better], [90.0, 0.0, 99.0, 8.0]]
        # Either box claims the first prior alone; the second prior's prediction fits none.
        assert match(ROW[:2], outputs_of(boxes), targets) == {0: better}


def test_a_tiny_box_between_the_priors_takes_one_near():
    target = [8.5, 8.5, 9.5, 9.5]
    boxes = [[8.0, 8.0, 12.0, 12.0], [8.0, 8.0, 10.0, 10.0], [0.0] * 3 + [1.0], [0.0] * 3 + [1.0]]
    assert match(ROW, outputs_of(boxes), target) == {1: 0}


@pytest.mark.parametrize("boxes", [[[200.0, 0.0, 232.0, 8.0]], [[-90.0, -9.0, -80.0, -2.0]], []])
def test_boxes_off_the_image_and_no_boxes(boxes):
    outputs = outputs_of([[0.0, 0.0, 32.0, 8.0]] * 4)
    assert match(ROW, outputs, boxes) == {}
    inside = [0.0, 0.0, 32.0, 8.0]
    assert match(ROW, outputs, [*boxes, inside]) == dict.fromkeys(range(4), len(boxes))


def test_the_same_box_twice_gives_each_prior_once():
    target = [0.0, 0.0, 32.0, 8.0]
    got = match(ROW, outputs_of([target] * 3 + [[90.0, 0.0, 99.0, 8.0]]), [target, target])
    assert set(got) == {0, 1, 2} and set(got.values()) <= {0, 1}


def test_more_boxes_than_priors():
    torch.manual_seed(0)
    corner = torch.rand(50, 2) * torch.tensor([24.0, 2.0])
    targets = torch.cat([corner, corner + 6], dim=1)
    got = match(ROW, outputs_of([[x - 3, 1.0, x + 3, 7.0] for x, _, _ in ROW]), targets)
    assert set(got) == {0, 1, 2, 3} and len(set(got.values())) == 4


def test_a_box_and_a_prediction_without_an_area():
    # Their IoU of 0 / 0 counts as 0. The first prior's score is the best, so either box wants it,
    # and the one that the prior lies inside gets it.
    targets = [[4.0, 4.0, 4.0, 4.0], [0.0, 0.0, 8.0, 8.0]]
    outputs = outputs_of([[4.0, 4.0, 4.0, 4.0]] + [[40.0, 0.0, 48.0, 8.0]] * 3)
    outputs.objectness[0] = 3.0
    assert match(ROW, outputs, targets[:1]) == {0: 0}
    assert match(ROW, outputs, targets) == {0: 1}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_first(dtype):
    for seed in range(12):
        priors, outputs, targets, labels = random_case(seed, 8, 2, 4.0)
        predicted = (outputs.boxes, outputs.objectness, outputs.class_logits)
        low = PriorOutputs(*(tensor.to(dtype) for tensor in predicted))
        full = PriorOutputs(low.boxes.float(), low.objectness.float(), low.class_logits.float())
        with torch.autocast("cpu", torch.bfloat16):
            got = sim_ota(priors.float(), low, targets.float(), labels)
        expected = sim_ota(priors.float(), full, targets.float(), labels)
        assert len(got.priors) and found(got) == found(expected)


def test_class_costs_are_torch_s_cross_entropy():
    torch.manual_seed(2)
    objectness, logits = torch.randn(20) * 4, torch.randn(20, 3) * 4
    objectness[0], logits[0] = 200.0, torch.tensor([200.0, -200.0, 0.0])  # logarithms of 0
    score = (logits.sigmoid() * objectness.sigmoid()[:, None]).sqrt()
    expected = [
        F.binary_cross_entropy(score, one_hot.expand(20, 3), reduction="none").sum(1)
        for one_hot in torch.eye(3)
    ]
    got = class_costs(objectness, logits)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got, torch.stack(expected, dim=1), rtol=1e-4, atol=1e-4)


def test_no_matrix_is_larger_than_the_limit(monkeypatch):
    priors, outputs, targets, labels = random_case(5, 9, 2, 4.0)
    sizes, pairs = [], module._pairs

    def watched(*args):
        result = pairs(*args)
        sizes.append(result[0].numel())
        return result

    monkeypatch.setattr(module, "_pairs", watched)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 3 * len(priors))
    sim_ota(priors, outputs, targets, labels)
    assert len(sizes) >= 2 and max(sizes) <= 3 * len(priors)
