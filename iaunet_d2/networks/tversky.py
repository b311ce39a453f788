"""The focal Tversky loss of IAU-net (equation 1)."""

import torch
from torch import Tensor

EPSILON = 1e-6
# The power's gradient is infinite at 0.
SMALLEST = 1e-7


def tversky_index(
    probabilities: Tensor, targets: Tensor, alpha: float, epsilon: float = EPSILON
) -> Tensor:
    """Tversky index per class: (TP + eps) / (TP + alpha FP + (1 - alpha) FN + eps).

    TP = sum p g, FP = sum p (1 - g) and FN = sum (1 - p) g, over all pixels of the batch: in a
    single image a class may have none.

    Args:
        probabilities: (B, C, ...).
        targets: (B, C, ...) bool.
        alpha: weight of false positives; the larger, the more precise (as the paper says; in the
            Tversky loss that it cites the two weights are independent of each other).
        epsilon: keeps the index defined where a class is absent.

    Returns:
        (C,), 0 to 1.
    """
    dims = [0, *range(2, probabilities.dim())]
    hit = torch.where(targets, probabilities, 0).sum(dims)
    false_alarm = torch.where(targets, 0, probabilities).sum(dims)
    missed = torch.where(targets, 1 - probabilities, 0).sum(dims)
    return (hit + epsilon) / (hit + alpha * false_alarm + (1 - alpha) * missed + epsilon)


def focal_tversky_loss(
    probabilities: Tensor,
    classes: Tensor,
    alpha: float = 0.3,
    gamma: float = 4 / 3,
    epsilon: float = EPSILON,
) -> Tensor:
    """Mean over the classes, background excluded, of (1 - TI) ** (1 / gamma).

    The equation as printed is (1 - alpha) (1 - TI) and has no gamma, which the text explains: a
    larger gamma is "more punishment for wrong predictions". As 1 - TI is at most 1, that is the
    exponent 1 / gamma of the focal Tversky loss (Abraham and Khan 2019), not gamma. Their setting,
    0.7 on false negatives and gamma 4/3, is the default, as the paper gives none.

    Args:
        probabilities: (B, C, H, W), background first.
        classes: (B, H, W) int64, 0 to C - 1.
        alpha, epsilon: see :func:`tversky_index`.
        gamma: over 0.

    Returns:
        scalar, 0 to 1.
    """
    objects = torch.arange(1, probabilities.shape[1], device=classes.device).view(-1, 1, 1)
    index = tversky_index(probabilities[:, 1:], classes[:, None] == objects, alpha, epsilon)
    return (1 - index).clamp(min=SMALLEST).pow(1 / gamma).mean()
