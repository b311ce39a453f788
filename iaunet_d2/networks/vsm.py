"""VSM's network: YOLOX finds boxes, a U-Net the cell in the crop around each (section 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from .criterion import dice_loss
from .crop_unet import CropLogits, CropUNet
from .crops import cut_crops, cut_masks, jittered_boxes, whole_boxes
from .rcnn import Detections, RegionTarget
from .scored_masks import ScoredMasks, tight_crops
from .tta import VIEWS, boxes_from_view, fused, seen, suppressed
from .yolox import YOLOX, Detected
from .yolox_loss import BoxTarget

Size = tuple[int, int]

STAGES = ("det", "seg", "joint")
MERGES = {"nms": suppressed, "wbf": fused}


@dataclass(frozen=True)
class VSMSettings:
    """What joins the two networks; the defaults are the paper's where it gives any.

    The loss of a crop is cross-entropy and Dice in the paper, without weights; the code that its
    numbers come from weighs Dice by 3 and adds an auxiliary cross-entropy, and so do the defaults.
    The Dice loss is this package's, of the cell alone with +1 smoothing.

    Attributes:
        stage: what is trained: ``det``, ``seg`` or ``joint``, both in one loop.
        crop_size: side of the segmenter's input, pixels.
        crops_per_image: the most true boxes of an image that the segmenter learns in one step.
        crops_per_pass: the most crops in one forward pass at inference.
        crop_mean, crop_std: of the segmenter's input per channel, on the detector's scale; empty
            gives it what the detector gets.
        jitter_probability, jitter_spread: see :func:`~.crops.jittered_boxes`.
        cross_entropy_weight, dice_weight, aux_weight: of the segmenter's losses.
        tta: detect in all eight :data:`~.tta.VIEWS`, not in the image alone.
        merge: of the views, and of one view's own boxes: ``nms`` (as submitted) or ``wbf`` (as in
            the paper's development).
        merge_iou: IoU above which two boxes are one. The detector has suppressed at a higher one.
        min_box_side: narrower or lower boxes are dropped, pixels of the input.
        max_box_side: boxes wider or higher than this share of the image are dropped; 0 is off.
        max_box_sides: boxes both wider and higher than this share are dropped; 0 is off.
        score_threshold: detections with a lower score go, before they cost a crop and after.
        mask_threshold: a pixel is the cell's where its probability exceeds this.
        max_instances: the most that an image can give.
    """

    stage: str = "joint"
    crop_size: int = 64
    crops_per_image: int = 64
    crops_per_pass: int = 96
    crop_mean: tuple[float, ...] = ()
    crop_std: tuple[float, ...] = ()
    jitter_probability: float = 0.5
    jitter_spread: float = 0.2
    cross_entropy_weight: float = 1.0
    dice_weight: float = 3.0
    aux_weight: float = 0.4
    tta: bool = True
    merge: str = "nms"
    merge_iou: float = 0.5
    min_box_side: float = 3.0
    max_box_side: float = 0.0
    max_box_sides: float = 0.0
    score_threshold: float = 0.05
    mask_threshold: float = 0.5
    max_instances: int = 100


class VSMNetwork(nn.Module):
    """Detector and segmenter.

    Only what ``settings.stage`` trains asks for gradients.

    Args:
        detector: YOLOX.
        segmenter: the U-Net of crops, with as many input channels.
        settings: what joins them.

    Raises:
        ValueError: a setting that means nothing.
    """

    crop_mean: Tensor
    crop_std: Tensor

    def __init__(self, detector: YOLOX, segmenter: CropUNet, settings: VSMSettings) -> None:
        super().__init__()
        _check(settings, detector.settings.in_channels)
        self.detector, self.segmenter = detector, segmenter
        # What is frozen already, such as the first stages of Detectron2's ResNets, stays so.
        if settings.stage == "seg":
            detector.requires_grad_(False)
        if settings.stage == "det":
            segmenter.requires_grad_(False)
        self.settings = settings
        for name in ("crop_mean", "crop_std"):
            values = torch.tensor(getattr(settings, name)).view(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor, image_sizes: Sequence[Size]) -> list[Detections]:
        """Find the cells of images as the detector takes them.

        The score of an instance is the detector's times the mean probability inside its mask, of
        the crop's pixels; without a pixel it is dropped.

        Args:
            images: (B, C, H, W), H and W divisible by 32.
            image_sizes: height and width of each image without its padding.

        Returns:
            per image instances, best first; boxes are on whole pixels inside the image, the masks
            are probabilities (N, S, S).
        """
        found = self.detect(images, image_sizes)
        return [
            self._segmented(image[:, : size[0], : size[1]], one)
            for image, size, one in zip(images, image_sizes, found, strict=True)
        ]

    def detect(self, images: Tensor, image_sizes: Sequence[Size]) -> list[Detected]:
        """Boxes of each image, the views merged and what cannot be a cell dropped, best first.

        They are cut at the image's own border first: what the detector finds in the padding alone
        is nothing.

        Args:
            images, image_sizes: as of :meth:`forward`.
        """
        own, padded = self.settings, (images.shape[-2], images.shape[-1])
        views: list[list[Detected]] = [[] for _ in image_sizes]
        for view in VIEWS if own.tta else VIEWS[:1]:
            in_view = self.detector(seen(images, view))
            for of_image, found, size in zip(views, in_view, image_sizes, strict=True):
                boxes = clip_boxes_to_image(boxes_from_view(found.boxes, view, padded), size)
                of_image.append(Detected(boxes, found.scores, found.labels))
        merged = [MERGES[own.merge](of_image, own.merge_iou) for of_image in views]
        return [self._plausible(*x) for x in zip(merged, image_sizes, strict=True)]

    def probabilities(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Of the cell in each box of one image, a bounded number of crops at a time.

        Args:
            image: (C, H, W) as the detector takes it, without padding.
            boxes: (N, 4) int64 inside the image.

        Returns:
            (N, S, S).
        """
        side = self.settings.crop_size
        parts = [image.new_zeros(0, side, side, dtype=torch.float32)]
        for some in boxes.split(self.settings.crops_per_pass):
            crops = self._normalized(cut_crops(image, some, side))
            parts.append(self.segmenter(crops).main.float().softmax(1)[:, 1])
        return torch.cat(parts)

    def losses(
        self, images: Tensor, image_sizes: Sequence[Size], targets: Sequence[RegionTarget]
    ) -> dict[str, Tensor]:
        """Weighted losses of the stage; in evaluation mode too, where nothing is random.

        Args:
            images, image_sizes: as of :meth:`forward`.
            targets: one per image, possibly without instances.
        """
        losses: dict[str, Tensor] = {}
        if self.settings.stage != "seg":
            boxes = [BoxTarget(target.labels, target.boxes) for target in targets]
            losses.update(self.detector.losses(images, boxes))
        if self.settings.stage != "det":
            losses.update(self._crop_losses(images, image_sizes, targets))
        return losses

    def _crop_losses(
        self, images: Tensor, image_sizes: Sequence[Size], targets: Sequence[RegionTarget]
    ) -> dict[str, Tensor]:
        pairs = [
            self._training_crops(image[:, : size[0], : size[1]], target)
            for image, size, target in zip(images, image_sizes, targets, strict=True)
        ]
        crops, masks = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        own = self.settings
        if len(crops):
            logits = self.segmenter(self._normalized(crops), with_aux=True)
            ce, dice, aux = crop_losses(logits, masks)
        else:
            # Without a crop every parameter still takes part in the backward pass.
            ce = dice = aux = (
                0.0 * torch.stack([p.sum() for p in self.segmenter.parameters()]).sum()
            )
        losses = {
            "loss_seg_ce": own.cross_entropy_weight * ce,
            "loss_seg_dice": own.dice_weight * dice,
        }
        if self.segmenter.aux_head is not None:
            losses["loss_seg_aux"] = own.aux_weight * aux
        return losses

    def _training_crops(self, image: Tensor, target: RegionTarget) -> tuple[Tensor, Tensor]:
        """Crops (N, C, S, S) around true boxes, and the masks in them (N, S, S)."""
        own, boxes, masks = self.settings, target.boxes, target.masks
        if len(boxes) > own.crops_per_image:
            order = torch.randperm if self.training else torch.arange
            chosen = order(len(boxes), device=boxes.device)[: own.crops_per_image]
            boxes, masks = boxes[chosen], masks[chosen]
        if self.training:
            boxes = jittered_boxes(boxes, own.jitter_probability, own.jitter_spread)
        whole = whole_boxes(boxes, (image.shape[-2], image.shape[-1]))
        return cut_crops(image, whole, own.crop_size), cut_masks(masks, whole, own.crop_size)

    def _segmented(self, image: Tensor, found: Detected) -> Detections:
        own = self.settings
        boxes = whole_boxes(found.boxes, (image.shape[-2], image.shape[-1]))
        masks = self.probabilities(image, boxes)
        scores = found.scores.float() * confidences(masks, own.mask_threshold)
        kept = scores.argsort(descending=True, stable=True)
        kept = kept[(scores[kept] >= own.score_threshold) & (scores[kept] > 0)]
        return Detections(boxes[kept].float(), scores[kept], found.labels[kept], masks[kept])

    def _plausible(self, found: Detected, size: Size) -> Detected:
        """The best of those that are well enough scored and of a possible size."""
        own = self.settings
        possible = plausible_boxes(
            found.boxes, size, own.min_box_side, own.max_box_side, own.max_box_sides
        )
        # The final score is no higher: what is below the threshold now need not be segmented.
        kept = (possible & (found.scores >= own.score_threshold)).nonzero()[:, 0]
        kept = kept[: own.max_instances]
        return Detected(found.boxes[kept], found.scores[kept], found.labels[kept])

    def _normalized(self, crops: Tensor) -> Tensor:
        if len(self.crop_mean):
            crops = (crops - self.crop_mean) / self.crop_std
        return crops.contiguous(memory_format=torch.channels_last)


def crop_losses(logits: CropLogits, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, Dice and auxiliary cross-entropy of crops, unweighted means.

    Args:
        logits: of B > 0 crops; without an auxiliary head its loss is 0.
        masks: (B, S, S) bool.
    """
    # In float32 whatever autocast does: half precision overflows in sums over pixels.
    with torch.autocast(device_type=masks.device.type, enabled=False):
        main, truth = logits.main.float(), masks.long()
        ce = F.cross_entropy(main, truth)
        # The sigmoid of the difference is the softmax's probability of the cell.
        dice = dice_loss((main[:, 1] - main[:, 0]).flatten(1), masks.flatten(1).float()).mean()
        if logits.aux is None:
            return ce, dice, torch.zeros_like(ce)
        raised = F.interpolate(
            logits.aux.float(), size=masks.shape[-2:], mode="bilinear", align_corners=False
        )
        return ce, dice, F.cross_entropy(raised, truth)


def confidences(masks: Tensor, threshold: float) -> Tensor:
    """Mean of the probabilities (N, S, S) above the threshold, 0 where there are none: (N,)."""
    inside = masks > threshold
    return (masks * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)


def plausible_boxes(
    boxes: Tensor, size: Size, least: float, most_either: float, most_both: float
) -> Tensor:
    """Which boxes can be of a cell (VSM's code).

    It drops boxes wider or higher than half the image, and both wider and higher than 80 % of the
    window. Where one cell may fill an image, that loses it: both are off by default.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in pixels.
        size: height and width of the image.
        least: of either side, in pixels.
        most_either: of either side, as a share of the image's; 0 is off.
        most_both: of the smaller share of the two; 0 is off.

    Returns:
        (N,) bool; False for a box without an area, whatever the limits.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    shares = sides / sides.new_tensor([size[1], size[0]])
    possible = ((sides >= least) & (sides > 0)).all(1)
    if most_either:
        possible &= (shares <= most_either).all(1)
    if most_both:
        possible &= (shares <= most_both).any(1)
    return possible


def _check(settings: VSMSettings, channels: int) -> None:
    if settings.stage not in STAGES:
        raise ValueError(f"MODEL.VSM.STAGE is {settings.stage!r}; it is one of {', '.join(STAGES)}")
    if settings.merge not in MERGES:
        raise ValueError(f"MODEL.VSM.MERGE is {settings.merge!r}; it is one of {', '.join(MERGES)}")
    lengths = len(settings.crop_mean), len(settings.crop_std)
    if lengths not in ((0, 0), (channels, channels)):
        raise ValueError(
            f"MODEL.VSM.CROP_MEAN and CROP_STD have {lengths[0]} and {lengths[1]} entries; both "
            f"take one per channel of MODEL.PIXEL_MEAN, {channels}, or none"
        )
    side = settings.crop_size
    if side < 1 or side % CropUNet.STRIDE:
        raise ValueError(
            f"MODEL.VSM.CROP_SIZE {side} must be a positive multiple of {CropUNet.STRIDE}"
        )
    if settings.crops_per_image < 1 or settings.crops_per_pass < 1:
        raise ValueError("MODEL.VSM.CROPS_PER_IMAGE and CROPS_PER_PASS must be at least 1")


def without_overlaps(found: ScoredMasks) -> ScoredMasks:
    """Give each pixel to the best instance alone, as if painted in ascending order of scores.

    Args:
        found: best first. Those of which nothing is left are dropped.
    """
    free = torch.ones(found.size, dtype=torch.bool)
    visible = []
    for crop, (top, left) in zip(found.crops, found.corners.tolist(), strict=True):
        window = free[top : top + crop.shape[0], left : left + crop.shape[1]]
        visible.append(crop & window)
        window &= ~crop
    origins = [(top, left) for top, left in found.corners.tolist()]
    crops, corners = tight_crops(visible, origins)
    resolved = ScoredMasks(crops, corners, found.scores, found.classes, found.size)
    return resolved.take([i for i, crop in enumerate(crops) if crop.numel()])
