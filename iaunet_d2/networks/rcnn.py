"""Region-based networks: torchvision's Faster R-CNN on this project's backbones, and a mask branch.

Mask R-CNN: He et al., ICCV 2017, https://arxiv.org/abs/1703.06870. Proposals, matching, sampling,
box losses and suppression are torchvision's own modules.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from .criterion import Target
from .maps import ShapedBackbone, maps_at
from .mask_branch import Features, MaskBranch, Positives

Sizes = Sequence[tuple[int, int]]

BOX_POOL = 7
NO_SUPPRESSION = 2.0  # an IoU that no two boxes exceed


@dataclass(frozen=True)
class RegionTarget(Target):
    """Ground truth of one image.

    Attributes:
        boxes: (N, 4) float, x0, y0, x1, y1 in pixels of the padded input; none is empty.
    """

    boxes: Tensor


@dataclass
class Detections:
    """Instances of one image in the frame of the network's input, best first.

    Attributes:
        boxes: (N, 4) x0, y0, x1, y1 in pixels.
        scores: (N,).
        labels: (N,) int64 class indices from 0.
        masks: (N, M, M) probabilities over the box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class RCNNSettings:
    """Sizes and thresholds of the network without its mask branch; the defaults are torchvision's.

    Attributes:
        num_classes: K, background not counted.
        fpn_dim: channels of the feature pyramid.
        box_dim: width of the two layers of the box head.
        anchor_sizes: of the five levels, pixels.
        proposals_train, proposals_test: kept per level before and per image after suppression.
        rois_per_image: regions that the box losses sample in an image, a quarter of them positive.
        score_threshold: detections with a lower score are dropped.
        nms_threshold: same-class box IoU above which the lower-scored detection is dropped.
        detections_per_image: the most instances that one image can give.
        force_counts: suppress nothing, and give every image ``proposals_test`` proposals and
            ``detections_per_image`` detections: what the network costs at most, whatever is in the
            image. For counting and timing only.
    """

    num_classes: int = 1
    fpn_dim: int = 256
    box_dim: int = 1024
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    proposals_train: int = 2000
    proposals_test: int = 1000
    rois_per_image: int = 512
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections_per_image: int = 100
    force_counts: bool = False


class RCNN(nn.Module):
    """Backbone, feature pyramid, proposals, boxes, masks.

    Args:
        backbone: any with maps at strides 4, 8, 16 and 32.
        settings: sizes and thresholds.
        masks: the mask branch, on maps of ``settings.fpn_dim`` channels.

    Raises:
        ValueError: there are not as many anchor sizes as levels.
        MissingStrideError: the backbone lacks one of the strides.
    """

    def __init__(self, backbone: ShapedBackbone, settings: RCNNSettings, masks: MaskBranch) -> None:
        super().__init__()
        self.maps = maps_at(backbone.output_shape())
        levels = len(self.maps.names) + 1
        if len(settings.anchor_sizes) != levels:
            raise ValueError(
                f"MODEL.MASK_RCNN.ANCHOR_SIZES has {len(settings.anchor_sizes)} sizes; it takes "
                f"one per level of the pyramid, {levels}"
            )
        self.backbone = backbone
        self.fpn = FeaturePyramidNetwork(
            list(self.maps.channels), settings.fpn_dim, extra_blocks=LastLevelMaxPool()
        )
        built = _from_torchvision(settings)
        self.rpn, self.roi_heads = built.rpn, built.roi_heads
        self.masks = masks
        self.settings = settings

    def forward(self, images: Tensor, image_sizes: Sizes) -> list[Detections]:
        """Detect in normalised images.

        Args:
            images: (B, C, H, W), H and W divisible by 32.
            image_sizes: height and width of each image without its padding.
        """
        features, padded = self.features(images), (images.shape[-2], images.shape[-1])
        with _training(False, self.rpn, self.roi_heads), self._suppression():
            proposals, _ = self.rpn(ImageList(images, list(image_sizes)), features)
            logits, deltas = self._classified(features, proposals, padded)
            boxes, scores, labels = self.roi_heads.postprocess_detections(
                logits, deltas, proposals, list(image_sizes)
            )
        labels = [label - 1 for label in labels]  # torchvision's 0 is background
        masks = self.masks.predict(features, boxes, labels, padded)
        return [Detections(*found) for found in zip(boxes, scores, labels, masks, strict=True)]

    def losses(
        self, images: Tensor, image_sizes: Sizes, targets: Sequence[RegionTarget]
    ) -> dict[str, Tensor]:
        """Losses under Detectron2's names; in evaluation mode too.

        Args:
            images, image_sizes: as of :meth:`forward`.
            targets: one per image, possibly without instances.
        """
        features, padded = self.features(images), (images.shape[-2], images.shape[-1])
        boxes = [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets]
        with _training(True, self.rpn, self.roi_heads):
            proposals, rpn = self.rpn(ImageList(images, list(image_sizes)), features, boxes)
            rois, matched, labels, deltas = self.roi_heads.select_training_samples(proposals, boxes)
        loss_cls, loss_box = fastrcnn_loss(
            *self._classified(features, rois, padded), labels, deltas
        )
        positives = [
            Positives(roi[label > 0], label[label > 0] - 1, target.masks, match[label > 0])
            for roi, label, match, target in zip(rois, labels, matched, targets, strict=True)
        ]
        return {
            "loss_rpn_cls": rpn["loss_objectness"],
            "loss_rpn_loc": rpn["loss_rpn_box_reg"],
            "loss_cls": loss_cls,
            "loss_box_reg": loss_box,
            **self.masks.losses(features, positives, padded),
        }

    def at_fixed_counts(self, images: Tensor, train_mode: bool) -> list[Tensor]:
        """Everything that costs, for as many regions as there can be.

        At inference these are all proposals and detections, as with ``force_counts``; in training
        the sampled regions, a quarter of them with a mask. Pooling, matching and suppression have
        no multiply-accumulates and are left out; the results mean nothing.

        Args:
            images: (1, C, H, W).
            train_mode: whether it is a training step's forward pass.
        """
        own, features = self.settings, self.features(images)
        regions = own.rois_per_image if train_mode else own.proposals_test
        instances = regions // 4 if train_mode else own.detections_per_image
        scores, deltas = self.rpn.head(list(features.values()))
        pooled = images.new_zeros(regions, own.fpn_dim, BOX_POOL, BOX_POOL)
        boxes = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        masks = self.masks.at_fixed_count(features, instances, train_mode)
        return [*scores, *deltas, *boxes, *masks]

    def features(self, images: Tensor) -> Features:
        """The pyramid: maps of ``fpn_dim`` channels at strides 4, 8, 16, 32 and 64.

        They are in float32 also under autocast: torchvision takes the precision of boxes from them,
        and bfloat16 cannot tell neighbouring pixels apart. Convolutions behind them are cast again.
        """
        maps = {str(i): m for i, m in enumerate(self.maps.of(self.backbone(images)))}
        return {name: m.float() for name, m in self.fpn(maps).items()}

    def _classified(
        self, features: Features, rois: list[Tensor], padded: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1) and box deltas (R, 4 (K + 1)) of regions."""
        pooled = self.roi_heads.box_roi_pool(features, rois, [padded] * len(rois))
        return self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))

    @contextmanager
    def _suppression(self) -> Iterator[None]:
        """Turned off inside, if ``force_counts`` asks for it."""
        if not self.settings.force_counts:
            yield
            return
        rpn, heads = self.rpn, self.roi_heads
        kept = rpn.nms_thresh, heads.nms_thresh, heads.score_thresh
        rpn.nms_thresh, heads.nms_thresh, heads.score_thresh = NO_SUPPRESSION, NO_SUPPRESSION, -1.0
        try:
            yield
        finally:
            rpn.nms_thresh, heads.nms_thresh, heads.score_thresh = kept


class _FloatRPNHead(RPNHead):
    """Proposals are decoded in float32 also under autocast."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, deltas = super().forward(x)
        return [s.float() for s in scores], [d.float() for d in deltas]


class _FloatBoxPredictor(FastRCNNPredictor):
    """Boxes are decoded in float32 also under autocast."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


class _Channels(nn.Module):
    """Tells torchvision how many channels the maps have."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels


def _from_torchvision(settings: RCNNSettings) -> FasterRCNN:
    """torchvision's detector, whose backbone and image transform are not used."""
    channels = settings.fpn_dim
    anchors = AnchorGenerator(
        tuple((size,) for size in settings.anchor_sizes),
        ((0.5, 1.0, 2.0),) * len(settings.anchor_sizes),
    )
    return FasterRCNN(
        _Channels(channels),
        rpn_anchor_generator=anchors,
        rpn_head=_FloatRPNHead(channels, anchors.num_anchors_per_location()[0]),
        rpn_pre_nms_top_n_train=settings.proposals_train,
        rpn_pre_nms_top_n_test=settings.proposals_test,
        rpn_post_nms_top_n_train=settings.proposals_train,
        rpn_post_nms_top_n_test=settings.proposals_test,
        box_head=TwoMLPHead(channels * BOX_POOL**2, settings.box_dim),
        box_predictor=_FloatBoxPredictor(settings.box_dim, settings.num_classes + 1),
        box_score_thresh=settings.score_threshold,
        box_nms_thresh=settings.nms_threshold,
        box_detections_per_img=settings.detections_per_image,
        box_batch_size_per_image=settings.rois_per_image,
    )


@contextmanager
def _training(mode: bool, *modules: nn.Module) -> Iterator[None]:
    """Proposals and boxes in a mode of their own; they hold no layer that it changes."""
    before = [module.training for module in modules]
    for module in modules:
        module.training = mode
    try:
        yield
    finally:
        for module, was in zip(modules, before, strict=True):
            module.training = was
