"""What models share whose queries each predict a class and a mask."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..networks import CostWeights, QueryOutput, ScoredMasks, SetCriterion, rescored_instances
from .base import SegmentationModel, output_size
from .preprocess import padding_mask


class MaskQueryModel(SegmentationModel):
    """A network of queries, matching and losses, and instances rescored by their masks.

    Args:
        network: the network proper; it gives :class:`~iaunet_d2.networks.QueryOutput`.
        criterion: matching and losses, called with predictions, mask features and targets; None
            where the model overrides :meth:`losses`.
        pixel_mean, pixel_std, normalize: see :class:`~.base.SegmentationModel`.
        max_instances, mask_threshold, score_threshold, nms_threshold: see
            :func:`~iaunet_d2.networks.rescored_instances`.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        criterion: nn.Module | None = None,
        pixel_mean: list[float],
        pixel_std: list[float],
        normalize: str,
        max_instances: int,
        mask_threshold: float,
        score_threshold: float,
        nms_threshold: float,
    ) -> None:
        super().__init__(
            network=network, pixel_mean=pixel_mean, pixel_std=pixel_std, normalize=normalize
        )
        self.criterion: Any = criterion
        self.inference_settings: dict[str, Any] = {
            "max_instances": max_instances,
            "mask_threshold": mask_threshold,
            "score_threshold": score_threshold,
            "nms_threshold": nms_threshold,
        }

    @abstractmethod
    def supervised(self, images: Tensor, padding: Tensor | None) -> QueryOutput:
        """The network's output with every prediction that is trained.

        Args:
            images: (B, C, H, W), normalised.
            padding: bool (B, H, W), True on padding; None where nothing is.
        """

    @abstractmethod
    def final(self, images: Tensor, padding: Tensor | None) -> QueryOutput:
        """The network's output at inference; arguments as of :meth:`supervised`."""

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses of a batch with ground truth, in training and in evaluation mode."""
        images, output = self.run(self.supervised, batched_inputs)
        targets = self.targets(batched_inputs, images)
        return self.criterion(output.predictions, output.mask_features, targets)

    @torch.no_grad()
    def segment(self, batched_inputs: list[dict[str, Any]]) -> list[ScoredMasks]:
        """Scored instances of each image at its original size, masks as crops on the CPU."""
        images, output = self.run(self.final, batched_inputs)
        padded_size = (images.tensor.shape[-2], images.tensor.shape[-1])
        return [
            rescored_instances(
                output.predictions[-1],
                i,
                output.mask_features,
                padded_size,
                image_size,
                output_size(inputs, image_size),
                **self.inference_settings,
            )
            for i, (inputs, image_size) in enumerate(
                zip(batched_inputs, images.image_sizes, strict=True)
            )
        ]

    def run(
        self,
        network: Callable[[Tensor, Tensor | None], QueryOutput],
        batched_inputs: list[dict[str, Any]],
    ) -> tuple[ImageList, QueryOutput]:
        """The batch as the network sees it, and what :meth:`supervised` or :meth:`final` gives."""
        images = self.preprocess(batched_inputs)
        return images, network(images.tensor, padding_mask(images))

    def counted(self, train_mode: bool) -> nn.Module:
        """The network up to last masks of the input's size."""
        return CountedForward(self.network)


class CountedForward(nn.Module):
    """The network as a function of one tensor, up to last masks of the input's size.

    Args:
        network: called with images, no padding, and ``arguments``.
    """

    def __init__(self, network: nn.Module, *arguments: Any) -> None:
        super().__init__()
        self.network = network
        self.arguments = arguments

    def forward(self, images: Tensor) -> list[Tensor]:
        """Class logits and mask logits of every prediction."""
        output = self.network(images, None, *self.arguments)
        masks = [output.masks(i) for i in range(len(output.predictions))]
        masks[-1] = F.interpolate(
            masks[-1], size=images.shape[-2:], mode="bilinear", align_corners=False
        )
        return [p.class_logits for p in output.predictions] + masks


def inference_arguments(cfg: Any, own: Any) -> dict[str, Any]:
    """Arguments of the constructor that concern inference, ``own`` being the model's node."""
    return {
        "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
        "mask_threshold": own.MASK_THRESHOLD,
        "score_threshold": own.SCORE_THRESH,
        "nms_threshold": own.MASK_NMS_THRESH,
    }


def build_criterion(
    num_classes: int, loss: Any, kind: type[SetCriterion] = SetCriterion, **more: Any
) -> SetCriterion:
    """Build matching and losses from the keys of :func:`iaunet_d2.config.iaunet.query_loss`.

    Args:
        num_classes: K.
        loss: the node with these keys.
        kind: of criterion.
        more: its further arguments.
    """
    return kind(
        num_classes,
        CostWeights(loss.CLASS_WEIGHT, loss.MASK_WEIGHT, loss.DICE_WEIGHT),
        loss.NO_OBJECT_WEIGHT,
        loss.NUM_POINTS,
        loss.OVERSAMPLE_RATIO,
        loss.IMPORTANCE_SAMPLE_RATIO,
        loss.MATCHER_POINTS,
        **more,
    )
