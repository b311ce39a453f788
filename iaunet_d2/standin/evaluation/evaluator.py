"""What an evaluator is, and the loop that feeds it."""

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..utils.comm import get_world_size, is_main_process
from ..utils.logger import log_every_n_seconds

__all__ = [
    "DatasetEvaluator",
    "DatasetEvaluators",
    "inference_context",
    "inference_on_dataset",
]

logger = logging.getLogger(__name__)

# The first batches are slow and say nothing of the rest.
_WARMUP_BATCHES = 5
_LOG_SECONDS = 5
# A batch slower than this is reported before the warm-up is over.
_SLOW_SECONDS = 5


class DatasetEvaluator:
    """Base of evaluators: ``reset``, then ``process`` for every batch, then ``evaluate``."""

    def reset(self) -> None:
        """Forget everything processed so far."""

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take in one batch: what the model got, and what it gave."""

    def evaluate(self) -> Any:
        """The results, as task -> metric -> value; on processes other than the main one perhaps
        None.
        """


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: Any, outputs: Any) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> "OrderedDict[str, Any]":
        """All results together; empty on other processes than the main one.

        Raises:
            ValueError: two evaluators give results under the same key.
        """
        together: OrderedDict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            results = evaluator.evaluate()
            if results is None or not is_main_process():
                continue
            if twice := together.keys() & results.keys():
                raise ValueError(f"two evaluators give results for {', '.join(sorted(twice))}")
            together.update(results)
        return together


class _Clock:
    """Seconds per stage of the loop, averaged over the batches after the warm-up."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._warmup = max(0, min(_WARMUP_BATCHES, total - 1))
        self._done = 0
        self._begin()

    def _begin(self) -> None:
        self._seconds = dict.fromkeys(("data", "inference", "evaluation"), 0.0)
        self._start = self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The time since the last lap was spent on ``stage``."""
        now = time.perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now

    def end_batch(self) -> None:
        """Count a batch, and log progress and the time left every few seconds."""
        self._done += 1
        means = {stage: seconds / self._counted for stage, seconds in self._seconds.items()}
        if self._done > 2 * self._warmup or means["inference"] > _SLOW_SECONDS:
            mean = (self._last - self._start) / self._counted
            left = datetime.timedelta(seconds=int(mean * (self._total - self._done)))
            parts = ", ".join(f"{stage} {value:.4f}" for stage, value in means.items())
            message = f"Inference done {self._done}/{self._total}. {parts} s/iter. ETA={left}"
            log_every_n_seconds(logging.INFO, message, n=_LOG_SECONDS)
        if self._done == self._warmup:
            self._begin()

    @property
    def _counted(self) -> int:
        return max(1, self._done - self._warmup * (self._done > self._warmup))

    def log_total(self) -> None:
        """Log the time of all batches after the warm-up."""
        for name, seconds in (
            ("time", time.perf_counter() - self._start),
            ("pure compute time", self._seconds["inference"]),
        ):
            span = datetime.timedelta(seconds=int(seconds))
            logger.info(
                "Total inference %s: %s (%.6f s / iter per device, on %d devices)",
                *(name, span, seconds / self._counted, get_world_size()),
            )


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Any,
    evaluator: DatasetEvaluator | MutableSequence[DatasetEvaluator] | None,
    callbacks: Mapping[str, Callable[[], Any]] | None = None,
) -> Any:
    """Run a model over a data set without gradients, and evaluate what it gives.

    Args:
        model: takes a batch of ``data_loader``; a module is in evaluation mode meanwhile.
        data_loader: batches, and a length.
        evaluator: one, several, or None to measure the speed only.
        callbacks: called at "on_start", "before_inference", "after_inference" and "on_end".

    Returns:
        what the evaluator's ``evaluate`` gives; an empty dict where that is None.
    """
    if evaluator is None or isinstance(evaluator, MutableSequence):
        evaluator = DatasetEvaluators(evaluator or [])
    hooks = callbacks or {}
    logger.info("Start inference on %d batches", len(data_loader))
    evaluator.reset()
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        hooks.get("on_start", _nothing)()
        clock = _Clock(len(data_loader))
        for inputs in data_loader:
            clock.lap("data")
            hooks.get("before_inference", _nothing)()
            outputs = model(inputs)
            hooks.get("after_inference", _nothing)()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            clock.lap("inference")
            evaluator.process(inputs, outputs)
            clock.lap("evaluation")
            clock.end_batch()
        hooks.get("on_end", _nothing)()
    clock.log_total()
    results = evaluator.evaluate()
    return {} if results is None else results


def _nothing() -> None:
    """The callback that is not given."""


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode of before afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
