"""The hooks of a usual training."""

import datetime
import logging
import math
import operator
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as _LRScheduler

from ..evaluation.testing import flatten_results_dict
from ..solver import LRMultiplier
from ..utils import comm
from ..utils.events import EventWriter
from .train_loop import HookBase

logger = logging.getLogger(__name__)

Callback = Callable[[Any], Any]


class CallbackHook(HookBase):
    """A hook made of functions, each called with the trainer."""

    def __init__(
        self,
        *,
        before_train: Callback | None = None,
        after_train: Callback | None = None,
        before_step: Callback | None = None,
        after_step: Callback | None = None,
    ) -> None:
        self._callbacks = {
            "before_train": before_train,
            "after_train": after_train,
            "before_step": before_step,
            "after_step": after_step,
        }

    def _call(self, moment: str) -> None:
        callback = self._callbacks.get(moment)
        if callback is not None:
            callback(self.trainer)

    def before_train(self) -> None:
        """Call ``before_train(trainer)``."""
        self._call("before_train")

    def after_train(self) -> None:
        """Call ``after_train(trainer)``, then forget the functions: they may hold the trainer."""
        self._call("after_train")
        self._callbacks.clear()

    def before_step(self) -> None:
        """Call ``before_step(trainer)``."""
        self._call("before_step")

    def after_step(self) -> None:
        """Call ``after_step(trainer)``."""
        self._call("after_step")


class IterationTimer(HookBase):
    """Record the seconds of each iteration as ``time``, and log a summary at the end.

    It times from its ``before_step`` to its ``after_step``: register it first.

    Args:
        warmup_iter: iterations at the start that are not counted.
    """

    def __init__(self, warmup_iter: int = 3) -> None:
        self._warmup_iter = warmup_iter
        self._step = Timer()
        self._steps = Timer()
        self._start = time.perf_counter()

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._steps.reset()

    def before_train(self) -> None:
        """Start the clocks; the one of the steps stands still outside of steps."""
        self._restart()
        self._steps.pause()

    def before_step(self) -> None:
        """Start the step's clock."""
        self._step.reset()
        self._steps.resume()

    def after_step(self) -> None:
        """Record the step, or start anew during the warm-up."""
        done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step.seconds())
        else:
            self._restart()
        self._steps.pause()

    def after_train(self) -> None:
        """Log the speed, the whole time and the hooks' part of it."""
        whole, steps = time.perf_counter() - self._start, self._steps.seconds()
        counted = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if counted > 0 and steps > 0:
            speed = steps / counted
            logger.info(
                "Overall training speed: %d iterations in %s (%.4f s / it)",
                counted,
                _hms(steps),
                speed,
            )
        logger.info("Total training time: %s (%s on hooks)", _hms(whole), _hms(whole - steps))


def _hms(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicWriter(HookBase):
    """Let writers write every ``period`` iterations and after the last one, and close them.

    Raises:
        TypeError: one is no ``EventWriter``.
    """

    def __init__(self, writers: Sequence[EventWriter], period: int = 20) -> None:
        for writer in writers:
            if not isinstance(writer, EventWriter):
                raise TypeError(f"{type(writer)} does not derive from EventWriter")
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        """Write, when it is time."""
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        """Write what later hooks added, and close."""
        for writer in self._writers:
            writer.write()
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's ``PeriodicCheckpointer`` as a hook: every ``period`` iterations and at the end."""

    def before_train(self) -> None:
        """Learn how long the training is."""
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        """Save, when it is time."""
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Save the model whenever a metric is better than ever before; register it after the EvalHook.

    Args:
        eval_period: the period of the EvalHook.
        checkpointer: saves the file.
        val_metric: name of the metric in the storage, like "segm/AP".
        mode: "max" or "min": which is better.
        file_prefix: name of the file, without ``.pth``.

    Raises:
        ValueError: another ``mode``.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: Literal["max", "min"] = "max",
        file_prefix: str = "model_best",
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode {mode!r} of BestCheckpointer must be 'max' or 'min'")
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._better = operator.gt if mode == "max" else operator.lt
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def _check(self) -> None:
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            logger.warning("No metric %s: no best checkpoint is kept", self._val_metric)
            return
        value, iteration = latest
        best = self.best_metric
        # nan and infinity come from an evaluation that found nothing: never a best.
        if not math.isfinite(value) or (best is not None and not self._better(value, best)):
            logger.info("%s %.5f is no new best (best: %s)", self._val_metric, value, best)
            return
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        self.best_metric, self.best_iter = value, iteration
        logger.info("Saved the best model: %s %.5f @ %d", self._val_metric, value, iteration)

    def after_step(self) -> None:
        """Compare, after a periodic evaluation."""
        if _evaluates_after(self.trainer, self._period):
            self._check()

    def after_train(self) -> None:
        """Compare, after the last evaluation."""
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._check()


class LRScheduler(HookBase):
    """Record the learning rate as ``lr``, and step the schedule after every iteration.

    Args:
        optimizer: by default the trainer's.
        scheduler: a torch schedule, or a fvcore schedule of the factor; by default the trainer's.
    """

    def __init__(
        self,
        optimizer: Optimizer | None = None,
        scheduler: _LRScheduler | ParamScheduler | None = None,
    ) -> None:
        self._optimizer: Any = optimizer
        self._scheduler = scheduler

    def before_train(self) -> None:
        """Find optimizer and schedule, and the group whose learning rate stands for all."""
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            finished, end = self.trainer.iter - 1, self.trainer.max_iter
            self._scheduler = LRMultiplier(self._optimizer, self.scheduler, end, finished)
        self._best_param_group_id = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: Optimizer) -> int:
        """The group of most tensors; where each has one, the first of the commonest rate."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    @property
    def scheduler(self) -> Any:
        """The schedule given, else the trainer's."""
        return self._scheduler or self.trainer.scheduler

    def after_step(self) -> None:
        """Record the rate of this iteration, then set that of the next."""
        lr = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state."""
        return self.scheduler.state_dict() if isinstance(self.scheduler, _LRScheduler) else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the schedule's state."""
        if isinstance(self.scheduler, _LRScheduler):
            self.scheduler.load_state_dict(dict(state_dict))


class EvalHook(HookBase):
    """Evaluate every ``eval_period`` iterations and after the last one; all processes or none.

    Args:
        eval_period: 0 evaluates at the end only.
        eval_function: gives a nested dict of numbers, whose flattened names go into the storage.
        eval_after_train: whether to evaluate at the end.
    """

    def __init__(
        self,
        eval_period: int,
        eval_function: Callable[[], Mapping[str, Any] | None],
        eval_after_train: bool = True,
    ) -> None:
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        results = self._func()
        if results:
            if not isinstance(results, dict):
                raise TypeError(f"the evaluation must give a dict, it gave {results!r}")
            flat = flatten_results_dict(results)
            for name, value in flat.items():
                _check_number(name, value)
            self.trainer.storage.put_scalars(**flat, smoothing_hint=False)
        comm.synchronize()  # processes that evaluated less wait for the others

    def after_step(self) -> None:
        """Evaluate, when it is time; the last time is left to ``after_train``."""
        if _evaluates_after(self.trainer, self._period):
            self._do_eval()

    def after_train(self) -> None:
        """Evaluate at the end of a training that did not fail; forget the function."""
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        del self._func  # it is likely a closure over the trainer


def _evaluates_after(trainer: Any, period: int) -> bool:
    """Whether a periodic evaluation follows the current iteration."""
    done = trainer.iter + 1
    return period > 0 and done % period == 0 and done != trainer.max_iter


def _check_number(name: str, value: Any) -> None:
    try:
        float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the evaluation gave {name} = {value!r}, which is no number") from error
