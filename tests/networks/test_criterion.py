"""The losses against plain formulas written a second time, per pair and per pixel."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from iaunet_d2.networks import (
    CostWeights,
    QueryPrediction,
    SetCriterion,
    Target,
    mask_logits,
    uncertain_points,
)


def scene(queries=5, classes=2, outputs=2, counts=(3, 1), size=(6, 10), seed=0):
    """Random predictions for ``len(counts)`` images and rectangles, partly overlapping, as ground
    truth.
    """
    g = torch.Generator().manual_seed(seed)
    batch, dim = len(counts), 4
    predictions = [
        QueryPrediction(
            torch.randn(batch, queries, classes + 1, generator=g),
            torch.randn(batch, queries, dim, generator=g),
        )
        for _ in range(outputs)
    ]
    features = torch.randn(batch, dim, *size, generator=g)
    targets = []
    for n in counts:
        masks = torch.zeros(n, *size, dtype=torch.bool)
        for i in range(n):
            masks[i, i : i + 3, 2 * i : 2 * i + 5] = True
        targets.append(Target(torch.randint(classes, (n,), generator=g), masks))
    return predictions, features, targets


def plain_losses(prediction, features, targets, matches, output, no_object_weight, classes):
    """Cross-entropy, BCE and dice from their definitions, by loops."""
    logits = mask_logits(prediction.mask_embeddings, features)
    ce = weight_sum = bce = dice = 0.0
    count = max(sum(len(t.labels) for t in targets), 1)
    for b, target in enumerate(targets):
        pairs = dict(
            zip(
                matches[b].queries[output].tolist(),
                matches[b].targets[output].tolist(),
                strict=True,
            )
        )
        for q, row in enumerate(prediction.class_logits[b]):
            label = int(target.labels[pairs[q]]) if q in pairs else classes
            weight = 1.0 if q in pairs else no_object_weight
            ce += weight * (math.log(sum(math.exp(x) for x in row.tolist())) - row[label].item())
            weight_sum += weight
        for q, t in pairs.items():
            p, g = logits[b, q].double().sigmoid(), target.masks[t].double()
            bce += -(g * p.log() + (1 - g) * (1 - p).log()).mean().item()
            dice += 1 - (2 * (p * g).sum().item() + 1) / (p.sum().item() + g.sum().item() + 1)
    return ce / weight_sum, bce / count, dice / count


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (1,)])
def test_dense_losses_equal_the_definitions(counts):
    predictions, features, targets = scene(counts=counts)
    criterion = SetCriterion(2, CostWeights(1.0, 5.0, 2.0), num_points=0, matcher_points=500)
    torch.manual_seed(3)
    losses = criterion(predictions, features, targets)
    torch.manual_seed(3)
    class_logits = torch.stack([p.class_logits for p in predictions])
    embeddings = torch.stack([p.mask_embeddings for p in predictions])
    matches = criterion.match(class_logits, embeddings, features, targets)
    for output, suffix in ((0, "_0"), (1, "")):
        ce, bce, dice = plain_losses(
            predictions[output], features, targets, matches, output, 0.1, 2
        )
        assert losses[f"loss_ce{suffix}"].item() == pytest.approx(ce, rel=1e-5)
        assert losses[f"loss_mask{suffix}"].item() == pytest.approx(5 * bce, rel=1e-5)
        assert losses[f"loss_dice{suffix}"].item() == pytest.approx(2 * dice, rel=1e-5)
    assert set(losses) == {f"loss_{n}{s}" for n in ("ce", "mask", "dice") for s in ("", "_0")}


def test_dense_losses_raise_logits_to_the_size_of_the_input():
    predictions, features, targets = scene(counts=(1,), size=(4, 4))
    constant = QueryPrediction(predictions[0].class_logits, torch.zeros(1, 5, 4))
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, :4, :8] = True
    losses = SetCriterion(2, num_points=0, matcher_points=50)(
        [constant], features, [Target(targets[0].labels, mask)]
    )
    # All probabilities 1/2 over 256 pixels, 32 of them inside.
    assert losses["loss_mask"].item() == pytest.approx(5 * math.log(2))
    assert losses["loss_dice"].item() == pytest.approx(2 * (1 - 33 / (128 + 32 + 1)))


def at_points(image, points):
    """SciPy's bilinear interpolation of (H, W) at (P, 2), x and y in [0, 1]; outside is 0."""
    height, width = image.shape
    rows, columns = points[:, 1] * height - 0.5, points[:, 0] * width - 0.5
    return map_coordinates(image, np.stack([rows, columns]), order=1, mode="grid-constant")


@pytest.mark.parametrize("queries", [6, 2])
def test_point_losses_equal_the_definitions_at_the_same_points(queries):
    """The default path: oversampled candidates, the uncertain ones kept; also with N > Q."""
    predictions, features, targets = scene(queries=queries, counts=(3,), outputs=1, size=(16, 24))
    masks = torch.zeros(3, 60, 90, dtype=torch.bool)  # finer than the logits, as in training
    masks[0, 5:40, 10:60], masks[1, 20:55, 30:80], masks[2, :10, :10] = True, True, True
    target = Target(targets[0].labels, masks)
    prediction = predictions[0]
    criterion = SetCriterion(2, num_points=40, matcher_points=64)
    torch.manual_seed(5)
    losses = criterion([prediction], features, [target])
    torch.manual_seed(5)
    (match,) = criterion.match(
        prediction.class_logits[None], prediction.mask_embeddings[None], features, [target]
    )
    logits = mask_logits(prediction.mask_embeddings, features)[0][match.queries[0]]
    points = uncertain_points(logits[:, None], 40, 3.0, 0.75)[:, 0].numpy()
    bce = dice = 0.0
    for logit, truth, point in zip(logits.numpy(), match.targets[0], points, strict=True):
        x = at_points(logit.astype(np.float64), point)
        g = at_points(masks[truth].numpy().astype(np.float64), point)
        p = 1 / (1 + np.exp(-x))
        bce += -(g * np.log(p) + (1 - g) * np.log(1 - p)).mean()
        dice += 1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)
    assert losses["loss_mask"].item() == pytest.approx(5 * bce / 3, rel=1e-4)
    assert losses["loss_dice"].item() == pytest.approx(2 * dice / 3, rel=1e-4)


def test_more_instances_than_queries():
    predictions, features, targets = scene(queries=2, counts=(3,))
    for num_points in (0, 64):
        losses = SetCriterion(2, num_points=num_points, matcher_points=64)(
            predictions, features, targets
        )
        assert all(torch.isfinite(x) for x in losses.values())


@pytest.mark.parametrize("num_points", [0, 16])
def test_no_instance_in_the_batch(num_points):
    predictions, features, targets = scene(counts=(0, 0))
    for p in predictions:
        p.class_logits.requires_grad_()
        p.mask_embeddings.requires_grad_()
    features.requires_grad_()
    losses = SetCriterion(2, num_points=num_points)(predictions, features, targets)
    assert losses["loss_mask"].item() == 0 and losses["loss_dice"].item() == 0
    # Cross-entropy to "no object" alone, in which the weight 0.1 cancels.
    log_p = predictions[-1].class_logits.log_softmax(-1)[..., -1]
    assert losses["loss_ce"].item() == pytest.approx(-log_p.mean().item(), rel=1e-5)
    sum(losses.values()).backward()
    assert features.grad is not None and features.grad.abs().sum() == 0


def test_perfect_prediction_costs_almost_nothing():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :, :4], masks[1, :, 3:] = True, True  # they share column 3
    features = torch.where(masks, 20.0, -20.0)[None]
    perfect = QueryPrediction(
        torch.tensor([[[20.0, -20.0], [20.0, -20.0], [-20.0, 20.0]]]),
        torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]]),
    )
    target = Target(torch.tensor([0, 0]), masks)
    losses = SetCriterion(1, num_points=0, matcher_points=500)([perfect], features, [target])
    assert sum(losses.values()).item() < 1e-4


def test_gradients_reach_only_matched_masks():
    predictions, features, targets = scene(queries=6, counts=(2,), outputs=1)
    embeddings = predictions[0].mask_embeddings.requires_grad_()
    losses = SetCriterion(2, num_points=32, matcher_points=64)(predictions, features, targets)
    (losses["loss_mask"] + losses["loss_dice"]).backward()
    touched = embeddings.grad[0].abs().sum(-1) > 0
    assert touched.sum().item() == 2
