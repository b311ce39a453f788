"""Seconds of a piece of work, and measuring several pieces in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of measured values, in their unit.

    Attributes:
        median: of the values.
        low: their lower quartile.
        high: their upper quartile.
        count: how many there were.
    """

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one value.

    Raises:
        ValueError: there is none.
    """
    if not len(values):
        raise ValueError("nothing was measured")
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return Spread(median, low, high, len(values))


def seconds(work: Callable[[], object], device: torch.device | str) -> float:
    """Wall-clock time of ``work``, which a GPU has finished when the clock is read."""
    _wait_for(device)
    start = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - start


def order_of_turn(count: int, turn: int) -> list[int]:
    """Numbers below ``count``, in the order in which so many things are measured in a turn.

    Every turn has each once, and begins one further than the last: a drift of the machine, and what
    one leaves in the caches for the next, then hit all alike.
    """
    return [(turn + place) % count for place in range(count)]


def _wait_for(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
