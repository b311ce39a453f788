"""Batch normalisation folded into the convolution before it, for inference."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


@torch.no_grad()
def fold_batch_norms(network: nn.Module, *inputs: Any) -> int:
    """Fold every BatchNorm that directly follows a convolution into it, in place.

    In evaluation mode a BatchNorm is a fixed scale and shift per channel, which the convolution's
    weights can hold: the same values with fewer passes over the maps. Which layers follow each
    other is seen in one forward pass, so that any backbone can be used. A convolution whose output
    goes elsewhere too, or that computes its weights, stays as it is.

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


class _Uses(TorchDispatchMode):
    """Counts how often each tensor is an argument of an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in tree_flatten((args, kwargs))[0]:
            if isinstance(value, Tensor):
                self.of[id(value)] += 1
        return func(*args, **kwargs)


def _pairs(network: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions, called once, whose output is used once: by a BatchNorm with statistics."""
    uses = _Uses()
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    calls: Counter[int] = Counter()
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d, int]] = []

    def after_conv(conv: Any, _: Any, output: Tensor) -> None:
        calls[id(conv)] += 1
        made[id(output)] = (conv, output)  # kept, so that its id is not given again
        uses.of[id(output)] = 0

    def before_norm(norm: Any, args: tuple[Tensor, ...]) -> None:
        calls[id(norm)] += 1
        if id(args[0]) in made:
            pairs.append((made[id(args[0])][0], norm, id(args[0])))

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward:
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        with uses:
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (conv, norm)
        for conv, norm, output in pairs
        if calls[id(conv)] == calls[id(norm)] == uses.of[output] == 1
    ]
