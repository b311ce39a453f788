"""The matcher against brute force, its costs against the plain formulas."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iaunet_d2.networks import CostWeights, dice_cost, hungarian, mask_cost, matching_costs


def plain_cost(class_logits, logits, label, mask, weights):
    """The cost of one pair from the paper's formula, in double precision without any matrix
    product.
    """
    exponentials = [math.exp(x) for x in class_logits]
    probability = exponentials[label] / sum(exponentials)
    p = [1 / (1 + math.exp(-x)) for x in logits]
    bce = -sum(
        g * math.log(q) + (1 - g) * math.log(1 - q) for q, g in zip(p, mask, strict=True)
    ) / len(p)
    overlap = sum(q * g for q, g in zip(p, mask, strict=True))
    dice = 1 - (2 * overlap + 1) / (sum(p) + sum(mask) + 1)
    return (
        -weights.class_weight * probability + weights.mask_weight * bce + weights.dice_weight * dice
    )


def cheapest(cost):
    """The least total over every one-to-one assignment."""
    queries, targets = cost.shape
    if queries >= targets:
        pairs = itertools.permutations(range(queries), targets)
        return min(sum(cost[q, t] for t, q in enumerate(p)) for p in pairs)
    pairs = itertools.permutations(range(targets), queries)
    return min(sum(cost[q, t] for q, t in enumerate(p)) for p in pairs)


@settings(max_examples=60, deadline=None)
@given(
    queries=st.integers(1, 6),
    targets=st.integers(1, 6),
    outputs=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_assignment_is_the_cheapest_of_all(queries, targets, outputs, seed):
    costs = torch.randn(
        outputs, queries, targets, generator=torch.Generator().manual_seed(seed)
    ).double()
    none, match, other = hungarian([costs[:, :, :0], costs, costs[:1].flip(2)])
    assert none.queries.shape == none.targets.shape == (outputs, 0)
    assert other.queries.shape == (1, min(queries, targets))
    assert match.queries.shape == match.targets.shape == (outputs, min(queries, targets))
    for cost, q, t in zip(costs, match.queries, match.targets, strict=True):
        assert len(set(q.tolist())) == len(q) and len(set(t.tolist())) == len(t)
        assert cost[q, t].sum().item() == pytest.approx(float(cheapest(cost.numpy())), abs=1e-9)
        assert t.tolist() == sorted(t.tolist())


@settings(max_examples=25, deadline=None)
@given(
    queries=st.integers(1, 4),
    targets=st.integers(1, 4),
    classes=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_costs_equal_the_plain_formula(queries, targets, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(queries, classes + 1, generator=generator)
    logits = 4 * torch.randn(queries, 11, generator=generator)
    labels = torch.randint(classes, (targets,), generator=generator)
    masks = torch.rand(targets, 11, generator=generator).round()
    weights = CostWeights(1.0, 5.0, 2.0)
    got = matching_costs(class_logits, logits, labels, masks, weights)
    for q in range(queries):
        for t in range(targets):
            expected = plain_cost(
                class_logits[q].tolist(),
                logits[q].tolist(),
                int(labels[t]),
                masks[t].tolist(),
                weights,
            )
            assert got[q, t].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_hand_worked_costs():
    # Logits 0 are probabilities 1/2: BCE = ln 2 for any mask; dice = 1 - (2*1 + 1) / (2 + 2 + 1) =
    # 0.4.
    logits, mask = torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert mask_cost(logits, mask).item() == pytest.approx(math.log(2))
    assert dice_cost(logits, mask).item() == pytest.approx(0.4)


def test_values_that_are_not_finite_cost_nothing():
    logits = torch.tensor([[float("nan")] * 4, [0.0] * 4])
    costs = matching_costs(
        torch.zeros(2, 2), logits, torch.tensor([0]), torch.ones(1, 4), CostWeights(1, 5, 2)
    )
    assert torch.isfinite(costs).all() and costs[0, 0] == 0


def test_half_precision_logits_do_not_overflow():
    logits = torch.full((1, 200_000), 60000.0, dtype=torch.float16)
    costs = matching_costs(
        torch.zeros(1, 2, dtype=torch.float16),
        logits,
        torch.tensor([0]),
        torch.zeros(1, 200_000),
        CostWeights(0, 1, 0),
    )
    assert costs.item() == pytest.approx(60000.0, rel=1e-3)
