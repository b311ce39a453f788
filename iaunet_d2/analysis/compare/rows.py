"""The rows of a comparison: what was measured of each model, and what was printed elsewhere."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..timing import Spread
from .published import PublishedRow

METRICS = {
    "AP": ("segm", "AP"),
    "AP50": ("segm", "AP50"),
    "AP75": ("segm", "AP75"),
    "APs": ("segm", "APs"),
    "APm": ("segm", "APm"),
    "APl": ("segm", "APl"),
    "AP-overlapping": ("overlap", "AP-overlapping"),
    "AP-separate": ("overlap", "AP-separate"),
    "F1-NeurIPS": ("neurips22", "F1"),
}
"""Column -> task and metric of the evaluators."""


@dataclass
class Row:
    """One model.

    Attributes:
        name: of the row.
        config: its file.
        weights: its files of weights, one per seed.
        parameters: how many.
        gmacs: 1e9 multiply-accumulates for one image of ``Comparison.size``.
        metrics: column of :data:`METRICS` -> value of each seed, 0 to 100; empty if untrained.
        milliseconds: for one image; of all passes of all seeds.
        images_per_second: images by the sum of their times.
        inference_bytes: peak memory for one image; None if not measured.
        training_bytes: peak memory of a training step; None if not measured.
        step_seconds: of a training step; None if not measured.
        step_images: images in a training step.
        notes: what must be known to read the row.
        published: the printed row that this is, if it was not measured here.
        is_seed: whether this is one seed of the row above.
    """

    name: str
    config: str = ""
    weights: tuple[str, ...] = ()
    parameters: float = math.nan
    gmacs: float = math.nan
    metrics: dict[str, list[float]] = field(default_factory=dict)
    milliseconds: Spread | None = None
    images_per_second: float = math.nan
    inference_bytes: int | None = None
    training_bytes: int | None = None
    step_seconds: Spread | None = None
    step_images: int = 0
    notes: list[str] = field(default_factory=list)
    published: PublishedRow | None = None
    is_seed: bool = False

    def number(self, column: str) -> tuple[float, float]:
        """Value of a column, NaN where there is none; and the deviation over the seeds."""
        if column in METRICS:
            return mean_and_deviation(self.metrics.get(column, ()))
        values = {
            "parameters": self.parameters,
            "gmacs": self.gmacs,
            "images_per_second": self.images_per_second,
            "ms": self.milliseconds.median if self.milliseconds else math.nan,
            "ms_low": self.milliseconds.low if self.milliseconds else math.nan,
            "ms_high": self.milliseconds.high if self.milliseconds else math.nan,
            "inference_bytes": _or_nan(self.inference_bytes),
            "training_bytes": _or_nan(self.training_bytes),
            "step_seconds": self.step_seconds.median if self.step_seconds else math.nan,
        }
        return values[column], math.nan


@dataclass
class Comparison:
    """What :func:`~iaunet_d2.analysis.compare.compare` gives.

    Attributes:
        dataset: its name.
        images: how many it has.
        evaluated: whether any model was.
        size: side of the image that multiply-accumulates were counted for.
        device: that was measured.
        rows: measured ones, then published ones.
        environment: versions and devices.
        notes: that hold for all rows.
        show_seeds: whether the tables have a row for each of several seeds.
    """

    dataset: str
    images: int
    evaluated: bool
    size: int
    device: str
    rows: list[Row]
    environment: str
    notes: list[str]
    show_seeds: bool = False

    def measured(self) -> list[Row]:
        """The rows that were measured here."""
        return [row for row in self.rows if row.published is None]

    def table_rows(self) -> list[Row]:
        """The rows; with ``show_seeds`` below each of several seeds a row for every seed."""
        if not self.show_seeds:
            return self.rows
        return [part for row in self.rows for part in (row, *_seeds(row))]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; what is not finite is None."""
        content = _jsonable(asdict(self))
        for place, row in enumerate(self.rows):
            summary = {}
            for column in METRICS if row.metrics else ():
                mean, deviation = row.number(column)
                summary[column] = {"mean": mean, "standard_deviation": deviation}
            content["rows"][place]["metrics_over_seeds"] = _jsonable(summary)
        return content


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and sample standard deviation (of two values or more); NaN where there is none."""
    mean = float(np.mean(values)) if len(values) else math.nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def published_row(printed: PublishedRow) -> Row:
    """A printed row as one of the comparison's."""
    costs = ("parameters", "gmacs")
    return Row(
        printed.name,
        parameters=printed.number("parameters"),
        gmacs=printed.number("gmacs"),
        metrics={key: [printed.number(key)] for key in printed.cells if key not in costs},
        notes=[f"published, {printed.table}"],
        published=printed,
    )


def _seeds(row: Row) -> list[Row]:
    if len(row.weights) < 2:
        return []
    return [
        Row(
            f"{row.name}: {file}",
            row.config,
            (file,),
            metrics={column: [values[k]] for column, values in row.metrics.items()},
            is_seed=True,
        )
        for k, file in enumerate(row.weights)
    ]


def _or_nan(value: int | None) -> float:
    return math.nan if value is None else float(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
