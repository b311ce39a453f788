"""Results shown, compared with what was expected, and flattened."""

import logging
import math
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["flatten_results_dict", "print_csv_format", "verify_results"]

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log each task's metrics in one line, to be pasted into a spreadsheet; per-class ones are left
    out.

    Raises:
        TypeError: results that are not task -> metric -> value.
    """
    if not isinstance(results, Mapping):
        raise TypeError(f"expected results as task -> metric -> value, got {results!r}")
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info("copypaste: %s=%s", task, metrics)
            continue
        main = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(main))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in main.values()))


def verify_results(cfg: Any, results: Mapping[str, Any]) -> bool:
    """Compare results with ``cfg.TEST.EXPECTED_RESULTS``: rows of task, metric, value, tolerance.

    Returns:
        True; where a metric is missing, not finite or too far off, the program ends with status 1
        instead.
    """
    wrong = []
    for task, metric, expected, tolerance in cfg.TEST.EXPECTED_RESULTS:
        value = results[task].get(metric)
        if value is None or not math.isfinite(value) or abs(value - expected) > tolerance:
            wrong.append(f"{task}/{metric} is {value}, expected {expected} +- {tolerance}")
    if wrong:
        logger.error("results are not as expected: %s", "; ".join(wrong))
        sys.exit(1)
    if len(cfg.TEST.EXPECTED_RESULTS):
        logger.info("results are as expected")
    return True


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Nested results as one level: ``{"segm": {"AP": 1}}`` becomes ``{"segm/AP": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            inner = flatten_results_dict(value)
            flat.update({f"{key}/{name}": scalar for name, scalar in inner.items()})
        else:
            flat[key] = value
    return flat
