"""What every meta-architecture of this package shares: batch dicts in, losses or Instances out."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, PolygonMasks
from torch import Tensor, nn

from ..networks import ScoredMasks, Target, fold_batch_norms
from .preprocess import normalize_images

SIZE_DIVISIBILITY = 32


class SegmentationModel(nn.Module, ABC):
    """A model of instances in one image, under Detectron2's contract.

    Args:
        network: what is trained; it is laid out channels-last, which convolutions are quicker with.
        pixel_mean, pixel_std: per input channel, on the 0–255 scale.
        normalize: ``dataset`` (by ``pixel_mean`` and ``pixel_std``) or ``image`` (by each image's
            own).

    Attributes:
        network: what is trained; its parameters and multiply-accumulates are those of the model.
        learns_from_unlabeled: whether training batches may hold images without ground truth
            (``unlabeled`` True). To any other model these would be images without cells.
        finds_overlaps: whether masks of an image can share pixels.
        node: name under ``MODEL`` of the model's keys.
        decoders: whether it is put together from a pixel decoder and a query decoder by name.
    """

    learns_from_unlabeled: bool = False
    finds_overlaps: bool = True
    node: str = ""
    decoders: bool = False

    pixel_mean: Tensor
    pixel_std: Tensor
    network: nn.Module

    def __init__(
        self,
        *,
        network: nn.Module,
        pixel_mean: list[float],
        pixel_std: list[float],
        normalize: str = "dataset",
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Part of the checkpoints: weights are of use with the normalisation they were trained with.
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1))
        self.normalize = normalize

    @classmethod
    def pixel_arguments(cls, cfg: Any) -> dict[str, Any]:
        """Return this class's arguments from a config.

        Raises:
            ValueError: the config names a decoder, and the model is not put together from those.
        """
        for key in ("PIXEL_DECODER", "QUERY_DECODER"):
            if cfg.MODEL[key].NAME and not cls.decoders:
                raise ValueError(
                    f"MODEL.{key}.NAME {cfg.MODEL[key].NAME!r}: {cls.__name__} has no such part; "
                    'set it to "", or take IAUNet or Mask2Former (MODEL.META_ARCHITECTURE)'
                )
        return {
            "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": list(cfg.MODEL.PIXEL_STD),
            "normalize": cfg.INPUT.NORMALIZE,
        }

    @property
    def size_divisibility(self) -> int:
        """Least common multiple of 32 and what the backbone asks for; it divides the input."""
        # Detectron2's Swin has the property and fails to give it.
        asked = [getattr(one, "size_divisibility", 0) for one in self._backbones()]
        asked += [one.padding_constraints.get("size_divisibility", 0) for one in self._backbones()]
        return math.lcm(SIZE_DIVISIBILITY, *(value for value in asked if value > 0))

    @property
    def square_size(self) -> int:
        """Least side of the square inputs that the backbone asks for; 0 if it takes any shape."""
        asked = (one.padding_constraints.get("square_size", 0) for one in self._backbones())
        return max(asked, default=0)

    def _backbones(self) -> list[Backbone]:
        return [module for module in self.network.modules() if isinstance(module, Backbone)]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Detectron2's contract.

        Args:
            batched_inputs: dicts with ``image`` (C, H, W) on the 0–255 scale; in training
                ``instances`` with ``gt_classes`` and ``gt_masks``; at inference optionally
                ``height`` and ``width`` of the original.

        Returns:
            in training the dict of losses; at inference a list of ``{"instances": Instances}`` with
            ``pred_masks`` (N, H, W) bool, ``pred_boxes``, ``scores`` and ``pred_classes``, best
            first.

        Raises:
            ValueError: training on unlabelled images, which this model does not learn from.
        """
        if self.training:
            self.require_labels(batched_inputs)
            return self.losses(batched_inputs)
        return self.inference(batched_inputs)

    @classmethod
    def unlabeled_problem(cls, cfg: Any) -> str:
        """Why the model of a config does not learn from unlabelled images; empty if it does.

        It is asked before training starts. A model that learns from them only with certain keys
        overrides this.
        """
        return "" if cls.learns_from_unlabeled else "does not learn from unlabelled images"

    def require_labels(self, batched_inputs: list[dict[str, Any]]) -> None:
        """Raise for images without ground truth, unless the model learns from them.

        Raises:
            ValueError: naming the first one, and what to do.
        """
        if self.learns_from_unlabeled:
            return
        for inputs in batched_inputs:
            if inputs.get("unlabeled"):
                raise ValueError(
                    f"{inputs.get('file_name', 'an image')}: has no ground truth (unlabeled), and "
                    f"{type(self).__name__} would learn that it holds no cells. Make pseudo-labels "
                    "with iaunet pseudo-label and train on those."
                )

    @abstractmethod
    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses of a batch with ground truth, in training and in evaluation mode."""

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Scored instances of each image at its original size, masks as full frames."""
        found = self.segment(batched_inputs)
        return [{"instances": to_instances(one, self.device)} for one in found]

    @abstractmethod
    def segment(self, batched_inputs: list[dict[str, Any]]) -> list[ScoredMasks]:
        """Scored instances of each image at its original size, masks as crops on the CPU."""

    @abstractmethod
    def counted(self, train_mode: bool) -> nn.Module:
        """What to count multiply-accumulates of.

        Args:
            train_mode: as in the forward pass of a training step, not as at inference.

        Returns:
            a module with the child ``network``, called with normalised images (1, C, H, W).
        """

    def fold(self) -> None:
        """Fold batch norms into convolutions, in place: quicker, and for inference alone."""
        blank = torch.zeros(len(self.pixel_mean), 64, 64, device=self.device)
        fold_batch_norms(self.eval(), [{"image": blank}])

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalised images in one tensor, padded at the right and the bottom by zeros."""
        tensors = [x["image"].to(self.device) for x in batched_inputs]
        given = [x.get("statistics") for x in batched_inputs]
        mean, std = self.pixel_mean, self.pixel_std
        tensors = normalize_images(tensors, mean, std, self.normalize, given)
        square = self.square_size
        if square:  # at least: Detectron2 would cut a larger image
            square = max(square, *(side for tensor in tensors for side in tensor.shape[-2:]))
        images = ImageList.from_tensors(
            tensors, self.size_divisibility, padding_constraints={"square_size": square}
        )
        images.tensor = images.tensor.contiguous(memory_format=torch.channels_last)
        return images

    def targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> list[Target]:
        """Ground truth with masks padded, by background, to the network's input."""
        height, width = images.tensor.shape[-2:]
        targets = []
        for inputs in batched_inputs:
            instances = inputs["instances"]
            masks = truth_masks(instances).to(self.device)
            missing = (0, width - masks.shape[-1], 0, height - masks.shape[-2])
            if any(missing):  # or it would copy them all
                masks = F.pad(masks, missing)
            targets.append(Target(instances.gt_classes.to(self.device), masks))
        return targets


def truth_masks(instances: Instances) -> Tensor:
    """Masks (N, h, w) bool of the ground truth of one image, in any form that mappers give it."""
    if not instances.has("gt_masks"):  # Detectron2's mapper, of an image without annotations
        return torch.zeros(0, *instances.image_size, dtype=torch.bool)
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):  # INPUT.MASK_FORMAT "polygon"
        masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    return masks.tensor


def output_size(inputs: dict[str, Any], image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that an image's instances get: the original's, if the batch dict tells."""
    return int(inputs.get("height", image_size[0])), int(inputs.get("width", image_size[1]))


def to_instances(found: ScoredMasks, device: torch.device) -> Instances:
    """Detectron2's form of instances; boxes are those of the masks."""
    instances = Instances(found.size)
    instances.pred_masks = found.dense(device)
    instances.pred_boxes = Boxes(found.boxes().float()).to(device)
    instances.scores = found.scores.to(device)
    instances.pred_classes = found.classes.to(device)
    return instances
