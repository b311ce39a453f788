"""Registry of whole models."""

import torch
from torch import nn

from ..config import CfgNode
from ..utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the model registered as ``cfg.MODEL.META_ARCHITECTURE`` on ``cfg.MODEL.DEVICE``.

    Weights stay as initialised: a checkpointer loads ``cfg.MODEL.WEIGHTS``.
    """
    build = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return build(cfg).to(torch.device(cfg.MODEL.DEVICE))
