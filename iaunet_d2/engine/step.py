"""One training step: accumulation, mixed precision, clipping, a stop when not finite."""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .errors import ConfigError, NonFiniteLossError
from .optimizer import Clipper, build_clipper

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}

Batch = list[dict[str, Any]]


class Step(SimpleTrainer):
    """A step over ``accumulate_steps`` batches in single precision.

    The gradient is that of the mean of the batches' losses. Every loss is checked before its
    backward pass, and the gradients before the update, so that the weights never become NaN: when
    the check fails, on whichever process, all processes raise together, with model and optimiser as
    the iteration before left them.

    Args:
        model: returns a dict of scalar losses for a batch.
        optimizer: over the model's parameters.
        accumulate_steps: batches in one step.
        clip: clips the gradients in place and returns their norm.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        accumulate_steps: int = 1,
        clip: Clipper,
        **options: Any,
    ) -> None:
        super().__init__(model, (), optimizer, **options)
        self.accumulate_steps = accumulate_steps
        self.clip = clip
        self._batches: Iterator[Batch] = iter(())

    def feed(self, loader: Iterable[Batch]) -> None:
        """Take the batches of the following steps from ``loader``."""
        self.data_loader = loader
        self._batches = iter(loader)

    def run_step(self) -> None:
        """Make one update.

        Raises:
            NonFiniteLossError: a loss or the gradients are not finite; nothing was updated.
        """
        if not self.model.training:
            raise RuntimeError("the model was left in evaluation mode; call model.train() first")
        self.optimizer.zero_grad()
        statistics = running_statistics(self.model)
        before = [s.clone() for s in statistics]
        try:
            losses, batches, data_time = self._accumulate()
            norm = self._update(batches)
        except NonFiniteLossError:
            for statistic, old in zip(statistics, before, strict=True):
                statistic.copy_(old)
            raise
        _average_over_processes(statistics)
        storage = get_event_storage()
        storage.put_scalars(data_time=data_time, **losses)
        if math.isfinite(norm):  # not of an update that the loss scaler skipped
            storage.put_scalar("grad_norm", norm)
        if "total_loss" not in losses:
            storage.put_scalar("total_loss", sum(losses.values()))

    def _accumulate(self) -> tuple[dict[str, float], list[Batch], float]:
        """Mean losses over batches and processes, the batches, and the seconds waited for them."""
        totals: dict[str, float] = {}
        batches: list[Batch] = []
        data_time = 0.0
        for index in range(self.accumulate_steps):
            start = time.perf_counter()
            batches.append(next(self._batches))
            data_time += time.perf_counter() - start
            with self._gradient_sync(last=index == self.accumulate_steps - 1):
                with self._autocast():
                    losses = self.model(batches[-1])
                if isinstance(losses, Tensor):
                    losses = {"total_loss": losses}
                for name, value in self._agreed(losses, batches[-1]).items():
                    totals[name] = totals.get(name, 0.0) + value / self.accumulate_steps
                self._backward(sum(losses.values()) / self.accumulate_steps)
        return totals, batches, data_time

    def _agreed(self, losses: dict[str, Tensor], batch: Batch) -> dict[str, float]:
        """Losses averaged over the processes; one that is not finite raises on all of them."""
        names = sorted(losses)
        own = torch.stack([losses[name].detach().float() for name in names])
        mean = own.clone()
        if comm.get_world_size() > 1:
            dist.all_reduce(mean)  # a sum with one NaN or Inf is itself not finite, everywhere
            mean /= comm.get_world_size()
        values = mean.tolist()
        if not torch.isfinite(mean).all():
            finite = torch.isfinite(own).tolist()
            values = own.tolist()
            bad = [f"{n} = {v}" for n, v, ok in zip(names, values, finite, strict=True) if not ok]
            self._stop(bad, [batch])
        return dict(zip(names, values, strict=True))

    def _stop(self, bad: list[str], batches: list[Batch]) -> None:
        """Raise, on every process, what the processes with something ``bad`` have to tell."""
        files = [str(item.get("file_name", "?")) for batch in batches for item in batch]
        told = comm.all_gather((bad, files if bad else []))
        causes = list(dict.fromkeys(cause for causes, _ in told for cause in causes))
        names = list(dict.fromkeys(file for _, files in told for file in files))
        raise NonFiniteLossError(
            f"iteration {self.iter}: {', '.join(causes)} is not finite; the files of that batch: "
            f"{', '.join(names)}."
        )

    def _update(self, batches: list[Batch]) -> float:
        norm = self.clip(self.model.parameters())
        if not torch.isfinite(norm):
            self._stop([f"gradient norm = {norm.item()}"], batches)
        self.optimizer.step()
        return norm.item()

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _gradient_sync(self, last: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients once per step, in the last backward pass."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()


class AmpStep(Step, AMPTrainer):
    """The same step with its forward pass in half precision, and loss scaling where needed."""

    def _autocast(self) -> AbstractContextManager[Any]:
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, dtype=self.precision)

    def _backward(self, loss: Tensor) -> None:
        self.grad_scaler.scale(loss).backward()

    def _update(self, batches: list[Batch]) -> float:
        self.grad_scaler.unscale_(self.optimizer)
        norm = self.clip(self.model.parameters())
        # A large scale overflows now and then: the scaler then skips the update and lowers itself.
        # Overflow without any scaling left is the model's own.
        if not torch.isfinite(norm) and self.grad_scaler.get_scale() <= 1.0:
            self._stop([f"gradient norm = {norm.item()}"], batches)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        return norm.item()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state; a run that had no loss scaling so far starts with a fresh scale."""
        if not state_dict.get("grad_scaler") or not self.grad_scaler.is_enabled():
            state_dict = {**state_dict, "grad_scaler": self.grad_scaler.state_dict()}
        super().load_state_dict(state_dict)


def build_step(cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """Build the step that ``SOLVER.AMP``, ``ACCUMULATE_STEPS`` and ``CLIP_GRADIENTS`` describe.

    Raises:
        ConfigError: the precision is unknown or not available on ``MODEL.DEVICE``.
    """
    common: dict[str, Any] = {
        "accumulate_steps": cfg.SOLVER.ACCUMULATE_STEPS,
        "clip": build_clipper(cfg),
    }
    if not cfg.SOLVER.AMP.ENABLED:
        return Step(model, optimizer, **common)
    name = cfg.SOLVER.AMP.PRECISION
    if name not in PRECISIONS:
        raise ConfigError(
            f"SOLVER.AMP.PRECISION {name!r} is unknown; use {' or '.join(PRECISIONS)}"
        )
    on_cuda = next(model.parameters()).device.type == "cuda"
    if name == "float16" and not on_cuda:
        raise ConfigError(
            "SOLVER.AMP.PRECISION float16 needs a CUDA device, and MODEL.DEVICE is "
            f"{cfg.MODEL.DEVICE!r}; "
            "use bfloat16, or SOLVER.AMP.ENABLED False"
        )
    scaler = _grad_scaler(enabled=name == "float16")
    return AmpStep(model, optimizer, grad_scaler=scaler, precision=PRECISIONS[name], **common)


def _grad_scaler(enabled: bool) -> Any:
    """A loss scaler; torch before 2.3 has it under ``torch.cuda`` only."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cuda", enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """What a forward pass in training changes: running statistics of batch normalisation."""
    layers = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.training
    ]
    tensors = [t for m in layers for t in (m.running_mean, m.running_var, m.num_batches_tracked)]
    return [t for t in tensors if t is not None]


def _average_over_processes(tensors: list[Tensor]) -> None:
    """Give every process the mean, so that all evaluate, save and resume the same model."""
    tensors = [t for t in tensors if t.is_floating_point()]
    if comm.get_world_size() == 1 or not tensors:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    flat /= comm.get_world_size()
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
