"""Models of configs, made ready to be measured: built, run, trained by one batch, looked into."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from ..config import get_iaunet_cfg, without_part_weights
from ..config.imports import import_parts
from ..engine.checkpointer import AtomicCheckpointer
from ..engine.optimizer import grouped_optimizer
from ..engine.preflight import check_model, merge_config
from ..engine.step import PRECISIONS, build_step
from ..meta_arch import SegmentationModel

Batch = list[dict[str, Any]]

PRECISION_NAMES = {"fp32": "", "bf16": "bfloat16", "fp16": "float16"}
"""What the commands call a precision -> ``SOLVER.AMP.PRECISION``."""


def measured_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """A config for measuring: its backbone's weights are neither fetched nor read.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: a key or a value is wrong.
    """
    cfg = get_iaunet_cfg()
    merge_config(cfg, config_file, opts)
    without_part_weights(cfg)
    return cfg


def built_model(cfg: CfgNode, weights: str = "") -> nn.Module:
    """Build the config's model in evaluation mode, and load a checkpoint's weights, if given.

    Raises:
        ConfigError: there is no such model or device.
        CheckpointError: the weights are damaged, or do not fit.
        FileNotFoundError: there are no such weights.
    """
    import_parts(cfg.MODEL.IMPORTS)  # again where this is a process of its own
    check_model(cfg)
    torch.manual_seed(max(cfg.SEED, 0))
    with _quiet("detectron2"):
        model: nn.Module = build_model(cfg)
    if weights:
        with _quiet("fvcore"):
            AtomicCheckpointer(model, strict=cfg.MODEL.WEIGHTS_STRICT).load(weights, [])
    return model.eval()


def inference_model(cfg: CfgNode, weights: str = "") -> nn.Module:
    """As :func:`built_model`, for inference alone: as ``Predictor`` has it, batch norms folded."""
    model = built_model(cfg, weights)
    if isinstance(model, SegmentationModel):
        model.fold()
    return model


def with_precision(cfg: CfgNode, precision: str) -> CfgNode:
    """A copy of the config that trains in a precision of :data:`PRECISION_NAMES`."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = precision != "fp32"
    if cfg.SOLVER.AMP.ENABLED:
        cfg.SOLVER.AMP.PRECISION = PRECISION_NAMES[precision]
    return cfg


def inference(model: nn.Module, batch: Batch, precision: str = "fp32") -> Callable[[], Any]:
    """A function that runs the model on a batch, from ``uint8`` images to ``Instances``.

    The model must be in evaluation mode when it is called.
    """
    device = next(model.parameters()).device

    def run() -> Any:
        with torch.no_grad(), autocast(device, precision):
            return model(batch)

    return run


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to a precision of :data:`PRECISION_NAMES`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[PRECISION_NAMES[precision]])


class TrainingStep:
    """The trainer's step on one batch, over and over: forward, backward, clipping and update.

    Loading data is no part of it.

    Args:
        cfg: ``SOLVER`` says how.
        model: is put into training mode and changed.
        batch: with ``instances``.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, batch: Batch) -> None:
        self.model = model
        self._step = build_step(cfg, model, grouped_optimizer(cfg, model))
        self._step.iter = 0
        self.feed(batch)

    def feed(self, batch: Batch) -> None:
        """Train on another batch from now on."""
        self._step.feed(_again_and_again(batch))

    def __call__(self) -> None:
        """Make one step.

        Raises:
            NonFiniteLossError: a loss or the gradients are not finite.
        """
        self.model.train()
        with EventStorage(0):
            self._step.run_step()


def _matching(part: nn.Module) -> list[str]:
    """Names of a part's methods that match."""
    kind = type(part)
    names = [name for name in dir(kind) if name.startswith(("match", "assign_targets_to_"))]
    names = [name for name in names if callable(getattr(kind, name))]
    return [*names, "forward"] if kind.__name__.endswith("Matcher") else names


def _again_and_again(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def backbone_of(model: nn.Module) -> nn.Module:
    """The part of a model that turns images into features: a backbone, without pyramid or decoder.

    Raises:
        ValueError: no part is called so.
    """
    named = [(name.split("."), part) for name, part in model.named_modules() if name]
    for wanted in ("body", "backbone", "encoder"):
        found = [(len(path), part) for path, part in named if path[-1] == wanted]
        if found:
            return min(found, key=lambda item: item[0])[1]
    raise ValueError(f"{type(model).__name__} has no part that is called backbone")


class MatcherClock:
    """Seconds that a model spends in matching predictions with the ground truth.

    That is in methods ``match…`` of its parts, in parts whose class is a ``…Matcher``, and in the
    ``assign_targets_to_…`` of torchvision's detectors.

    Attributes:
        found: whether the model has such a part.
        seconds: spent there since :meth:`watching` was entered.
    """

    def __init__(self, model: nn.Module) -> None:
        self.device = next(model.parameters()).device
        self.seconds = 0.0
        self._depth = 0
        self._places = [(part, name) for part in model.modules() for name in _matching(part)]
        self.found = bool(self._places)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what happens inside."""
        self.seconds = 0.0
        for part, name in self._places:
            setattr(part, name, self._timed(getattr(part, name)))
        try:
            yield
        finally:
            for part, name in self._places:
                part.__dict__.pop(name, None)

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            self._depth += 1
            start = self._now()
            try:
                return method(*args, **options)
            finally:
                self._depth -= 1
                if self._depth == 0:  # a matcher inside a matcher counts once
                    self.seconds += self._now() - start

        return timed

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Only errors of a library's log: what it says of a model again and again is known."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
