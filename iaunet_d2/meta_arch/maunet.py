"""MAUNet as a Detectron2 meta-architecture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..networks import (
    DistanceSettings,
    MAUNetEnsemble,
    MAUNetOutput,
    MAUNetwork,
    ScoredMasks,
    consistency_loss,
    distance_instances,
    fold_batch_norms,
    mean_output,
    mirror_pad,
    multi_scale,
    outputs_of,
    padded_side,
    sliding_window,
    supervised_losses,
)
from ..networks.maunet import MIN_SIDE
from .label_map import LabelMapModel
from .maunet_build import (
    KEY,
    LossSettings,
    WindowSettings,
    build_network,
    cutting_settings,
    loss_settings,
    window_settings,
)
from .preprocess import normalize_images, padding_mask


@META_ARCH_REGISTRY.register()
class MAUNet(LabelMapModel):
    """Classes of pixels with an anti-ambiguity proxy, a distance field, and watersheds on it.

    Li et al., "MAUNet: Modality-Aware Anti-Ambiguity U-Net for Multi-Modality Cell Segmentation",
    NeurIPS 2022 cell segmentation challenge. Choices where the paper is silent:

    - Images are padded by mirroring, not by zeros: instance normalisation sees the padding too, and
      the authors, who train on full crops of 512 pixels, fill smaller images in the same way. The
      losses leave padding out.
    - At inference every image is alone, so that what is found in it does not depend on its batch.
    - Networks that are trained together add up their losses: each learns as it would alone. The
      paper keeps one of two networks trained for consistency; here both are averaged.

    Args:
        network: one network, or several.
        pixel_mean, pixel_std, normalize: see :class:`~.base.SegmentationModel`.
        num_classes, max_instances, targets_kind: see :class:`~.label_map.LabelMapModel`.
        loss: weights of the losses.
        windows: scales and windows at inference.
        cutting: how instances are cut out.

    Raises:
        ValueError: consistency is asked for, and the networks are not two.
    """

    node = "MAUNET"
    learns_from_unlabeled = True  # see require_labels

    network: MAUNetwork | MAUNetEnsemble

    @configurable
    def __init__(
        self,
        *,
        network: MAUNetwork | MAUNetEnsemble,
        pixel_mean: list[float],
        pixel_std: list[float],
        num_classes: int = 1,
        normalize: str = "dataset",
        max_instances: int = 100,
        targets_kind: str = "classes+distance",
        loss: LossSettings | None = None,
        windows: WindowSettings | None = None,
        cutting: DistanceSettings | None = None,
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
        self.loss = loss or LossSettings()
        self.windows = windows or WindowSettings()
        self.cutting = cutting or DistanceSettings()
        count = len(network.members) if isinstance(network, MAUNetEnsemble) else 1
        if self.loss.consistency_weight and count != 2:
            raise ValueError(
                f"{KEY}.LOSS.CONSISTENCY_WEIGHT {self.loss.consistency_weight} compares two "
                f"networks, and there are {count}: name two encoders in {KEY}.ENCODERS (the same "
                "one twice will do), or set the weight to 0"
            )

    @classmethod
    def unlabeled_problem(cls, cfg: Any) -> str:
        """Why the model of a config does not learn from unlabelled images; empty if it does."""
        if cfg.MODEL.MAUNET.LOSS.CONSISTENCY_WEIGHT:
            return ""
        return f"does not learn from unlabelled images while {KEY}.LOSS.CONSISTENCY_WEIGHT is 0"

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        return {
            "network": build_network(cfg),
            **cls.label_map_arguments(cfg, "classes+distance"),
            "loss": loss_settings(cfg),
            "windows": window_settings(cfg),
            "cutting": cutting_settings(cfg),
        }

    def require_labels(self, batched_inputs: list[dict[str, Any]]) -> None:
        """Raise for images without ground truth, unless there is a loss for them.

        Raises:
            ValueError: naming the first one, and what to do.
        """
        if self.loss.consistency_weight:
            return
        for inputs in batched_inputs:
            if inputs.get("unlabeled"):
                raise ValueError(
                    f"{inputs.get('file_name', 'an image')}: has no ground truth (unlabeled), and "
                    f"{KEY}.LOSS.CONSISTENCY_WEIGHT is 0: set it (the paper's is 1.5), with two "
                    f"encoders in {KEY}.ENCODERS"
                )

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses of a batch, in training and in evaluation mode.

        Unlabelled images take part in the consistency alone.
        """
        batch = sorted(batched_inputs, key=lambda inputs: bool(inputs.get("unlabeled")))
        labelled = [inputs for inputs in batch if not inputs.get("unlabeled")]
        images = self.preprocess(batch)
        valid = _valid(images)
        outputs = outputs_of(self.network, images.tensor)
        losses = self._supervised(outputs, labelled, images, valid)
        if self.loss.consistency_weight:
            first, second = (output.take(slice(len(labelled), None)) for output in outputs)
            value = consistency_loss(first, second, valid[len(labelled) :])
            losses["loss_consistency"] = self.loss.consistency_weight * value
        return losses

    def _supervised(
        self,
        outputs: Sequence[MAUNetOutput],
        labelled: list[dict[str, Any]],
        images: ImageList,
        valid: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of the first images of the batch, those with ground truth, over all networks."""
        shape = (0, *images.tensor.shape[-2:])
        classes = torch.zeros(shape, dtype=torch.int64, device=self.device)
        distance = torch.zeros(shape, device=self.device)
        if labelled:
            target = self.dense_targets(labelled, images)
            classes = target.classes
            distance = distance if target.distance is None else target.distance
        total: dict[str, Tensor] = {}
        for output in outputs:
            found = supervised_losses(
                output.take(slice(len(labelled))),
                classes,
                distance,
                valid[: len(labelled)],
                self.loss.focal_gamma,
                self.loss.published_focal,
            )
            for name, value in self.loss.weighted(found).items():
                total[name] = total[name] + value if name in total else value
        return total

    @torch.no_grad()
    def segment(self, batched_inputs: list[dict[str, Any]]) -> list[ScoredMasks]:
        """Scored instances of each image at its original size, masks as crops on the CPU."""
        one_by_one = [super(MAUNet, self).segment([inputs]) for inputs in batched_inputs]
        return [found for alone in one_by_one for found in alone]

    def probabilities(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Probabilities (B, 2 + K, H, W) without the proxy, and the distance (B, H, W)."""
        mean = torch.stack([self._seen(image) for image in images])
        return mean[:, :-1].softmax(dim=1)[:, :-1], mean[:, -1]

    def _seen(self, image: Tensor) -> Tensor:
        """Mean logits and distance (K + 4, H, W) of an image, over windows, scales and networks."""
        own = self.windows

        def windowed(scaled: Tensor) -> Tensor:
            return sliding_window(
                lambda crops: mean_output(self.network, crops),
                scaled,
                own.window,
                own.overlap,
                own.batch,
                self.size_divisibility,
                self._least_side,
            )

        return multi_scale(windowed, image, own.scales, own.most_pixels)

    def instances(
        self, probabilities: np.ndarray, distance: np.ndarray | None, scale: float = 1.0
    ) -> np.ndarray:
        """Label map (h, w) of one image's maps; the interior is that of any class."""
        interior = probabilities[1 : 1 + self.num_classes].sum(axis=0)
        if distance is None:
            raise ValueError("MAUNet cuts instances out of the distance field, and there is none")
        return distance_instances(interior, probabilities[0], distance, self.cutting, scale)

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalised images in one tensor, mirrored at the right and the bottom to fill it."""
        tensors = [x["image"].to(self.device) for x in batched_inputs]
        given = [x.get("statistics") for x in batched_inputs]
        mean, std = self.pixel_mean, self.pixel_std
        tensors = normalize_images(tensors, mean, std, self.normalize, given)
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in tensors]
        height, width = (
            padded_side(max(side), self.size_divisibility, self._least_side)
            for side in zip(*sizes, strict=True)
        )
        filled = torch.stack([mirror_pad(x, height, width) for x in tensors])
        return ImageList(filled.contiguous(memory_format=torch.channels_last), sizes)

    @property
    def _least_side(self) -> int:
        return max(MIN_SIDE, self.square_size)

    def fold(self) -> None:
        """Fold batch norms into convolutions, in place: quicker, and for inference alone."""
        side = padded_side(1, self.size_divisibility, self._least_side)
        blank = torch.zeros(1, len(self.pixel_mean), side, side, device=self.device)
        fold_batch_norms(self.eval().network, blank)

    def counted(self, train_mode: bool) -> nn.Module:
        """All networks on one window; scales and windows come on top."""
        return _CountedForward(self.network)


class _CountedForward(nn.Module):
    """The networks as a function of one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        return [output.joined() for output in outputs_of(self.network, images)]


def _valid(images: ImageList) -> Tensor:
    """1 for pixels of the images, 0 for padding: float (B, 1, H, W)."""
    padding = padding_mask(images)
    shape = (len(images), 1, *images.tensor.shape[-2:])
    if padding is None:
        return torch.ones(shape, device=images.tensor.device)
    return (~padding[:, None]).float()
