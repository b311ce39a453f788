"""MAUNet's parts from a config: networks, the weights of trained members, settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..networks import DistanceSettings, MAUNetEnsemble, MAUNetwork
from ..networks.maunet import MIN_SIDE
from .backbones import TIMM_BUILDER, build_backbone, timm_backbone
from .base import SIZE_DIVISIBILITY

KEY = "MODEL.MAUNET"


@dataclass(frozen=True)
class LossSettings:
    """Weights of the losses, and the kind of focal loss; see ``MODEL.MAUNET.LOSS``."""

    dice_weight: float = 1.0
    focal_weight: float = 1.0
    distance_weight: float = 1.0
    focal_gamma: float = 2.0
    published_focal: bool = False
    consistency_weight: float = 0.0

    def weighted(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of :func:`~iaunet_d2.networks.supervised_losses` times their weights."""
        weights = {
            "loss_dice": self.dice_weight,
            "loss_focal": self.focal_weight,
            "loss_distance": self.distance_weight,
        }
        return {name: value * weights[name] for name, value in losses.items()}


@dataclass(frozen=True)
class WindowSettings:
    """How an image is shown to the network; see ``MODEL.MAUNET.INFERENCE``."""

    scales: tuple[float, ...] = (1.0, 1.25, 1.5)
    most_pixels: float = 25e6
    window: int = 512
    overlap: float = 0.25
    batch: int = 4


def build_network(cfg: Any) -> MAUNetwork | MAUNetEnsemble:
    """The network or networks that a config describes.

    Raises:
        ValueError: the keys do not fit each other, or an encoder has no map at stride 2.
        CheckpointError: a file of ``MEMBER_WEIGHTS`` does not fit.
    """
    own = cfg.MODEL.MAUNET
    names = tuple(own.ENCODERS) or ("",)
    if own.ENCODERS and cfg.MODEL.BACKBONE.NAME != TIMM_BUILDER:
        raise ValueError(
            f"{KEY}.ENCODERS {names} are timm's, and MODEL.BACKBONE.NAME is "
            f"{cfg.MODEL.BACKBONE.NAME!r}: set {KEY}.ENCODERS () for one network with that backbone"
        )
    last = tuple(own.LAST_STRIDES) * (len(names) if len(own.LAST_STRIDES) == 1 else 1)
    if len(last) != len(names) or any(stride not in (8, 16, 32) for stride in last):
        raise ValueError(
            f"{KEY}.LAST_STRIDES {tuple(own.LAST_STRIDES)}: one of 8, 16 and 32 is needed for each "
            f"of the encoders {tuple(own.ENCODERS) or (cfg.MODEL.TIMM.NAME,)}"
        )
    if cfg.MODEL.TIMM.CHECKPOINT and len(names) > 1:
        raise ValueError(
            f"MODEL.TIMM.CHECKPOINT {cfg.MODEL.TIMM.CHECKPOINT!r} is one file, and the encoders "
            f"are {names}: train each alone, and name the results in {KEY}.MEMBER_WEIGHTS"
        )
    members = [_member(cfg, name, stride) for name, stride in zip(names, last, strict=True)]
    if own.MEMBER_WEIGHTS and not cfg.MODEL.WEIGHTS:
        load_members(members, own.MEMBER_WEIGHTS, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    return members[0] if len(members) == 1 else MAUNetEnsemble(members)


def _member(cfg: Any, name: str, last_stride: int) -> MAUNetwork:
    """Build one network; ``name`` is its timm encoder's, empty for ``MODEL.BACKBONE``."""
    strides = [stride for stride in (2, 4, 8, 16, 32) if stride <= last_stride]
    if cfg.MODEL.MAUNET.MEMBER_WEIGHTS:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.TIMM.PRETRAINED = False
    if name:
        backbone = timm_backbone(cfg, strides, name, f"{KEY}.ENCODERS")
    else:
        backbone = build_backbone(cfg, strides)
    return MAUNetwork(
        backbone,
        cfg.MODEL.NUM_CLASSES,
        cfg.MODEL.MAUNET.WIDTH,
        len(cfg.MODEL.PIXEL_MEAN),
        last_stride,
    )


def load_members(
    members: Sequence[MAUNetwork],
    files: Sequence[str],
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
) -> None:
    """Give each network the weights of its own training, in place.

    Args:
        members: the networks.
        files: a checkpoint each, of a model with one network.
        pixel_mean, pixel_std: how the images will be normalised.

    Raises:
        ValueError: not one file per network.
        FileNotFoundError: there is no such file.
        CheckpointError: a file cannot be read, does not fit its network, or was trained with
            another normalisation.
    """
    # The engine builds models: at the top, each would wait for the other.
    from ..engine.checkpointer import mismatch, read_checkpoint
    from ..engine.errors import CheckpointError

    if len(files) != len(members):
        raise ValueError(
            f"{KEY}.MEMBER_WEIGHTS names {len(files)} files for {len(members)} networks; one for "
            "each is needed, in the order of the encoders"
        )
    normalisation = {"pixel_mean": pixel_mean, "pixel_std": pixel_std}
    for index, (member, file) in enumerate(zip(members, files, strict=True)):
        if not Path(file).is_file():
            raise FileNotFoundError(f"{KEY}.MEMBER_WEIGHTS: {file} does not exist")
        data = read_checkpoint(file)
        state = data.get("model", data)
        own = {n.removeprefix("network."): v for n, v in state.items() if n.startswith("network.")}
        message = mismatch(member.state_dict(), own)
        if message:
            raise CheckpointError(
                f"{KEY}.MEMBER_WEIGHTS: {file} does not fit network {index}:\n{message}\nIt must "
                "be of a training with that encoder alone, and the same WIDTH, LAST_STRIDES and "
                "MODEL.NUM_CLASSES."
            )
        for name, values in normalisation.items():
            trained = state.get(name, torch.tensor(values)).flatten()
            if not torch.allclose(trained, torch.tensor(values, dtype=trained.dtype)):
                raise CheckpointError(
                    f"{KEY}.MEMBER_WEIGHTS: {file} was trained with {name} {trained.tolist()}, "
                    f"and MODEL.{name.upper()} is {list(values)}"
                )
        member.load_state_dict(own)


def loss_settings(cfg: Any) -> LossSettings:
    """What a config says of the losses."""
    own = cfg.MODEL.MAUNET.LOSS
    return LossSettings(
        own.DICE_WEIGHT,
        own.FOCAL_WEIGHT,
        own.DISTANCE_WEIGHT,
        own.FOCAL_GAMMA,
        own.PUBLISHED_FOCAL,
        own.CONSISTENCY_WEIGHT,
    )


def window_settings(cfg: Any) -> WindowSettings:
    """What a config says of scales and windows.

    Raises:
        ValueError: a value makes no sense, named with its key.
    """
    own = cfg.MODEL.MAUNET.INFERENCE
    bad_window = own.WINDOW < MIN_SIDE or own.WINDOW % SIZE_DIVISIBILITY
    if bad_window or not 0 <= own.OVERLAP < 1 or own.WINDOW_BATCH < 1:
        raise ValueError(
            f"{KEY}.INFERENCE: WINDOW {own.WINDOW} must be a multiple of {SIZE_DIVISIBILITY} from "
            f"{MIN_SIDE} on, OVERLAP {own.OVERLAP} in [0, 1), WINDOW_BATCH {own.WINDOW_BATCH} at "
            "least 1"
        )
    if not own.SCALES or min(own.SCALES) <= 0:
        raise ValueError(
            f"{KEY}.INFERENCE.SCALES {tuple(own.SCALES)}: at least one is needed, above 0"
        )
    return WindowSettings(
        tuple(own.SCALES), own.MOST_PIXELS, own.WINDOW, own.OVERLAP, own.WINDOW_BATCH
    )


def cutting_settings(cfg: Any) -> DistanceSettings:
    """What a config says of cutting instances out.

    Raises:
        ValueError: ``SEED_IS`` is neither "relative" nor "absolute".
    """
    own = cfg.MODEL.MAUNET.INFERENCE
    if own.SEED_IS not in ("relative", "absolute"):
        raise ValueError(
            f"{KEY}.INFERENCE.SEED_IS is {own.SEED_IS!r}; it is 'relative' or 'absolute'"
        )
    return DistanceSettings(
        own.INTERIOR_THRESH,
        own.BACKGROUND_THRESH,
        own.MIN_INTERIOR,
        own.SEED,
        own.SEED_IS == "relative",
        own.PEAK,
        own.LEAST_SHARE,
        own.PUBLISHED_CUTTING,
    )
