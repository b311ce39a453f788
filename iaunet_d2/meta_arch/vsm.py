"""VSM as a Detectron2 meta-architecture: YOLOX, and a U-Net in each box."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ..networks import (
    YOLOX,
    CropUNet,
    CropUNetSettings,
    ScoredMasks,
    VSMNetwork,
    VSMSettings,
    YOLOXSettings,
    fold_batch_norms,
    without_overlaps,
)
from .backbones import build_backbone
from .regions import RegionModel

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class VSM(RegionModel):
    """A versatile semi-supervised model (Cai et al., NeurIPS 2022 CellSeg): detect, then segment.

    The detector learns all boxes of an image, the segmenter the crops around true boxes, in one
    training or in two (``MODEL.VSM.STAGE``). True boxes are not at hand at inference: whatever the
    stage, the detector's are used, and a detector that was never trained finds nothing of use. The
    paper keeps instances from 0.5 and paints them, so that every pixel has one; for COCO's AP
    overlaps and low scores stay here, and ``MODEL.VSM.RESOLVE_OVERLAPS`` does as the paper.

    Of the two normalisations, the paper's detector gets the values 0 to 255 as they are and its
    segmenter ImageNet's: ``PIXEL_MEAN`` and ``PIXEL_STD`` are the detector's, and crops of what it
    gets are normalised by ``MODEL.VSM.CROP_MEAN`` and ``CROP_STD``.

    Args:
        network: both networks, with their losses.
        pixel_mean, pixel_std, normalize: see :class:`~.base.SegmentationModel`.
        mask_threshold: a pixel belongs to an instance where its probability exceeds this.
        resolve_overlaps: give each pixel to the best instance alone.
    """

    node = "VSM"
    network: VSMNetwork

    @configurable
    def __init__(
        self,
        *,
        network: VSMNetwork,
        pixel_mean: list[float],
        pixel_std: list[float],
        normalize: str = "dataset",
        mask_threshold: float = 0.5,
        resolve_overlaps: bool = False,
    ) -> None:
        super().__init__(
            network=network,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            normalize=normalize,
            mask_threshold=mask_threshold,
        )
        self.resolve_overlaps = resolve_overlaps
        self.finds_overlaps = not resolve_overlaps

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        own = cfg.MODEL.VSM
        detector = YOLOX(detector_settings(cfg), build_backbone(cfg, (8, 16, 32)))
        network = VSMNetwork(detector, CropUNet(segmenter_settings(cfg)), vsm_settings(cfg))
        for part in ("detector", "segmenter"):
            key = f"{part.upper()}_WEIGHTS"
            if own[key]:
                load_part(network, part, own[key], f"MODEL.VSM.{key}", _normalisation(cfg))
        return {
            "network": network,
            **cls.pixel_arguments(cfg),
            "mask_threshold": own.MASK_THRESHOLD,
            "resolve_overlaps": own.RESOLVE_OVERLAPS,
        }

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """As the base class, without the L1 loss for a batch with mosaics or mixed images.

        YOLOX adds that loss for its last epochs, which have neither. That the batch decides needs
        no state: a resumed run goes on alike.
        """
        losses = super().losses(batched_inputs)
        if "loss_l1" in losses and any(inputs.get("joined") for inputs in batched_inputs):
            losses["loss_l1"] = 0 * losses["loss_l1"]
        return losses

    @torch.no_grad()
    def segment(self, batched_inputs: list[dict[str, Any]]) -> list[ScoredMasks]:
        """Scored instances of each image at its original size, masks as crops on the CPU."""
        found = super().segment(batched_inputs)
        return [without_overlaps(one) for one in found] if self.resolve_overlaps else found

    def fold(self) -> None:
        """Fold batch norms into convolutions, in place: quicker, and for inference alone.

        Each part by a call of its own: test-time augmentation calls the detector many times, and an
        image without cells the segmenter never.
        """
        self.eval()
        side, channels = self.size_divisibility, len(self.pixel_mean)
        blank = torch.zeros(1, channels, side, side, device=self.device)
        for part in (self.network.detector, self.network.segmenter):
            fold_batch_norms(part, blank)

    def counted(self, train_mode: bool) -> nn.Module:
        """The detector on the image once, and the segmenter on one crop.

        An image of n cells costs the segmenter's share n times, and with test-time augmentation the
        detector's eight times. In training the crop's auxiliary head counts too.
        """
        return _CountedForward(self.network, train_mode)


class _CountedForward(nn.Module):
    """Both networks as a function of one tensor."""

    def __init__(self, network: VSMNetwork, train_mode: bool) -> None:
        super().__init__()
        self.network = network
        self.train_mode = train_mode

    def forward(self, images: Tensor) -> list[Tensor]:
        side = self.network.settings.crop_size
        crop = images.new_zeros(1, images.shape[1], side, side)
        logits = self.network.segmenter(crop, with_aux=self.train_mode)
        masks = [logits.main] if logits.aux is None else [logits.main, logits.aux]
        return [*self.network.detector.raw(images), *masks]


def _normalisation(cfg: Any) -> dict[str, list[float]]:
    """What all images are normalised by; nothing where each one is by its own values."""
    if cfg.INPUT.NORMALIZE != "dataset":
        return {}
    return {"pixel_mean": list(cfg.MODEL.PIXEL_MEAN), "pixel_std": list(cfg.MODEL.PIXEL_STD)}


def detector_settings(cfg: Any) -> YOLOXSettings:
    """What a config says of the detector."""
    own = cfg.MODEL.VSM
    return YOLOXSettings(
        num_classes=cfg.MODEL.NUM_CLASSES,
        depth=own.DEPTH,
        width=own.WIDTH,
        in_channels=len(cfg.MODEL.PIXEL_MEAN),
        score_threshold=own.DETECTOR_SCORE_THRESH,
        nms_threshold=own.DETECTOR_NMS_THRESH,
        max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        centre_radius=own.CENTRE_RADIUS,
        l1_weight=own.L1_WEIGHT,
        norm_momentum=own.NORM_MOMENTUM,
    )


def segmenter_settings(cfg: Any) -> CropUNetSettings:
    """What a config says of the segmenter."""
    own = cfg.MODEL.VSM
    return CropUNetSettings(
        in_channels=len(cfg.MODEL.PIXEL_MEAN),
        width=own.UNET_WIDTH,
        aspp_width=own.ASPP_WIDTH,
        aspp_rates=tuple(own.ASPP_RATES),
        aux_width=own.AUX_WIDTH,
        dropout=own.DROPOUT,
    )


def vsm_settings(cfg: Any) -> VSMSettings:
    """What a config says of what joins the two."""
    own = cfg.MODEL.VSM
    return VSMSettings(
        stage=own.STAGE,
        crop_size=own.CROP_SIZE,
        crops_per_image=own.CROPS_PER_IMAGE,
        crops_per_pass=own.CROPS_PER_PASS,
        crop_mean=tuple(own.CROP_MEAN),
        crop_std=tuple(own.CROP_STD),
        jitter_probability=own.JITTER_PROB,
        jitter_spread=own.JITTER,
        cross_entropy_weight=own.LOSS.CE_WEIGHT,
        dice_weight=own.LOSS.DICE_WEIGHT,
        aux_weight=own.LOSS.AUX_WEIGHT,
        tta=own.TTA,
        merge=own.MERGE,
        merge_iou=own.MERGE_IOU,
        min_box_side=own.MIN_BOX_SIDE,
        max_box_side=own.MAX_BOX_SIDE,
        max_box_sides=own.MAX_BOX_SIDES,
        score_threshold=own.RESOLVED_SCORE_THRESH if own.RESOLVE_OVERLAPS else own.SCORE_THRESH,
        mask_threshold=own.MASK_THRESHOLD,
        max_instances=cfg.TEST.DETECTIONS_PER_IMAGE,
    )


def load_part(
    network: VSMNetwork,
    part: str,
    file: str,
    key: str,
    normalisation: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Load one part of the network from a checkpoint of this system, or of the part alone.

    A part that was trained with another normalisation of the images is loaded, for fine-tuning, and
    a warning told: unless it is trained further, what it finds means little.

    Args:
        network: the network, in place.
        part: ``detector`` or ``segmenter``.
        file: the checkpoint.
        key: config key that names it, for the errors.
        normalisation: ``pixel_mean`` and ``pixel_std`` of the images; None compares nothing.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it cannot be read, or does not fit the part.
    """
    # The engine builds models: at the top, each would wait for the other.
    from ..engine.checkpointer import mismatch, read_checkpoint
    from ..engine.errors import CheckpointError

    if not Path(file).is_file():
        raise FileNotFoundError(f"{key} {file!r} does not exist")
    try:
        data = read_checkpoint(file)
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from error
    state = data.get("model", data)
    prefix = f"network.{part}."
    plain = {str(name).removeprefix("module."): value for name, value in state.items()}
    own = {n.removeprefix(prefix): v for n, v in plain.items() if n.startswith(prefix)} or plain
    module = network.get_submodule(part)
    if message := mismatch(module.state_dict(), own):
        raise CheckpointError(
            f"{key}: {file} does not fit the {part}:\n{message}\nIt must be a checkpoint of VSM "
            "with the same sizes, classes and channels, or this part's own state dict."
        )
    for name, values in (normalisation or {}).items():
        trained = plain.get(name, torch.tensor(values)).flatten()
        if not torch.allclose(trained, torch.tensor(values, dtype=trained.dtype)):
            logger.warning(
                "%s: %s was trained with %s %s, and MODEL.%s is %s. Unless the %s is trained "
                "further, set MODEL.%s to the former.",
                *(key, file, name, trained.tolist(), name.upper(), list(values), part),
                name.upper(),
            )
    module.load_state_dict(own)
