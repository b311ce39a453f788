"""PointRend's mask branch (Kirillov et al., CVPR 2020, https://arxiv.org/abs/1912.08193)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mask_branch import Features, MaskBranch, Positives, mask_loss
from .points import grid_points, sample_points, subdivided, uncertain_points

# Boxes that are refined at a time: bounds the memory of their points' features.
CHUNK_BOXES = 256


@dataclass(frozen=True)
class PointRendSettings:
    """Sizes of the branch; the defaults are the paper's for instances.

    Attributes:
        num_classes: K, background not counted.
        coarse_size: side of the coarse mask; its features are sampled at twice as many points.
        coarse_dim: width of the two layers of the coarse head.
        point_dim, point_layers: width and number of the hidden layers of the point head.
        train_points: per region.
        oversample_ratio, importance_sample_ratio: see
            :func:`~iaunet_d2.networks.points.uncertain_points`.
        subdivision_steps: each doubles the side of the mask.
        subdivision_points: predicted anew in a step.
    """

    num_classes: int = 1
    coarse_size: int = 7
    coarse_dim: int = 1024
    point_dim: int = 256
    point_layers: int = 3
    train_points: int = 196
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75
    subdivision_steps: int = 5
    subdivision_points: int = 784


class PointMaskBranch(MaskBranch):
    """A coarse mask per box, refined at the points where it is least certain (sections 3, 4).

    Both heads read the finest map of the pyramid.

    Args:
        channels: of the pyramid.
        settings: sizes.
    """

    def __init__(self, channels: int, settings: PointRendSettings) -> None:
        super().__init__()
        self.settings = settings
        self.coarse = CoarseHead(channels, settings)
        self.points = PointHead(channels, settings)

    def losses(
        self, features: Features, positives: Sequence[Positives], padded: tuple[int, int]
    ) -> dict[str, Tensor]:
        """``loss_mask`` of the coarse masks and ``loss_mask_point`` of the points (section 3.3)."""
        own, finest = self.settings, features["0"]
        boxes = [p.boxes for p in positives]
        labels = torch.cat([p.labels for p in positives])
        coarse = self.coarse(self._grid_features(finest, boxes, padded))
        of_class = coarse[torch.arange(len(coarse), device=coarse.device), labels]
        points = uncertain_points(
            of_class.detach()[:, None],
            own.train_points,
            own.oversample_ratio,
            own.importance_sample_ratio,
        )[:, 0]
        fine = self._at_points(finest, boxes, points, padded, coarse, labels)
        places = points_in_boxes(boxes, points, padded)
        truth = [
            sample_points(p.masks[p.matched][:, None].to(x), x)[:, 0]
            for p, x in zip(positives, places, strict=True)
        ]
        loss = F.binary_cross_entropy_with_logits(fine, torch.cat(truth), reduction="sum")
        return {
            "loss_mask": mask_loss(of_class, positives),
            "loss_mask_point": loss / max(fine.numel(), 1),
        }

    def predict(
        self,
        features: Features,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        padded: tuple[int, int],
    ) -> list[Tensor]:
        """Probabilities (N, 224, 224) of boxes per image, all subdivisions done (section 3.1)."""
        results = []
        for i, (own_boxes, own_labels) in enumerate(zip(boxes, labels, strict=True)):
            finest = features["0"][i : i + 1]
            parts = [
                self._refined(finest, some, kinds, padded).sigmoid()
                for some, kinds in zip(
                    own_boxes.split(CHUNK_BOXES), own_labels.split(CHUNK_BOXES), strict=True
                )
            ]
            results.append(torch.cat(parts))
        return results

    def at_fixed_count(self, features: Features, count: int, train_mode: bool) -> list[Tensor]:
        """See :meth:`MaskBranch.at_fixed_count`; every box is the whole image."""
        finest = features["0"]
        padded = (4 * finest.shape[-2], 4 * finest.shape[-1])
        boxes = finest.new_tensor([0, 0, padded[1], padded[0]]).expand(count, 4)
        labels = torch.zeros(count, dtype=torch.int64, device=finest.device)
        if not train_mode:
            return self.predict(features, [boxes], [labels], padded)
        coarse = self.coarse(self._grid_features(finest, [boxes], padded))
        points = finest.new_zeros(count, self.settings.train_points, 2)
        return [coarse, self._at_points(finest, [boxes], points, padded, coarse, labels)]

    def _refined(
        self, finest: Tensor, boxes: Tensor, labels: Tensor, padded: tuple[int, int]
    ) -> Tensor:
        """Mask logits (N, M, M) of boxes of one image."""
        own = self.settings
        coarse = self.coarse(self._grid_features(finest, [boxes], padded))
        return subdivided(
            coarse[torch.arange(len(boxes), device=boxes.device), labels],
            lambda points: self._at_points(finest, [boxes], points, padded, coarse, labels),
            own.subdivision_steps,
            own.subdivision_points,
        )

    def _grid_features(
        self, finest: Tensor, boxes: Sequence[Tensor], padded: tuple[int, int]
    ) -> Tensor:
        """Features at a regular grid of each box: (P, C, 2 S, 2 S), S the coarse mask's side."""
        side = 2 * self.settings.coarse_size
        count = sum(len(b) for b in boxes)
        grid = grid_points(side, side, finest.device).expand(count, -1, -1)
        return _features_at(finest, boxes, grid, padded).unflatten(2, (side, side))

    def _at_points(
        self,
        finest: Tensor,
        boxes: Sequence[Tensor],
        points: Tensor,
        padded: tuple[int, int],
        coarse: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Logits (P, R) of the labelled class at points (P, R, 2) of the boxes of all images."""
        fine = _features_at(finest, boxes, points, padded)
        logits = self.points(fine, sample_points(coarse, points))
        return logits[torch.arange(len(logits), device=logits.device), labels]


class CoarseHead(nn.Module):
    """Two fully connected layers to a 7 x 7 mask per class (section 4.1)."""

    def __init__(self, channels: int, settings: PointRendSettings) -> None:
        super().__init__()
        self.side, width = settings.coarse_size, settings.coarse_dim
        outputs = settings.num_classes * self.side**2
        self.reduce = nn.Conv2d(channels, channels, 2, stride=2)
        self.hidden = nn.ModuleList(
            [nn.Linear(channels * self.side**2, width), nn.Linear(width, width)]
        )
        self.predictor = nn.Linear(width, outputs)
        initialise(self, self.predictor)

    def forward(self, grid: Tensor) -> Tensor:
        """Features (P, C, 2 S, 2 S) to logits (P, K, S, S)."""
        x = F.relu(self.reduce(grid)).flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.predictor(x).float().unflatten(1, (-1, self.side, self.side))


class PointHead(nn.Module):
    """A perceptron at every point, given the coarse prediction at each layer (section 4.1)."""

    def __init__(self, channels: int, settings: PointRendSettings) -> None:
        super().__init__()
        classes, width = settings.num_classes, settings.point_dim
        inputs = [channels, *[width] * settings.point_layers]
        self.hidden = nn.ModuleList([nn.Conv1d(c + classes, width, 1) for c in inputs[:-1]])
        self.predictor = nn.Conv1d(inputs[-1] + classes, classes, 1)
        initialise(self, self.predictor)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Features (P, C, R) and coarse logits (P, K, R) at points to logits (P, K, R)."""
        x = fine
        for layer in self.hidden:
            x = F.relu(layer(torch.cat([x, coarse.to(x)], dim=1)))
        return self.predictor(torch.cat([x, coarse.to(x)], dim=1)).float()


def initialise(head: nn.Module, predictor: nn.Linear | nn.Conv1d) -> None:
    """As the authors' code: He's for hidden layers, nearly 0 for the predictor, no bias.

    Hidden convolutions are normal over the fan out, linear layers uniform over the fan in.
    """
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        elif isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.normal_(predictor.weight, std=0.001)


def points_in_boxes(boxes: Sequence[Tensor], points: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """Points of boxes as points of the images.

    Args:
        boxes: of each image (P_i, 4), x0, y0, x1, y1 in pixels.
        points: (sum of P_i, R, 2), x and y in [0, 1] over the box.
        size: height and width of the images, pixels.

    Returns:
        one (P_i, R, 2) per image, x and y in [0, 1] over the image.
    """
    every = torch.cat(list(boxes))
    corner, extent = every[:, None, :2], (every[:, 2:] - every[:, :2])[:, None]
    places = (corner + points * extent) / every.new_tensor([size[1], size[0]])
    return list(places.split([len(b) for b in boxes]))


def _features_at(
    maps: Tensor, boxes: Sequence[Tensor], points: Tensor, padded: tuple[int, int]
) -> Tensor:
    """Values (P, C, R) of maps (B, C, H, W) at points (P, R, 2) of the boxes of all images."""
    rows = []
    for i, places in enumerate(points_in_boxes(boxes, points, padded)):
        values = sample_points(maps[i : i + 1], places.reshape(1, -1, 2))  # (1, C, P_i R)
        rows.append(values[0].unflatten(1, places.shape[:2]).transpose(0, 1))
    return torch.cat(rows)
