"""The optimiser's parameter groups, and gradient clipping: in our step, or in the optimiser."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..config.former import instead_of
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
Clipping = Callable[[list[Tensor]], object]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimiser of :func:`grouped_optimizer`, which clips the gradients itself.

    It is for any trainer, Detectron2's and one's own loop included: before each step the gradients
    are clipped as ``SOLVER.CLIP_GRADIENTS`` asks. With mixed precision they are unscaled by then,
    since ``GradScaler.step`` unscales before it calls ``Optimizer.step``. In a subclass of
    ``DefaultTrainer``::

        build_optimizer = staticmethod(iaunet_d2.build_optimizer)

    :class:`~iaunet_d2.engine.Trainer` takes :func:`grouped_optimizer`: its step clips.

    Raises:
        ConfigError: the optimiser's name or ``CLIP_TYPE`` is unknown.
    """
    optimizer = grouped_optimizer(cfg, model)
    clip = build_clipping(cfg)
    if clip is None:
        return optimizer

    def clip_before_step(stepping: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        every = (p for group in stepping.param_groups for p in group["params"])
        if with_gradient := [p for p in every if p.grad is not None]:
            clip(with_gradient)

    optimizer.register_step_pre_hook(clip_before_step)
    return optimizer


def grouped_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build ``SOLVER.GROUPED_OPTIMIZER`` over the groups of :func:`parameter_groups`.

    It does not clip gradients.

    Raises:
        ConfigError: the optimiser's name is unknown.
    """
    groups = parameter_groups(cfg, model)
    solver = cfg.SOLVER
    name = solver.GROUPED_OPTIMIZER
    if name == "AdamW":
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
    if name == "SGD":
        return torch.optim.SGD(
            groups,
            lr=solver.BASE_LR,
            momentum=solver.MOMENTUM,
            nesterov=solver.NESTEROV,
            weight_decay=solver.WEIGHT_DECAY,
        )
    raise ConfigError(f"SOLVER.GROUPED_OPTIMIZER {name!r} is unknown; use 'AdamW' or 'SGD'")


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
    clip = build_clipping(cfg)

    def clipper(parameters: Iterable[Tensor]) -> Tensor:
        with_gradient = [p for p in parameters if p.grad is not None]
        total = gradient_norm(with_gradient)
        if clip is not None and with_gradient:
            clip(with_gradient)
        return total

    return clipper


def build_clipping(cfg: CfgNode) -> Clipping | None:
    """Build what clips the gradients of parameters that have one; None where clipping is off.

    Raises:
        ConfigError: ``CLIP_TYPE`` is unknown.
    """
    options = cfg.SOLVER.CLIP_GRADIENTS
    if not options.ENABLED:
        return None
    value, norm_type = float(options.CLIP_VALUE), float(options.NORM_TYPE)
    kind = options.CLIP_TYPE
    if kind == "value":
        return lambda ps: nn.utils.clip_grad_value_(ps, value)
    if kind != "norm":
        now = instead_of("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", kind)
        raise ConfigError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE {kind!r} is unknown; write {now or 'norm or value'}"
        )
    if options.FULL_MODEL:
        return lambda ps: nn.utils.clip_grad_norm_(ps, value, norm_type)
    return lambda ps: [nn.utils.clip_grad_norm_(p, value, norm_type) for p in ps]


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """2-norm over all gradients, a scalar tensor; not finite as soon as one gradient is not."""
    norms = [torch.linalg.vector_norm(p.grad.float()) for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
