"""Losses of MAUNet (Li et al., sections 2.2.4 and 2.2.5).

Every mean is over valid pixels: padding takes no part. Everything is computed in single precision.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from .maunet import MAUNetOutput

_ALMOST_ONE = 1.0 - 1e-6


def log_probabilities(class_logits: Tensor) -> Tensor:
    """Log-probabilities of all classes but the anti-ambiguity proxy.

    The proxy, last of the logits, is in the softmax and then left out: it takes probability from
    the others where a pixel is ambiguous, and is never right. The others sum to less than 1.

    Args:
        class_logits: (B, C + 1, ...).

    Returns:
        (B, C, ...).
    """
    return class_logits.float().log_softmax(dim=1)[:, :-1]


def one_hot(classes: Tensor, count: int) -> Tensor:
    """Class numbers (B, H, W) -> float (B, ``count``, H, W)."""
    return F.one_hot(classes, count).movedim(-1, 1).float()


def soft_dice_loss(
    probabilities: Tensor, targets: Tensor, valid: Tensor, smooth: float = 1e-5
) -> Tensor:
    """1 - dice per image and class, background too, then the mean (as the authors' code).

    Args:
        probabilities, targets: (B, C, H, W).
        valid: (B, 1, H, W), 1 for pixels that count, else 0.
        smooth: added above and below the fraction, so that a class that neither has is perfect.
    """
    probabilities, targets = probabilities * valid, targets * valid
    shared = (probabilities * targets).sum(dim=(2, 3))
    total = probabilities.sum(dim=(2, 3)) + targets.sum(dim=(2, 3))
    return (1 - (2 * shared + smooth) / (total + smooth)).mean()


def focal_loss(log_probs: Tensor, targets: Tensor, valid: Tensor, gamma: float = 2.0) -> Tensor:
    """Binary focal loss of each class against the rest (Lin et al., 2017), mean.

    ``(1 - p)^gamma * -log p`` where a class is the target, ``p^gamma * -log(1 - p)`` elsewhere.
    The authors gave probabilities to a function that expects logits; see
    :func:`focal_loss_as_published`. Here ``p`` is the probability.

    Args:
        log_probs: (B, C, H, W), log p.
        targets: (B, C, H, W), 0 or 1.
        valid: (B, 1, H, W).
    """
    p = log_probs.exp()
    hit = (1 - p).pow(gamma) * -log_probs
    miss = p.pow(gamma) * -torch.log1p(-p.clamp(max=_ALMOST_ONE))
    return masked_mean(targets * hit + (1 - targets) * miss, valid)


def focal_loss_as_published(
    probabilities: Tensor, targets: Tensor, valid: Tensor, gamma: float = 2.0
) -> Tensor:
    """The same with a sigmoid on top of the probabilities, as the authors' code computes it.

    It cannot fall below 0.123 (3 classes), and its gradients are weak.
    """
    loss = sigmoid_focal_loss(probabilities, targets, alpha=-1, gamma=gamma, reduction="none")
    return masked_mean(loss, valid)


def weighted_l1_loss(predicted: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean error over the foreground plus mean error over the background (equation 2).

    The means are over the batch and their denominators 1e-3 greater than the count, as in the
    authors' code: the mean per image that the paper writes does not exist for an image without
    cells.

    Args:
        predicted, target: (B, H, W); the foreground is where the target is above 0.
        valid: (B, 1, H, W).
    """
    error = (predicted.float() - target).abs()
    foreground = (target > 0) * valid[:, 0]
    background = valid[:, 0] - foreground
    return sum(
        ((error * mask).sum() / (mask.sum() + 1e-3) for mask in (foreground, background)),
        start=error.new_zeros(()),
    )


def consistency_loss(first: MAUNetOutput, second: MAUNetOutput, valid: Tensor) -> Tensor:
    """Each network against what the other one decides, and their distances (equation 3).

    ``CE(P1, argmax P2) + CE(P2, argmax P1) + MSE(D1, D2)``. The decision is among the real classes:
    the proxy is no target here either.

    Args:
        first, second: of the same images.
        valid: (B, 1, H, W).
    """
    logs = [log_probabilities(output.class_logits) for output in (first, second)]
    loss = (first.distance.float() - second.distance.float()).square()[:, None]
    for own, other in (logs, logs[::-1]):
        decided = other.detach().argmax(dim=1, keepdim=True)
        loss = loss - own.gather(1, decided)
    return masked_mean(loss, valid)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of (B, C, H, W) over the pixels where ``valid`` (B, 1, H, W) is 1; 0 without any."""
    return (values * valid).sum() / (values.shape[1] * valid.sum()).clamp(min=1)


def supervised_losses(
    output: MAUNetOutput,
    classes: Tensor,
    distance: Tensor,
    valid: Tensor,
    gamma: float = 2.0,
    published_focal: bool = False,
) -> dict[str, Tensor]:
    """Dice, focal and distance loss of one network (equations 1 and 2).

    Args:
        classes: (B, H, W) int64, 0 background, 1..K interior, K + 1 boundary.
        distance: (B, H, W).
        valid: (B, 1, H, W).
        gamma: of the focal loss.
        published_focal: take :func:`focal_loss_as_published`.

    Returns:
        ``loss_dice``, ``loss_focal`` and ``loss_distance``; 0 with gradients for a batch of none.
    """
    if len(classes) == 0:
        nothing = output.joined().float().sum() * 0
        return dict.fromkeys(("loss_dice", "loss_focal", "loss_distance"), nothing)
    log_probs = log_probabilities(output.class_logits)
    probabilities = log_probs.exp()
    targets = one_hot(classes, log_probs.shape[1])
    focal = (
        focal_loss_as_published(probabilities, targets, valid, gamma)
        if published_focal
        else focal_loss(log_probs, targets, valid, gamma)
    )
    return {
        "loss_dice": soft_dice_loss(probabilities, targets, valid),
        "loss_focal": focal,
        "loss_distance": weighted_l1_loss(output.distance, distance, valid),
    }
