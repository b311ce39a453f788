"""YOLOX, the detector of VSM (Ge et al., 2021, https://arxiv.org/abs/2107.08430)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from .csp_darknet import ConvUnit, CSPDarknet, CSPLayer, scaled_depth, scaled_width
from .maps import ShapedBackbone, maps_at
from .yolox_loss import BoxTarget, PriorPredictions, YOLOXLoss

STRIDES = (8, 16, 32)
PRIOR_PROBABILITY = 0.01
MAX_LOG_SIDE = 8.0  # 2,981 strides


@dataclass(frozen=True)
class YOLOXSettings:
    """Sizes and thresholds; the defaults are VSM's YOLOX-X.

    Attributes:
        num_classes: K.
        depth, width: size of the network. Published: tiny 0.33 and 0.375, S 0.33 and 0.5, M 0.67
            and 0.75, L 1 and 1, X 1.33 and 1.25.
        in_channels: of the images.
        score_threshold: detections with a lower class x objectness are dropped.
        nms_threshold: same-class box IoU above which the lower-scored detection is dropped.
        max_candidates: the best so many of an image enter suppression, whose time grows with their
            square.
        max_detections: the most boxes that one image can give.
        centre_radius: see :func:`~iaunet_d2.networks.sim_ota.sim_ota`.
        l1_weight: of the loss on centres and sides, 0 leaves it out. YOLOX trains its last epochs,
            without mosaic, with 1.
        norm_momentum: share of a batch in the running statistics of BatchNorm. With 0.03 they lag
            behind a training of less than some hundred iterations; a short one takes more.
    """

    num_classes: int = 1
    depth: float = 1.33
    width: float = 1.25
    in_channels: int = 3
    score_threshold: float = 0.01
    nms_threshold: float = 0.65
    max_candidates: int = 10_000
    max_detections: int = 1000
    centre_radius: float = 2.5
    l1_weight: float = 0.0
    norm_momentum: float = 0.03


@dataclass(frozen=True)
class Detected:
    """Boxes of one image in the frame of the network's input, best first.

    Attributes:
        boxes: (N, 4) float32, x0, y0, x1, y1 in pixels, inside the image; none is empty.
        scores: (N,) float32, class probability x objectness.
        labels: (N,) int64 class indices from 0.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class PAFPN(nn.Module):
    """Path aggregation: a feature pyramid from coarse to fine, and a second one back.

    Liu et al., CVPR 2018, https://arxiv.org/abs/1803.01534.

    Args:
        channels: of the maps at strides 8, 16 and 32; the results have the same.
        blocks: bottlenecks in each of the four cross-stage blocks.
    """

    def __init__(self, channels: Sequence[int], blocks: int) -> None:
        super().__init__()
        c8, c16, c32 = channels
        self.lateral32 = ConvUnit(c32, c16, 1)
        self.down16 = CSPLayer(2 * c16, c16, blocks, shortcut=False)
        self.lateral16 = ConvUnit(c16, c8, 1)
        self.down8 = CSPLayer(2 * c8, c8, blocks, shortcut=False)
        self.stride16 = ConvUnit(c8, c8, 3, 2)
        self.up16 = CSPLayer(2 * c8, c16, blocks, shortcut=False)
        self.stride32 = ConvUnit(c16, c16, 3, 2)
        self.up32 = CSPLayer(2 * c16, c32, blocks, shortcut=False)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Maps at strides 8, 16 and 32, of the same shapes as those given."""
        at8, at16, at32 = features
        top = self.lateral32(at32)
        middle = self.lateral16(self.down16(torch.cat([_doubled(top), at16], dim=1)))
        out8 = self.down8(torch.cat([_doubled(middle), at8], dim=1))
        out16 = self.up16(torch.cat([self.stride16(out8), middle], dim=1))
        out32 = self.up32(torch.cat([self.stride32(out16), top], dim=1))
        return out8, out16, out32


class DecoupledHead(nn.Module):
    """Classes on one tower of convolutions, box and objectness on another; for one level.

    Args:
        in_channels: of the map.
        channels: of both towers.
        num_classes: K.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = ConvUnit(in_channels, channels, 1)
        self.class_tower = nn.Sequential(*(ConvUnit(channels, channels, 3) for _ in range(2)))
        self.box_tower = nn.Sequential(*(ConvUnit(channels, channels, 3) for _ in range(2)))
        self.classes = nn.Conv2d(channels, num_classes, 1)
        self.box = nn.Conv2d(channels, 4, 1)
        self.objectness = nn.Conv2d(channels, 1, 1)
        # Nearly every prior is negative: begin there (Lin et al., 2017, section 3.3).
        bias = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        for layer in (self.classes, self.objectness):
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 5 + K, H, W): four box numbers, objectness, classes."""
        features = self.stem(features)
        box = self.box_tower(features)
        classes = self.classes(self.class_tower(features))
        return torch.cat([self.box(box), self.objectness(box), classes], dim=1)


class YOLOX(nn.Module):
    """CSPDarknet, path aggregation and a decoupled head on strides 8, 16 and 32, without anchors.

    Args:
        settings: sizes and thresholds.
        backbone: any with maps at strides 8, 16 and 32, in place of the CSPDarknet of these sizes.

    Raises:
        ValueError: the settings describe no network.
        MissingStrideError: the backbone lacks one of the strides.
    """

    def __init__(self, settings: YOLOXSettings, backbone: ShapedBackbone | None = None) -> None:
        super().__init__()
        if settings.num_classes < 1 or settings.in_channels < 1:
            raise ValueError(
                f"YOLOX with {settings.num_classes} classes on {settings.in_channels} channels; "
                "it takes one of each at least"
            )
        if scaled_width(64, settings.width) < 2 or settings.depth <= 0:
            raise ValueError(
                f"YOLOX of depth {settings.depth} and width {settings.width}; the smallest "
                "published has 0.33 and 0.25, and both must be positive"
            )
        self.settings = settings
        if backbone is None:
            backbone = CSPDarknet(settings.depth, settings.width, settings.in_channels)
        self.backbone = backbone
        self.maps = maps_at(backbone.output_shape(), STRIDES)
        channels = self.maps.channels
        self.neck = PAFPN(channels, scaled_depth(settings.depth))
        width = scaled_width(256, settings.width)
        self.heads = nn.ModuleList(DecoupledHead(c, width, settings.num_classes) for c in channels)
        for part in self.children():
            if part is self.backbone and not isinstance(part, CSPDarknet):
                continue  # another backbone keeps its own momentum
            for module in part.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = settings.norm_momentum
        self.criterion = YOLOXLoss(settings.num_classes, settings.centre_radius, settings.l1_weight)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Detected]:
        """Detect, one result per image.

        Args:
            images: (B, C, H, W), H and W divisible by 32.
        """
        predictions, _ = self.predict(images)
        scores = predictions.class_logits.sigmoid() * predictions.objectness.sigmoid()[..., None]
        size = (images.shape[-2], images.shape[-1])
        return [
            suppressed(boxes, of_classes, size, self.settings)
            for boxes, of_classes in zip(predictions.boxes, scores, strict=True)
        ]

    def losses(self, images: Tensor, targets: Sequence[BoxTarget]) -> dict[str, Tensor]:
        """Weighted losses, see :class:`~.yolox_loss.YOLOXLoss`; in evaluation mode too.

        Args:
            images: as of :meth:`forward`.
            targets: one per image, possibly without boxes.
        """
        predictions, priors = self.predict(images)
        return self.criterion(predictions, priors, targets)

    def predict(self, images: Tensor) -> tuple[PriorPredictions, Tensor]:
        """Decoded predictions of all priors, in float32 also under autocast, and the priors (P, 3).

        Arguments as of :meth:`forward`.
        """
        maps = self.raw(images)
        priors = grid_priors([m.shape[-2:] for m in maps], STRIDES, images.device)
        # (B, 5 + K, H, W) of every level to (B, P, 5 + K); bfloat16 cannot tell pixels apart.
        flat = torch.cat([m.float().flatten(2) for m in maps], dim=2).transpose(1, 2)
        deltas, objectness, classes = flat.split([4, 1, self.settings.num_classes], dim=2)
        boxes = decoded(deltas, priors)
        return PriorPredictions(deltas, boxes, objectness[..., 0], classes), priors

    def raw(self, images: Tensor) -> list[Tensor]:
        """The head's maps (B, 5 + K, H / s, W / s) at strides s of 8, 16 and 32.

        Raises:
            ValueError: a side of the images is not divisible by 32.
        """
        height, width = int(images.shape[-2]), int(images.shape[-1])
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise ValueError(f"images of {height} x {width}; YOLOX takes multiples of 32, pad them")
        features = self.neck(self.maps.of(self.backbone(images)))
        return [head(m) for head, m in zip(self.heads, features, strict=True)]


def grid_priors(
    sizes: Sequence[Sequence[int]], strides: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Centre x, y and stride of every cell of every level, row by row: (P, 3) in pixels.

    Args:
        sizes: height and width of each level's map.
        strides: of each level.
    """
    levels = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) * stride
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) * stride
        columns = [x.repeat(height), y.repeat_interleave(width)]
        levels.append(torch.stack([*columns, torch.full_like(columns[0], stride)], dim=1))
    return torch.cat(levels)


def decoded(deltas: Tensor, priors: Tensor) -> Tensor:
    """Boxes from the head's numbers: (..., P, 4) and (P, 3) to (..., P, 4) x0, y0, x1, y1.

    The centre counts from the cell's upper left corner, not from its middle as in the assignment.
    The logarithm of a side ends at 8, far beyond every image, so that the exponential and the area
    are finite whatever a head in half precision gives.
    """
    centres, stride = priors[:, :2], priors[:, 2:]
    centre = deltas[..., :2] * stride + centres - stride / 2
    half = deltas[..., 2:].clamp(max=MAX_LOG_SIDE).exp() * stride / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def suppressed(
    boxes: Tensor, scores: Tensor, size: tuple[int, int], settings: YOLOXSettings
) -> Detected:
    """The detections of one image: each prior's best class, threshold, per-class suppression.

    Boxes are cut to the image first, as far as there is anything left of them.

    Args:
        boxes: (P, 4) x0, y0, x1, y1 in pixels.
        scores: (P, K).
        size: height and width of the image.
        settings: thresholds and limits.
    """
    best, labels = scores.max(1)
    boxes = clip_boxes_to_image(boxes, size)
    kept = (best >= settings.score_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, best, labels = boxes[kept], best[kept], labels[kept]
    first = best.topk(min(len(best), settings.max_candidates)).indices
    boxes, best, labels = boxes[first], best[first], labels[first]
    index = batched_nms(boxes, best, labels, settings.nms_threshold)[: settings.max_detections]
    return Detected(boxes[index], best[index], labels[index])


def _doubled(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="nearest")
