"""What happens around the iterations: evaluation, checkpoints, early stopping, writers."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from .averaging import AveragedWeights
from .curves import write_curves
from .results import Results, flat_metrics, write_results

logger = logging.getLogger(__name__)

FINAL = "model_final"
BEST = "model_best"


@dataclass(frozen=True)
class Evaluated:
    """One evaluation: after which iteration, its results, and each number under a flat name."""

    iteration: int
    results: Results
    metrics: dict[str, float]


Listener = Callable[[Evaluated], None]


class Evaluation(HookBase):
    """Evaluate every ``period`` iterations and after the last one, and tell the listeners.

    Checkpoints are written before it, so that nothing is lost when an evaluation fails. When a run
    is resumed from a checkpoint whose evaluation did not take place, it is made up for first: best
    checkpoint and early stopping then see what they would have seen without the interruption.

    Args:
        period: in iterations; 0 evaluates at the end only.
        evaluate: gives the results and the validation losses, the same on every process.
        listeners: called with each evaluation, in order, on every process.
        averaged: the weights that are evaluated, and that the listeners see.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], tuple[Results, dict[str, float]]],
        listeners: Sequence[Listener] = (),
        averaged: AveragedWeights | None = None,
    ) -> None:
        self.averaged = averaged or AveragedWeights(0)
        self.period = period
        self.evaluate = evaluate
        self.listeners = listeners
        self.latest: Evaluated | None = None
        self.last_iteration = -1

    def before_train(self) -> None:
        finished = self.trainer.start_iter - 1
        at_end = finished + 1 >= self.trainer.max_iter
        if finished >= 0 and self._due(finished) and (self.last_iteration < finished or at_end):
            self.trainer.storage.iter = finished
            self._run(finished)
            self.trainer.storage.iter = self.trainer.start_iter

    def after_step(self) -> None:
        if self._due(self.trainer.iter):
            self._run(self.trainer.iter)

    def _due(self, iteration: int) -> bool:
        on_time = self.period > 0 and (iteration + 1) % self.period == 0
        return on_time or iteration + 1 >= self.trainer.max_iter

    def _run(self, iteration: int) -> None:
        with self.averaged.applied():
            self._evaluate(iteration)

    def _evaluate(self, iteration: int) -> None:
        results, losses = self.evaluate()
        self.latest = Evaluated(iteration, results, {**flat_metrics(results), **losses})
        for name, value in self.latest.metrics.items():
            if math.isfinite(value):
                self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
        if iteration <= self.last_iteration:
            return  # a finished run that was resumed: the listeners have seen it
        self.last_iteration = iteration
        for listener in self.listeners:
            listener(self.latest)

    def state_dict(self) -> dict[str, Any]:
        return {"last_iteration": self.last_iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last_iteration = state["last_iteration"]


class BestMetric:
    """Follow one metric: larger is better, but for losses smaller is."""

    def __init__(self, name: str, min_delta: float = 0.0) -> None:
        self.name = name
        self.min_delta = min_delta
        self.value: float | None = None
        self.iteration = -1

    def improved(self, event: Evaluated) -> bool:
        """Take in an evaluation; whether it beats all earlier ones by more than ``min_delta``."""
        value = self.of(event)
        if not math.isfinite(value):
            return False
        sign = -1.0 if "loss" in self.name else 1.0
        if self.value is not None and sign * (value - self.value) <= self.min_delta:
            return False
        self.value, self.iteration = value, event.iteration
        return True

    def of(self, event: Evaluated) -> float:
        """The metric by its full name, else on the first data set; NaN where it is absent."""
        first = next(iter(event.results), "")
        for name in (self.name, f"{first}/{self.name}"):
            if name in event.metrics:
                return event.metrics[name]
        known = ", ".join(event.metrics) or "none"
        logger.warning("SOLVER.BEST_METRIC %r was not computed; there are: %s", self.name, known)
        return math.nan

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.iteration = state["value"], state["iteration"]


class BestCheckpoint(HookBase):
    """Keep the weights with the best metric as ``model_best.pth``."""

    def __init__(self, metric: str) -> None:
        self.best = BestMetric(metric)

    def __call__(self, event: Evaluated) -> None:
        if not self.best.improved(event):
            return
        logger.info("Best %s so far: %.4f", self.best.name, self.best.value)
        self.trainer.checkpointer.save_weights(
            BEST, iteration=event.iteration, metric=self.best.name, value=self.best.value
        )

    def state_dict(self) -> dict[str, Any]:
        return self.best.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best.load_state_dict(state)


class EarlyStopping(HookBase):
    """End training after ``patience`` evaluations in a row that did not improve the metric.

    The iteration at hand becomes the last one, so that everything that happens at the end of a run
    happens.
    """

    def __init__(self, metric: str, patience: int, min_delta: float = 0.0) -> None:
        self.best = BestMetric(metric, min_delta)
        self.patience = patience
        self.without_gain = 0

    @property
    def stopped(self) -> bool:
        return self.without_gain >= self.patience

    def before_train(self) -> None:
        if self.stopped:
            logger.info("This run was stopped early; a larger PATIENCE lets it continue.")
            self.trainer.max_iter = self.trainer.start_iter

    def __call__(self, event: Evaluated) -> None:
        self.without_gain = 0 if self.best.improved(event) else self.without_gain + 1
        if self.stopped:
            logger.info(
                "Stopping early: %s has not improved in %d evaluations (best %s at iteration %d).",
                self.best.name,
                self.without_gain,
                self.best.value,
                self.best.iteration,
            )
            self.trainer.max_iter = event.iteration + 1

    def state_dict(self) -> dict[str, Any]:
        return {**self.best.state_dict(), "without_gain": self.without_gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best.load_state_dict(state)
        self.without_gain = state["without_gain"]


class Checkpoints(HookBase):
    """Write a checkpoint every ``period`` iterations and ``model_final.pth`` after the last one.

    Args:
        period: in iterations; 0 writes the final one only.
        max_to_keep: newest periodic checkpoints that stay; 0 keeps all.
    """

    def __init__(self, period: int, max_to_keep: int = 0) -> None:
        self.period = period
        self.max_to_keep = max_to_keep
        self.kept: list[str] = []
        self._final_at = -1

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if iteration + 1 >= self.trainer.max_iter:
            self._save_final()
        elif self.period > 0 and (iteration + 1) % self.period == 0:
            name = f"model_{iteration:07d}"
            self.kept.append(name)  # first, so that the checkpoint knows of itself
            self.trainer.save_checkpoint(name)
            self._prune()

    def after_train(self) -> None:
        # Early stopping makes an iteration the last one only after its checkpoint; in a resumed run
        # perhaps before the first iteration, by the evaluation that is made up for.
        trainer = self.trainer
        if trainer.iter < trainer.max_iter or self._final_at == trainer.completed:
            return
        if trainer.completed > trainer.start_iter or not self._resumed_from_final():
            self._save_final()

    def _resumed_from_final(self) -> bool:
        tag = Path(self.trainer.checkpointer.save_dir, "last_checkpoint")
        return tag.is_file() and tag.read_text().strip() == f"{FINAL}.pth"

    def _save_final(self) -> None:
        self.trainer.save_checkpoint(FINAL)
        self._final_at = self.trainer.completed

    def _prune(self) -> None:
        while self.max_to_keep and len(self.kept) > self.max_to_keep:
            name = self.kept.pop(0)
            if comm.is_main_process():
                Path(self.trainer.checkpointer.save_dir, f"{name}.pth").unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        return {"kept": list(self.kept)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = list(state["kept"])


class Writers(HookBase):
    """Write the metrics every ``period`` iterations, metrics and curves after each evaluation."""

    def __init__(
        self,
        build_writers: Callable[[], Sequence[EventWriter]],
        output_dir: str,
        evaluation: Evaluation,
        period: int = 20,
    ) -> None:
        self.build_writers = build_writers
        self.output_dir = output_dir
        self.evaluation = evaluation
        self.period = period
        self.writers: Sequence[EventWriter] = ()

    def before_train(self) -> None:
        self.writers = self.build_writers()  # not earlier: they open their files

    def after_step(self) -> None:
        iteration, latest = self.trainer.iter, self.evaluation.latest
        evaluated = latest is not None and latest.iteration == iteration
        if evaluated or (iteration + 1) % self.period == 0:
            for writer in self.writers:
                writer.write()
        if evaluated:
            write_curves(self.output_dir)

    def after_train(self) -> None:
        for writer in self.writers:
            writer.write()
            writer.close()
        write_curves(self.output_dir)


class ResultsWriter(HookBase):
    """Write ``results.json`` when training has finished, early or not."""

    def __init__(self, output_dir: str, evaluation: Evaluation) -> None:
        self.output_dir = output_dir
        self.evaluation = evaluation

    def after_train(self) -> None:
        latest = self.evaluation.latest
        if self.trainer.iter >= self.trainer.max_iter and latest is not None:
            logger.info("Results: %s", write_results(latest.results, self.output_dir))
