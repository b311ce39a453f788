"""Metrics as data set -> task -> metric -> number, and ``results.json``."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from ..files import atomic_write

Results = dict[str, dict[str, dict[str, float]]]


def write_results(results: Results, output_dir: str) -> str:
    """Write ``<output_dir>/results.json``; what could not be computed (NaN) becomes null.

    Returns:
        The file's path.
    """
    path = os.path.join(output_dir, "results.json")
    with atomic_write(path) as stream:
        stream.write(json.dumps(_jsonable(results), indent=2, allow_nan=False).encode() + b"\n")
    return path


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None


def flat_metrics(results: Results) -> dict[str, float]:
    """Name every number as Detectron2 does: ``segm/AP``, or with several ``<data set>/segm/AP``."""
    prefix = len(results) > 1
    return {
        f"{dataset}/{task}/{metric}" if prefix else f"{task}/{metric}": float(value)
        for dataset, tasks in results.items()
        for task, metrics in tasks.items()
        for metric, value in metrics.items()
    }


def detectron2_results(results: Results) -> Mapping[str, Any]:
    """Detectron2's nesting, for ``verify_results``: a single data set has no level of its own."""
    return next(iter(results.values())) if len(results) == 1 else results
