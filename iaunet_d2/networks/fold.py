"""Batch normalisation folded into the convolution before it, for inference."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@torch.no_grad()
def fold_batch_norms(network: nn.Module, *inputs: Any) -> int:
    """Fold every BatchNorm that directly follows a convolution into it, in place.

    In evaluation mode a BatchNorm is a fixed scale and shift per channel, which the convolution's
    weights can hold: the same values with fewer passes over the maps. Which layers follow each
    other is seen in one forward pass, so that any backbone can be used; a convolution's output that
    goes to a BatchNorm is taken to go nowhere else.

    Args:
        network: in evaluation mode; afterwards it is for inference alone.
        inputs: what it is called with once; small images serve.

    Returns:
        how many were folded.

    Raises:
        ValueError: the network is in training mode.
    """
    if network.training:
        raise ValueError("batch norms are folded in evaluation mode; call eval() first")
    pairs = _pairs(network, inputs)
    parents = {
        id(child): (parent, name)
        for parent in network.modules()
        for name, child in parent.named_children()
    }
    for conv, norm in pairs:
        mean, var = norm.running_mean, norm.running_var
        if mean is not None and var is not None:
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias
            )
        parent, name = parents[id(norm)]
        # timm's BatchNormAct2d holds the activation that follows.
        setattr(parent, name, getattr(norm, "act", nn.Identity()))
    return len(pairs)


def _pairs(network: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions, called once, whose output goes straight into a BatchNorm with statistics."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    calls: dict[int, int] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_conv(conv: nn.Module, _: Any, output: Tensor) -> None:
        calls[id(conv)] = calls.get(id(conv), 0) + 1
        made[id(output)] = (conv, output)  # type: ignore[assignment]  # kept, so that ids stay

    def before_norm(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls[id(norm)] = calls.get(id(norm), 0) + 1
        if id(args[0]) in made:
            pairs.append((made[id(args[0])][0], norm))  # type: ignore[arg-type]

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if calls[id(pair[0])] == calls[id(pair[1])] == 1]
