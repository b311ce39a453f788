"""The improved attention U-net (IAU-net) as a Detectron2 meta-architecture."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ..networks import (
    AttentionUNet,
    components,
    focal_tversky_loss,
    grown,
    without_holes,
    without_rim,
    without_small,
)
from .backbones import TIMM_BUILDER, build_backbone, timm_backbone
from .base import SIZE_DIVISIBILITY
from .label_map import LabelMapModel

KEY = "MODEL.IAU_NET"


@META_ARCH_REGISTRY.register()
class ImprovedAttentionUNet(LabelMapModel):
    """IAU-net: classes per pixel by a focal Tversky loss, instances by watershed.

    The paper's output is "the probability of each pixel belonging to different types of neuronal
    cells or background", and nothing is said of how cells are told apart. Here a class for
    boundaries separates them (MAUNet's, whose targets are used); without it, which is the paper to
    the letter, cells that touch are one.

    Args:
        network: the network proper.
        num_classes: K.
        pixel_mean, pixel_std, normalize: see :class:`~.base.SegmentationModel`.
        max_instances, targets_kind: see :class:`~.label_map.LabelMapModel`; without boundary class
            the latter is "foreground".
        tversky_weight, ce_weight: of the focal Tversky loss and of a cross-entropy over all pixels,
            which the paper does not have (0 turns it off).
        alpha, gamma: see :func:`~iaunet_d2.networks.tversky.focal_tversky_loss`.
        interior_threshold: interiors, summed over classes, are where their probability exceeds it.
        foreground_threshold: the foreground is where the background's probability is below it.
        min_size: instances of fewer pixels of the original image are dropped.
        trim: take off the boundary's outer half, which the targets paint around each cell.
    """

    network: AttentionUNet

    node = "IAU_NET"

    @configurable
    def __init__(
        self,
        *,
        network: AttentionUNet,
        num_classes: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        normalize: str = "dataset",
        max_instances: int = 100,
        targets_kind: str = "classes",
        tversky_weight: float = 1.0,
        ce_weight: float = 0.0,
        alpha: float = 0.3,
        gamma: float = 4 / 3,
        interior_threshold: float = 0.5,
        foreground_threshold: float = 0.5,
        min_size: int = 16,
        trim: bool = True,
    ) -> None:
        super().__init__(
            network=network,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            num_classes=num_classes,
            normalize=normalize,
            max_instances=max_instances,
            targets_kind=targets_kind,
        )
        self.tversky_weight, self.ce_weight = tversky_weight, ce_weight
        self.alpha, self.gamma = alpha, gamma
        self.interior_threshold = interior_threshold
        self.foreground_threshold = foreground_threshold
        self.min_size, self.trim = min_size, trim

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments of the constructor from a config.

        Raises:
            ValueError: a value makes no sense, named with its key.
        """
        own = cfg.MODEL.IAU_NET
        if not 0 <= own.LOSS.ALPHA <= 1 or own.LOSS.GAMMA <= 0:
            raise ValueError(
                f"{KEY}.LOSS: ALPHA {own.LOSS.ALPHA} must be 0 to 1, GAMMA {own.LOSS.GAMMA} over 0"
            )
        return {
            "network": build_network(cfg),
            **cls.label_map_arguments(cfg, "classes" if own.BOUNDARY else "foreground"),
            "tversky_weight": own.LOSS.TVERSKY_WEIGHT,
            "ce_weight": own.LOSS.CE_WEIGHT,
            "alpha": own.LOSS.ALPHA,
            "gamma": own.LOSS.GAMMA,
            "interior_threshold": own.INTERIOR_THRESH,
            "foreground_threshold": own.FOREGROUND_THRESH,
            "min_size": own.MIN_SIZE,
            "trim": own.TRIM,
        }

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses of a batch with ground truth, in training and in evaluation mode."""
        images = self.preprocess(batched_inputs)
        classes = self.dense_targets(batched_inputs, images).classes
        logits = self.network(images.tensor)
        # Sums over a million pixels overflow half precision.
        with torch.autocast(device_type=logits.device.type, enabled=False):
            logits = logits.float()
            tversky = focal_tversky_loss(logits.softmax(1), classes, self.alpha, self.gamma)
            losses = {"loss_tversky": tversky * self.tversky_weight}
            if self.ce_weight:
                losses["loss_ce"] = F.cross_entropy(logits, classes) * self.ce_weight
        return losses

    def probabilities(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Softmax over the classes (B, 1 + K or 2 + K, H, W), and no distance."""
        return self.network(images).float().softmax(1), None

    def instances(
        self, probabilities: np.ndarray, distance: np.ndarray | None, scale: float = 1.0
    ) -> np.ndarray:
        """Connected interiors, grown to the whole foreground; or the connected foreground.

        The watershed floods where interiors are probable first, so two cells meet where the
        boundary between them is surest. The boundary's outer half is taken off.
        """
        foreground = probabilities[0] < self.foreground_threshold
        if self.targets_kind == "foreground":
            labels = components(foreground)
        else:
            interior = probabilities[1 : 1 + self.num_classes].sum(0)
            markers = components(interior > self.interior_threshold)
            labels = grown(markers, foreground, -interior)
            if self.trim:  # a hole has no rim
                labels = without_rim(without_holes(labels), scale)
        return without_holes(without_small(labels, self.min_size))

    def counted(self, train_mode: bool) -> nn.Module:
        """The network, which computes the same in training and at inference."""
        return _CountedForward(self.network)


def build_network(cfg: Any) -> AttentionUNet:
    """The network that a config describes.

    Raises:
        ValueError: a value makes no sense, named with its key.
    """
    own, channels = cfg.MODEL.IAU_NET, len(cfg.MODEL.PIXEL_MEAN)
    strides = [2**level for level in range(1, len(own.WIDTHS))]
    if not strides or strides[-1] > SIZE_DIVISIBILITY or min(own.WIDTHS) < 1:
        raise ValueError(
            f"{KEY}.WIDTHS {tuple(own.WIDTHS)}: from 2 to 6 levels are possible, of 1 channel or "
            f"more, as images are padded to multiples of {SIZE_DIVISIBILITY} pixels"
        )
    backbone = None
    if cfg.MODEL.BACKBONE.NAME != TIMM_BUILDER:
        backbone = build_backbone(cfg, strides)
    elif own.ENCODER:
        backbone = timm_backbone(cfg, strides, own.ENCODER, f"{KEY}.ENCODER")
    return AttentionUNet(
        channels,
        1 + cfg.MODEL.NUM_CLASSES + int(own.BOUNDARY),
        own.WIDTHS,
        own.GATE,
        own.DEFORMABLE,
        backbone,
    )


class _CountedForward(nn.Module):
    """The network as a child, for the names of its parts."""

    def __init__(self, network: AttentionUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)
