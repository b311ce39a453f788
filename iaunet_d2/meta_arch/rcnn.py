"""Mask R-CNN and PointRend as Detectron2 meta-architectures, to compare IAUNet with."""

from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ..networks import (
    RCNN,
    ConvMaskBranch,
    MaskBranch,
    PointMaskBranch,
    PointRendSettings,
    RCNNSettings,
)
from .backbones import build_backbone
from .regions import RegionModel


@META_ARCH_REGISTRY.register()
class MaskRCNN(RegionModel):
    """torchvision's Mask R-CNN on this package's backbones (He et al., ICCV 2017).

    Its own scaling and normalisation of images are left out.

    Args:
        network: the network proper, with its losses.
        pixel_mean, pixel_std, normalize: see :class:`~.base.SegmentationModel`.
        mask_threshold: a pixel belongs to an instance where its probability exceeds this.
    """

    node = "MASK_RCNN"
    network: RCNN

    @configurable
    def __init__(
        self,
        *,
        network: RCNN,
        pixel_mean: list[float],
        pixel_std: list[float],
        normalize: str = "dataset",
        mask_threshold: float = 0.5,
    ) -> None:
        super().__init__(
            network=network,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            normalize=normalize,
            mask_threshold=mask_threshold,
        )

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        return {
            "network": RCNN(build_backbone(cfg), rcnn_settings(cfg), cls.build_masks(cfg)),
            **cls.pixel_arguments(cfg),
            "mask_threshold": cfg.MODEL.MASK_RCNN.MASK_THRESHOLD,
        }

    @staticmethod
    def build_masks(cfg: Any) -> MaskBranch:
        """The mask branch that a config describes."""
        own = cfg.MODEL.MASK_RCNN
        return ConvMaskBranch(own.FPN_DIM, cfg.MODEL.NUM_CLASSES, own.MASK_DIM)

    def counted(self, train_mode: bool) -> nn.Module:
        """The network with as many proposals and detections as it can have."""
        return _CountedForward(self.network, train_mode)


@META_ARCH_REGISTRY.register()
class PointRend(MaskRCNN):
    """Mask R-CNN whose masks are refined point by point (Kirillov et al., CVPR 2020)."""

    @staticmethod
    def build_masks(cfg: Any) -> MaskBranch:
        """The mask branch that a config describes."""
        own = cfg.MODEL.POINT_REND
        settings = PointRendSettings(
            num_classes=cfg.MODEL.NUM_CLASSES,
            coarse_dim=own.COARSE_DIM,
            point_dim=own.POINT_DIM,
            train_points=own.TRAIN_POINTS,
            oversample_ratio=own.OVERSAMPLE_RATIO,
            importance_sample_ratio=own.IMPORTANCE_SAMPLE_RATIO,
            subdivision_steps=own.SUBDIVISION_STEPS,
            subdivision_points=own.SUBDIVISION_POINTS,
        )
        return PointMaskBranch(cfg.MODEL.MASK_RCNN.FPN_DIM, settings)


class _CountedForward(nn.Module):
    """The network as a function of one tensor."""

    def __init__(self, network: RCNN, train_mode: bool) -> None:
        super().__init__()
        self.network = network
        self.train_mode = train_mode

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.network.at_fixed_counts(images, self.train_mode)


def rcnn_settings(cfg: Any) -> RCNNSettings:
    """What a config says of the network without its mask branch."""
    own = cfg.MODEL.MASK_RCNN
    return RCNNSettings(
        num_classes=cfg.MODEL.NUM_CLASSES,
        fpn_dim=own.FPN_DIM,
        box_dim=own.BOX_DIM,
        anchor_sizes=tuple(own.ANCHOR_SIZES),
        proposals_train=own.PROPOSALS_TRAIN,
        proposals_test=own.PROPOSALS_TEST,
        rois_per_image=own.ROIS_PER_IMAGE,
        score_threshold=own.SCORE_THRESH,
        nms_threshold=own.NMS_THRESH,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        force_counts=own.FORCE_COUNTS,
    )
