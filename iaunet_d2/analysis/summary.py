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
from torch.utils.flop_counter import FlopCounterMode

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
        counter: the library that counted.
    """

    parameters: int
    gmacs: float
    size: int
    parts: list[Part]
    counter: str = "fvcore"

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
            f"one {self.size} x {self.size} image; GMACs as {self.counter} counts them "
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


def summarize(model: nn.Module, size: int = 512, train_mode: bool = False) -> Summary:
    """Count a built meta-architecture on one square image.

    Models of this package are counted by fvcore; any other by PyTorch's own counter while it
    predicts, with its convolutions and matrix products alone.

    Args:
        model: any meta-architecture.
        size: side of the image, divisible by 32.
        train_mode: count what a training step's forward pass computes: the predictions after every
            query block, and normalisation layers in training mode.

    Raises:
        ValueError: ``size`` is not divisible by 32, or a training step of a model of another
            package is to be counted.
    """
    if size < 32 or size % 32:
        raise ValueError(f"--size {size}: the side of the image must be a multiple of 32")
    if isinstance(model, SegmentationModel):
        return _counted_by_fvcore(model, size, train_mode)
    if train_mode:
        raise ValueError(
            f"--train-mode counts models of this package, and {type(model).__name__} is none"
        )
    return _counted_by_torch(model, size)


def _counted_by_fvcore(model: SegmentationModel, size: int, train_mode: bool) -> Summary:
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
    return _with_rest(_parameters(network), macs[""] / 1e9, size, parts)


def _counted_by_torch(model: nn.Module, size: int) -> Summary:
    """Count a model of which only Detectron2's contract is known: dicts in, dicts out."""
    channels = len(getattr(model, "pixel_mean", ())) or 3
    image = torch.zeros(channels, size, size, device=next(model.parameters()).device)
    counter, was_training = FlopCounterMode(display=False), model.training
    with torch.no_grad(), counter:
        model.eval()([{"image": image, "height": size, "width": size}])
    model.train(was_training)
    flops = {path: sum(of.values()) for path, of in counter.get_flop_counts().items()}
    parts = [
        Part(name, _parameters(part), flops.get(f"{type(model).__name__}.{name}", 0) / 2e9)
        for name, part in model.named_children()
        if _parameters(part)
    ]
    return _with_rest(_parameters(model), flops.get("Global", 0) / 2e9, size, parts, "PyTorch")


def _with_rest(
    parameters: int, gmacs: float, size: int, parts: list[Part], counter: str = "fvcore"
) -> Summary:
    """Summarize parts, and what is in none of them."""
    rest = Part(
        "other (mask products, resizing)",
        parameters - sum(part.parameters for part in parts),
        gmacs - sum(part.gmacs for part in parts),
    )
    return Summary(parameters, gmacs, size, [*parts, rest], counter)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _parts(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The backbone, and the direct children of what follows it, as far as they have parameters."""
    parts: list[tuple[str, nn.Module]] = []
    for name, child in network.named_children():
        inner = [] if name == "backbone" else list(child.named_children())
        parts += [(f"{name}.{part}", module) for part, module in inner] or [(name, child)]
    return [(name, module) for name, module in parts if _parameters(module)]
