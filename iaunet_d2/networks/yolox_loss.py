"""Loss of YOLOX (Ge et al., 2021, https://arxiv.org/abs/2107.08430), as VSM trains it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .criterion import mean_over_processes
from .sim_ota import PriorMatch, PriorOutputs, sim_ota

BOX_WEIGHT = 5.0
NO_AREA = 1e-16
LEAST_SIDE = 1e-8


@dataclass(frozen=True)
class BoxTarget:
    """Ground truth of one image.

    Attributes:
        labels: (N,) int64 class indices from 0.
        boxes: (N, 4) float, x0, y0, x1, y1 in pixels of the padded input.
    """

    labels: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class PriorPredictions:
    """What the priors of a batch predict.

    Attributes:
        deltas: (B, P, 4) the head's own numbers: centre and log side, in strides of the grid.
        boxes: (B, P, 4) the same as x0, y0, x1, y1 in pixels.
        objectness: (B, P) logits.
        class_logits: (B, P, K).
    """

    deltas: Tensor
    boxes: Tensor
    objectness: Tensor
    class_logits: Tensor

    def image(self, index: int) -> PriorOutputs:
        """Those of one image, without its gradients."""
        return PriorOutputs(
            self.boxes[index].detach(),
            self.objectness[index].detach(),
            self.class_logits[index].detach(),
        )


class YOLOXLoss(nn.Module):
    """SimOTA, then the losses of boxes, objectness and classes, each per positive prior.

    Args:
        num_classes: K.
        centre_radius: see :func:`~iaunet_d2.networks.sim_ota.sim_ota`.
        l1_weight: of the loss on centres and sides.

    Attributes:
        l1_weight: can be set during training. YOLOX turns the loss on for its last epochs.
    """

    def __init__(
        self, num_classes: int = 1, centre_radius: float = 2.5, l1_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.centre_radius = centre_radius
        self.l1_weight = l1_weight

    def forward(
        self, predictions: PriorPredictions, priors: Tensor, targets: Sequence[BoxTarget]
    ) -> dict[str, Tensor]:
        """Losses, already weighted: 5, 1, 1 and ``l1_weight``.

        Without any ground truth only the objectness has a loss; the others are 0, and every
        parameter has a gradient nevertheless.

        Args:
            predictions: in float32.
            priors: (P, 3) x and y of the centre and stride, in pixels.
            targets: one per image, possibly without boxes.

        Returns:
            ``loss_box``, ``loss_obj``, ``loss_cls``, and ``loss_l1`` if it has a weight.
        """
        matches = self.match(predictions, priors, targets)
        image = torch.cat([torch.full_like(m.priors, b) for b, m in enumerate(matches)])
        prior = torch.cat([m.priors for m in matches])
        boxes = torch.cat([t.boxes[m.targets] for t, m in zip(targets, matches, strict=True)])
        labels = torch.cat([t.labels[m.targets] for t, m in zip(targets, matches, strict=True)])
        count = mean_over_processes(len(prior), priors.device).clamp(min=1)

        # Indexing keeps the graph: with no positive these are sums over nothing, 0 with gradient 0.
        ious = paired_iou(predictions.boxes[image, prior], boxes.to(predictions.boxes))
        expected = F.one_hot(labels, self.num_classes) * ious.detach()[:, None]
        positive = torch.zeros_like(predictions.objectness)
        positive[image, prior] = 1.0
        losses = {
            "loss_box": BOX_WEIGHT * (1 - ious**2).sum(),
            "loss_obj": _cross_entropy(predictions.objectness, positive),
            "loss_cls": _cross_entropy(predictions.class_logits[image, prior], expected),
        }
        if self.l1_weight > 0:
            wanted = box_deltas(boxes.to(predictions.boxes), priors[prior])
            off = (predictions.deltas[image, prior] - wanted).abs().sum()
            losses["loss_l1"] = self.l1_weight * off
        return {name: loss / count for name, loss in losses.items()}

    def match(
        self, predictions: PriorPredictions, priors: Tensor, targets: Sequence[BoxTarget]
    ) -> list[PriorMatch]:
        """Assign the priors of each image to its ground truth; arguments as of :meth:`forward`."""
        return [
            sim_ota(priors, predictions.image(b), t.boxes, t.labels, self.centre_radius)
            for b, t in enumerate(targets)
        ]


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of paired boxes, differentiable: (n, 4) and (n, 4) to (n,); 0 where neither has an area.

    torchvision's pairs every box with every other.
    """
    sides = torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])
    common = sides.clamp(min=0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, others)]
    return common / (areas[0] + areas[1] - common + NO_AREA)


def box_deltas(boxes: Tensor, priors: Tensor) -> Tensor:
    """What the head should give for boxes: centre from the cell's corner and log side, in strides.

    Args:
        boxes: (n, 4) x0, y0, x1, y1 in pixels.
        priors: (n, 3) x and y of the centre and stride, in pixels.
    """
    stride = priors[:, 2:]
    corner = priors[:, :2] / stride - 0.5
    centre = (boxes[:, :2] + boxes[:, 2:]) / (2 * stride) - corner
    sides = (boxes[:, 2:] - boxes[:, :2]) / stride
    return torch.cat([centre, (sides + LEAST_SIDE).log()], dim=1)


def _cross_entropy(logits: Tensor, expected: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, expected, reduction="sum")
