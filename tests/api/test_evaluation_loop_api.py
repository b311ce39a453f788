"""The evaluation loop and the handling of results in Detectron2's API."""

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.evaluation.testing import flatten_results_dict


class Collect(DatasetEvaluator):
    def __init__(self, key: str = "sum") -> None:
        self.key = key

    def reset(self) -> None:
        self.seen: list[float] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        self.seen += outputs

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {self.key: {"value": sum(self.seen)}}


class Double(torch.nn.Module):
    def forward(self, batch: list[float]) -> list[float]:
        assert not self.training and not torch.is_grad_enabled()
        return [2 * value for value in batch]


@contextlib.contextmanager
def heard(caplog: pytest.LogCaptureFixture, function: Any) -> Iterator[None]:
    """What the function's module logs reaches ``caplog``, whatever the loggers above it do."""
    logger = logging.getLogger(function.__module__)
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO, logger=logger.name):
            yield
    finally:
        logger.removeHandler(caplog.handler)


def test_inference_on_dataset(caplog: pytest.LogCaptureFixture) -> None:
    model, calls = Double().train(), []
    names = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {name: (lambda name=name: calls.append(name)) for name in names}
    batches = [[float(i)] for i in range(14)]
    with heard(caplog, inference_on_dataset):
        results = inference_on_dataset(model, batches, [Collect(), Collect("twin")], callbacks)
    assert results == {"sum": {"value": 182}, "twin": {"value": 182}}
    assert model.training
    assert calls == [names[0], *names[1:3] * 14, names[3]]
    assert "ETA=" in caplog.text and "Total inference time" in caplog.text
    assert inference_on_dataset(model, batches, None) == {}
    assert inference_on_dataset(model, batches[:1], Collect()) == {"sum": {"value": 0}}
    assert inference_on_dataset(model, batches, DatasetEvaluator()) == {}


def test_evaluators_do_not_overwrite_each_other() -> None:
    evaluators = DatasetEvaluators([Collect(), Collect()])
    evaluators.reset()
    with pytest.raises((ValueError, AssertionError), match="sum"):
        evaluators.evaluate()


@pytest.mark.parametrize("training", [True, False])
def test_inference_context_restores_the_mode(training: bool) -> None:
    model = Double().train(training)
    with inference_context(model):
        assert not model.training
    assert model.training is training


# Results


def test_print_csv_format(caplog: pytest.LogCaptureFixture) -> None:
    with heard(caplog, print_csv_format):
        print_csv_format({"segm": {"AP": 12.34567, "AP50": 20.0, "AP-cell": 3.0}})
    messages = [record.getMessage() for record in caplog.records]
    for line in ("Task: segm", "AP,AP50", "12.3457,20.0000"):
        assert f"copypaste: {line}" in messages
    assert "cell" not in caplog.text


def test_verify_results() -> None:
    cfg = get_cfg()
    assert verify_results(cfg, {})
    cfg.TEST.EXPECTED_RESULTS = [["segm", "AP", 30.0, 0.5]]
    assert verify_results(cfg, {"segm": {"AP": 30.4}})
    for wrong in ({"AP": 30.6}, {"AP": math.nan}, {}):
        with pytest.raises(SystemExit):
            verify_results(cfg, {"segm": wrong})


def test_flatten_results_dict() -> None:
    nested = {"segm": {"AP": 1, "by": {"size": 2}}, "count": 3}
    assert flatten_results_dict(nested) == {"segm/AP": 1, "segm/by/size": 2, "count": 3}
