"""Parameters and multiply-accumulates of a model, in all and per part.

GMACs are fvcore's count (one multiply-accumulate is one), as in the paper's tables; papers that
print "FLOPs" of 2 per multiply-accumulate report twice as much. fvcore does not know fused
attention and deformable convolution; the handles below count them.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from ..meta_arch.base import SegmentationModel


@dataclass
class Part:
    """A direct part of the network."""

    name: str
    parameters: int
    gmacs: float


@dataclass
class Summary:
    """What :func:`summarize` gives.

    Attributes:
        parameters: number of parameters.
        gmacs: 1e9 multiply-accumulates for one image.
        size: the image's side in pixels.
        parts: the same per part of the network.
    """

    parameters: int
    gmacs: float
    size: int
    parts: list[Part]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def table(self) -> str:
        """Aligned text, one line per part."""
        rows = [(p.name, p.parameters, p.gmacs) for p in self.parts]
        rows.append(("total", self.parameters, self.gmacs))
        width = max(len(name) for name, _, _ in rows)
        lines = [f"{'part':<{width}}  {'parameters':>12}  {'GMACs':>8}"]
        lines += [f"{name:<{width}}  {count:>12,}  {gmacs:>8.2f}" for name, count, gmacs in rows]
        lines.append(
            f"one {self.size} x {self.size} image; GMACs as fvcore counts them "
            f"(2 x GMACs = {2 * self.gmacs:.2f} GFLOPs)"
        )
        return "\n".join(lines)


def attention_macs(inputs: list[Any], outputs: list[Any]) -> Counter:
    """Both products of scaled dot-product attention: 2 Lq Lk d per head and image."""
    query, key = inputs[0].type().sizes(), inputs[1].type().sizes()
    batch_heads = 1
    for extent in query[:-2]:
        batch_heads *= extent
    return Counter(attention=2 * batch_heads * query[-2] * key[-2] * query[-1])


def deform_conv_macs(inputs: list[Any], outputs: list[Any]) -> Counter:
    """Deformable convolution: C_in / groups * C_out * k * k * H * W per image."""
    weight, out = inputs[1].type().sizes(), outputs[0].type().sizes()
    return Counter(
        deform_conv=weight[1] * weight[2] * weight[3] * out[0] * out[1] * out[2] * out[3]
    )


HANDLES = {
    "aten::scaled_dot_product_attention": attention_macs,
    "torchvision::deform_conv2d": deform_conv_macs,
}


def summarize(model: SegmentationModel, size: int = 512, train_mode: bool = False) -> Summary:
    """Count a built meta-architecture on one square image.

    Args:
        model: a :class:`~iaunet_d2.meta_arch.base.SegmentationModel`.
        size: side of the image, divisible by 32.
        train_mode: count what a training step's forward pass computes: the predictions after every
            query block, and normalisation layers in training mode.

    Raises:
        ValueError: ``size`` is not divisible by 32.
    """
    if size < 32 or size % 32:
        raise ValueError(f"--size {size}: the side of the image must be a multiple of 32")
    network = model.network
    was_training = network.training
    images = torch.zeros(1, len(model.pixel_mean), size, size, device=model.pixel_mean.device)
    counted = model.counted(train_mode)
    counted.train(train_mode)
    analysis = FlopCountAnalysis(counted, images).set_op_handle(**HANDLES)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings(
        "none"
    )
    with torch.no_grad():
        macs = analysis.by_module()
    network.train(was_training)
    paths = {module: path for path, module in counted.named_modules()}
    parts = [
        Part(name, _parameters(module), macs[paths[module]] / 1e9)
        for name, module in _parts(network)
    ]
    parameters, gmacs = _parameters(network), macs[""] / 1e9
    parts.append(
        Part(
            "other (mask products, resizing)",
            parameters - sum(part.parameters for part in parts),
            gmacs - sum(part.gmacs for part in parts),
        )
    )
    return Summary(parameters, gmacs, size, parts)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _parts(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The backbone, and the direct children of what follows it, as far as they have parameters."""
    parts: list[tuple[str, nn.Module]] = []
    for name, child in network.named_children():
        inner = [] if name == "backbone" else list(child.named_children())
        parts += [(f"{name}.{part}", module) for part, module in inner] or [(name, child)]
    return [(name, module) for name, module in parts if _parameters(module)]
