"""What one iteration of training is: forward, backward, step; with or without mixed precision."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from ..utils import comm
from ..utils.events import get_event_storage
from .base import HookBase, TrainerBase

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one data source: forward, backward, step.

    Args:
        model: called with a batch, gives a dict of scalar losses, or one loss.
        data_loader: an iterable of batches that does not end before training does.
        optimizer: the optimizer of the model's parameters.
        gather_metric_period: iterations from one gathering of losses over processes to the next.
        zero_grad_before_forward: clear gradients before the forward pass, not after it.
        async_write_metrics: write losses in a thread, so that the step need not wait for them.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self._data_loader_iter_obj: Iterator[Any] | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def run_step(self) -> None:
        """Forward, backward, step.

        Raises:
            RuntimeError: the model is in evaluation mode.
            FloatingPointError: the loss, averaged over processes, is not finite; no step is taken.
        """
        if not self.model.training:
            raise RuntimeError("the model was changed to eval mode during training")
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        with self._autocast():
            output = self.model(data)
            losses = {"total_loss": output} if isinstance(output, Tensor) else output
            total: Any = sum(losses.values())
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self._backward(total)
        self.after_backward()
        self._log_losses(losses, data_time)
        self._step()

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _step(self) -> None:
        self.optimizer.step()

    @property
    def _data_loader_iter(self) -> Iterator[Any]:
        # Made on first use: its workers start only when training does.
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable[Any]]) -> None:
        """Replace the data loader by ``data_loader_builder()``; the old one is dropped first."""
        self._data_loader_iter_obj = None
        del self.data_loader
        self.data_loader = data_loader_builder()

    def _log_losses(self, losses: Mapping[str, Tensor], data_time: float) -> None:
        if not self.async_write_metrics:
            self._write_metrics(losses, data_time)
            return
        self._executor = self._executor or ThreadPoolExecutor(max_workers=1)
        if self._writing is not None:
            self._writing.result()  # an error of the last writing is raised here, not lost
        self._writing = self._executor.submit(
            self._write_metrics, losses, data_time, iter=self.iter
        )

    def _write_metrics(
        self,
        loss_dict: Mapping[str, Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,  # noqa: A002 (the public name)
    ) -> None:
        current = self.iter if iter is None else iter
        if (current + 1) % self.gather_metric_period == 0:
            SimpleTrainer.write_metrics(loss_dict, data_time, current, prefix)

    @staticmethod
    def write_metrics(
        loss_dict: Mapping[str, Tensor], data_time: float, cur_iter: int, prefix: str = ""
    ) -> None:
        """Put the losses, averaged over processes, and the slowest data time into the storage.

        Args:
            loss_dict: scalar losses.
            data_time: seconds that this process waited for the batch.
            cur_iter: the iteration they belong to.
            prefix: in front of the name ``total_loss``.

        Raises:
            FloatingPointError: their sum is not finite.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        own = {name: loss.detach().cpu().item() for name, loss in loss_dict.items()}
        gathered = comm.gather((own, data_time))
        if not comm.is_main_process():
            return
        slowest = max(waited for _, waited in gathered)
        storage.put_scalar("data_time", slowest, cur_iter=cur_iter)
        means = {name: np.mean([losses[name] for losses, _ in gathered]) for name in own}
        total = sum(means.values())
        if not np.isfinite(total):
            raise FloatingPointError(
                f"Loss became infinite or NaN at iteration={cur_iter}! Losses: "
                + ", ".join(f"{name} {value}" for name, value in means.items())
            )
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=cur_iter, **means)

    def state_dict(self) -> dict[str, Any]:
        """The loop's state and the optimizer's."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

    def after_train(self) -> None:
        """Call the hooks, and finish the asynchronous writing."""
        super().after_train()
        if self._executor is not None:
            self._executor.shutdown(wait=True)


class AMPTrainer(SimpleTrainer):
    """:class:`SimpleTrainer` with automatic mixed precision on the device of the model.

    Detectron2's needs CUDA; this one also runs on a CPU, where ``bfloat16`` is the type to use.

    Args:
        model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward: as there.
        grad_scaler: scales the loss; by default torch's on CUDA, and one that does nothing without.
        precision: type of the autocast computations.
        log_grad_scaler: record the scale as ``[metric]grad_scaler``.
        async_write_metrics: as in :class:`SimpleTrainer`.

    Raises:
        ValueError: the model runs on several devices in one process.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: Any = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        devices = getattr(model, "device_ids", None) or []
        if isinstance(model, DataParallel | DistributedDataParallel) and len(devices) > 1:
            raise ValueError("AMPTrainer needs one process per device: use launch()")
        super().__init__(
            model,
            data_loader,
            optimizer,
            gather_metric_period,
            zero_grad_before_forward,
            async_write_metrics,
        )
        self.grad_scaler = _default_scaler() if grad_scaler is None else grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def _autocast(self) -> AbstractContextManager[Any]:
        device = next(self.model.parameters()).device.type
        return torch.autocast(device, dtype=self.precision)

    def _backward(self, loss: Tensor) -> None:
        self.grad_scaler.scale(loss).backward()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())

    def _step(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The state of :class:`SimpleTrainer`, and the scale."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _default_scaler() -> Any:
    enabled = torch.cuda.is_available()
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cuda", enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)  # torch < 2.3
