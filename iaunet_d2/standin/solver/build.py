"""Optimizer, gradient clipping and learning-rate schedule from a config."""

import logging
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..config import CfgNode
from .lr_scheduler import LRMultiplier, WarmupParamScheduler

logger = logging.getLogger(__name__)

Clipper = Callable[[Tensor | Iterable[Tensor]], None]
ParamGroup = dict[str, Any]

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norm, of every dimension
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


class GradientClipType(Enum):
    """Kinds of ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE``; both work on one parameter at a time."""

    VALUE = "value"
    NORM = "norm"


def _create_gradient_clipper(cfg: CfgNode) -> Clipper:
    """The clipper that the node ``SOLVER.CLIP_GRADIENTS`` describes."""
    limit, norm_type = cfg.CLIP_VALUE, cfg.NORM_TYPE
    if GradientClipType(cfg.CLIP_TYPE) is GradientClipType.VALUE:
        return lambda p: nn.utils.clip_grad_value_(p, limit)

    def clip_norm(p: Tensor | Iterable[Tensor]) -> None:
        nn.utils.clip_grad_norm_(p, limit, norm_type)

    return clip_norm


def _generate_optimizer_class_with_gradient_clipping(
    optimizer: type[Optimizer],
    *,
    per_param_clipper: Clipper | None = None,
    global_clipper: Clipper | None = None,
) -> type[Optimizer]:
    """A subclass of ``optimizer`` that clips before each step: each parameter alone, or all."""
    if (per_param_clipper is None) == (global_clipper is None):
        raise ValueError("give per_param_clipper or global_clipper, not both")

    def step(self: Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        params = [p for group in self.param_groups for p in group["params"]]
        if global_clipper is not None:
            global_clipper(params)
        elif per_param_clipper is not None:
            for p in params:
                per_param_clipper(p)
        return optimizer.step(self, closure)

    return type(f"{optimizer.__name__}WithGradientClip", (optimizer,), {"step": step})


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: type[Optimizer] | Optimizer
) -> type[Optimizer] | Optimizer:
    """Add clipping to an optimizer, or to an optimizer class, as ``SOLVER.CLIP_GRADIENTS`` says.

    Returns:
        What was given, where clipping is off; the same object with clipping, or a subclass.

    Raises:
        ValueError: ``CLIP_TYPE`` is neither "value" nor "norm".
    """
    if not cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        return optimizer
    clipper = _create_gradient_clipper(cfg.SOLVER.CLIP_GRADIENTS)
    base = type(optimizer) if isinstance(optimizer, Optimizer) else optimizer
    clipping = _generate_optimizer_class_with_gradient_clipping(base, per_param_clipper=clipper)
    if not isinstance(optimizer, Optimizer):
        return clipping
    optimizer.__class__ = clipping
    return optimizer


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """SGD with the groups of :func:`get_default_optimizer_params` and the config's clipping."""
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    sgd = SGD(
        groups,
        solver.BASE_LR,
        solver.MOMENTUM,
        weight_decay=solver.WEIGHT_DECAY,
        nesterov=solver.NESTEROV,
        foreach=True,
    )
    return maybe_add_gradient_clipping(cfg, sgd)  # type: ignore[return-value]


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[ParamGroup]:
    """Parameter groups of ``model``: trainable parameters, each once, joined by equal settings.

    What is left ``None`` is left to the optimizer's own default.

    Args:
        model: its parameters are grouped.
        base_lr: learning rate.
        weight_decay: weight decay.
        weight_decay_norm: weight decay of the parameters of normalisation layers.
        bias_lr_factor: learning rate of biases relative to ``base_lr``.
        weight_decay_bias: weight decay of biases.
        lr_factor_func: from a parameter's full name to the factor of its learning rate.
        overrides: settings by the parameter's own (last) name; they win over all the others.

    Raises:
        ValueError: a factor without ``base_lr``, or two settings for biases.
    """
    if base_lr is None and (lr_factor_func is not None or bias_lr_factor not in (None, 1.0)):
        raise ValueError("bias_lr_factor and lr_factor_func are relative to base_lr: give base_lr")
    given = {"lr": base_lr, "weight_decay": weight_decay}
    common = {name: value for name, value in given.items() if value is not None}
    by_name = dict(overrides or {})
    bias = _bias_settings(base_lr, bias_lr_factor, weight_decay_bias)
    if bias and "bias" in by_name:
        raise ValueError("overrides has 'bias', and so have bias_lr_factor or weight_decay_bias")
    if bias:
        by_name["bias"] = bias

    groups: list[ParamGroup] = []
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            settings = dict(common)
            if weight_decay_norm is not None and isinstance(module, _NORMS):
                settings["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                settings["lr"] *= lr_factor_func(f"{module_name}.{name}")
            groups.append({"params": [parameter], **settings, **by_name.get(name, {})})
    return reduce_param_groups(groups)


def _bias_settings(
    base_lr: float | None, lr_factor: float | None, weight_decay: float | None
) -> dict[str, float]:
    settings: dict[str, float] = {}
    if base_lr is not None and lr_factor is not None and lr_factor != 1.0:
        settings["lr"] = base_lr * lr_factor
    if weight_decay is not None:
        settings["weight_decay"] = weight_decay
    return settings


def reduce_param_groups(params: list[ParamGroup]) -> list[ParamGroup]:
    """Join groups of equal settings; multi-tensor optimizers want few, large groups.

    A parameter in several groups takes the settings of all, the later ones winning.
    """
    joined: dict[tuple[tuple[str, Any], ...], list[nn.Parameter]] = {}
    for single in _expand_param_groups(params):
        members = single.pop("params")
        joined.setdefault(tuple(single.items()), []).extend(members)
    return [{**dict(settings), "params": members} for settings, members in joined.items()]


def _expand_param_groups(params: list[ParamGroup]) -> list[ParamGroup]:
    """Make one group of every parameter, with the settings of all groups that it is in."""
    per_param: dict[nn.Parameter, ParamGroup] = {}
    for group in params:
        for parameter in group["params"]:
            per_param.setdefault(parameter, {}).update({**group, "params": [parameter]})
    return list(per_param.values())


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule ``SOLVER.LR_SCHEDULER_NAME``, with its warm-up, per iteration.

    Raises:
        ValueError: an unknown name, or ``SOLVER.BASE_LR_END`` outside [0, ``SOLVER.BASE_LR``].
    """
    solver = cfg.SOLVER
    schedule = WarmupParamScheduler(
        _schedule(solver),
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, schedule, solver.MAX_ITER)


def _schedule(solver: CfgNode) -> ParamScheduler:
    """The schedule before warm-up, as a factor of the base learning rate."""
    name, max_iter = solver.LR_SCHEDULER_NAME, solver.MAX_ITER
    if name == "WarmupCosineLR":
        end = solver.BASE_LR_END / solver.BASE_LR
        if not 0.0 <= end <= 1.0:
            raise ValueError(
                f"SOLVER.BASE_LR_END {solver.BASE_LR_END} must lie between 0 and SOLVER.BASE_LR"
                f" {solver.BASE_LR}"
            )
        return CosineParamScheduler(1, end)
    if name == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= max_iter]
        if len(steps) < len(solver.STEPS):
            logger.warning("SOLVER.STEPS beyond SOLVER.MAX_ITER %d are ignored", max_iter)
        values = [solver.GAMMA**k for k in range(len(steps) + 1)]
        return MultiStepParamScheduler(values, num_updates=max_iter, milestones=steps)
    if name == "WarmupStepWithFixedGammaLR":
        return StepWithFixedGammaParamScheduler(1.0, solver.NUM_DECAYS, solver.GAMMA, max_iter)
    raise ValueError(
        f"Unknown SOLVER.LR_SCHEDULER_NAME {name!r}: use WarmupCosineLR, WarmupMultiStepLR or"
        " WarmupStepWithFixedGammaLR"
    )
