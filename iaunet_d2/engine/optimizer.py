"""The optimiser's parameter groups, and gradient clipping."""

from collections.abc import Callable, Iterable

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from .errors import ConfigError

BACKBONE = "backbone"

NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # batch and instance normalisation of every dimension
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
)

# Learned positions and queries that are bare parameters of a module, not an nn.Embedding.
EMBEDDING_NAMES = (
    "relative_position_bias_table",
    "absolute_pos_embed",
    "pos_embed",
    "level_embed",
    "query_embed",
    "query_feat",
    "queries",
)

Clipper = Callable[[Iterable[Tensor]], Tensor]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimiser ``SOLVER.OPTIMIZER`` over the groups of :func:`parameter_groups`.

    Gradients are clipped by the training step (:func:`build_clipper`), not inside the optimiser,
    because with mixed precision they must be unscaled first.

    Raises:
        ConfigError: the optimiser's name is unknown.
    """
    groups = parameter_groups(cfg, model)
    solver = cfg.SOLVER
    if solver.OPTIMIZER == "AdamW":
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
    if solver.OPTIMIZER == "SGD":
        return torch.optim.SGD(
            groups,
            lr=solver.BASE_LR,
            momentum=solver.MOMENTUM,
            nesterov=solver.NESTEROV,
            weight_decay=solver.WEIGHT_DECAY,
        )
    raise ConfigError(f"SOLVER.OPTIMIZER {solver.OPTIMIZER!r} is unknown; use 'AdamW' or 'SGD'")


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """Group the trainable parameters by learning rate and weight decay.

    - Parameters of a module named ``backbone`` learn at ``BASE_LR * BACKBONE_MULTIPLIER``.
    - Weights and biases of normalisation layers decay by ``WEIGHT_DECAY_NORM``, embeddings
      (``nn.Embedding``, learned queries and positions) by ``WEIGHT_DECAY_EMBED``, everything else
      by ``WEIGHT_DECAY``: biases too, unless ``WEIGHT_DECAY_BIAS`` says otherwise, as in
      Mask2Former.

    A parameter that two modules share is listed once, under its first name.

    Returns:
        Dicts with ``params``, ``lr`` and ``weight_decay``, in the order of first appearance in the
        model.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            full_name = f"{prefix}.{name}" if prefix else name
            key = _learning_rate(cfg, full_name), _weight_decay(cfg, module, name)
            groups.setdefault(key, []).append(parameter)
    return [{"params": ps, "lr": lr, "weight_decay": decay} for (lr, decay), ps in groups.items()]


def _learning_rate(cfg: CfgNode, full_name: str) -> float:
    rate = float(cfg.SOLVER.BASE_LR)
    if BACKBONE in full_name.split("."):
        rate *= cfg.SOLVER.BACKBONE_MULTIPLIER
    if full_name.rpartition(".")[2] == "bias":
        rate *= cfg.SOLVER.BIAS_LR_FACTOR
    return rate


def _weight_decay(cfg: CfgNode, module: nn.Module, name: str) -> float:
    if isinstance(module, NORMS):
        return float(cfg.SOLVER.WEIGHT_DECAY_NORM)
    if isinstance(module, nn.Embedding) or name in EMBEDDING_NAMES:
        return float(cfg.SOLVER.WEIGHT_DECAY_EMBED)
    if name == "bias" and cfg.SOLVER.WEIGHT_DECAY_BIAS is not None:
        return float(cfg.SOLVER.WEIGHT_DECAY_BIAS)
    return float(cfg.SOLVER.WEIGHT_DECAY)


def build_clipper(cfg: CfgNode) -> Clipper:
    """Build the function that clips gradients in place as ``SOLVER.CLIP_GRADIENTS`` asks.

    Returns:
        A function from the parameters to the 2-norm over all their gradients before clipping, a
        scalar tensor.

    Raises:
        ConfigError: ``CLIP_TYPE`` is unknown.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    value, norm_type = float(clip.CLIP_VALUE), float(clip.NORM_TYPE)
    kinds: dict[str, Callable[[list[Tensor]], object]] = {
        "full_model": lambda ps: nn.utils.clip_grad_norm_(ps, value, norm_type),
        "norm": lambda ps: [nn.utils.clip_grad_norm_(p, value, norm_type) for p in ps],
        "value": lambda ps: nn.utils.clip_grad_value_(ps, value),
    }
    if clip.ENABLED and clip.CLIP_TYPE not in kinds:
        known = ", ".join(kinds)
        raise ConfigError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE {clip.CLIP_TYPE!r} is unknown: {known}")
    apply = kinds[clip.CLIP_TYPE] if clip.ENABLED else None

    def clipper(parameters: Iterable[Tensor]) -> Tensor:
        with_gradient = [p for p in parameters if p.grad is not None]
        total = gradient_norm(with_gradient)
        if apply is not None and with_gradient:
            apply(with_gradient)
        return total

    return clipper


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """2-norm over all gradients, a scalar tensor; not finite as soon as one gradient is not."""
    norms = [torch.linalg.vector_norm(p.grad.float()) for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
