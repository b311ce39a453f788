"""Measuring all points in turns, then their memory, each in a process of its own."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from tqdm import tqdm

from ...engine.errors import NonFiniteLossError
from ...files import atomic_write
from ..memory import FreshProcessError, in_fresh_process
from ..timing import order_of_turn, seconds
from .plot import plot
from .points import Point
from .report import fits, report
from .results import Result, ResultsFile
from .work import Workshop, point_memory

logger = logging.getLogger(__name__)

# What a point may raise that others do not: out of memory, an operation that a precision or a
# compiler lacks, a loss that is not finite.
CANNOT = (RuntimeError, NotImplementedError, MemoryError, NonFiniteLossError)


@dataclass(frozen=True)
class Settings:
    """How points are measured.

    Attributes:
        repeats: times of each point.
        warm_up: runs before, that do not count.
        memory: measure the peak memory too.
    """

    repeats: int = 10
    warm_up: int = 2
    memory: bool = True


def benchmark(
    configs: Mapping[str, CfgNode],
    points: Sequence[Point],
    settings: Settings,
    folder: Path,
) -> tuple[list[Result], str]:
    """Measure points, and write ``benchmark.json``, ``.md`` and ``.png`` into a folder.

    All points take turns, so that a drift of the machine hits all alike; their models are in memory
    at the same time. What the folder's file has already, of the same configs on the same machine,
    is not measured again.

    Args:
        configs: model name -> config.
        points: of these models.
        settings: how.
        folder: of the files.

    Returns:
        A result for each point, and the report as text.

    Raises:
        ValueError: the folder has results of another machine.
        ConfigError: a model or a device does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = ResultsFile(folder / "benchmark.json", configs)
    results = [file.of(point) for point in points]
    _time_in_turns(Workshop(dict(configs)), results, settings, file)
    if settings.memory:
        _measure_memory(configs, results, file)
    file.write({"growth": fits(results)})
    text = report(results, settings)
    for suffix, content in (("md", text.encode("utf-8")), ("png", plot(results))):
        with atomic_write(folder / f"benchmark.{suffix}") as stream:
            stream.write(content)
    return results, text


def _time_in_turns(
    workshop: Workshop, results: Sequence[Result], settings: Settings, file: ResultsFile
) -> None:
    left = [r for r in results if not r.failed and len(r.seconds) < settings.repeats]
    if not left:
        return
    total = sum(settings.warm_up + settings.repeats - len(r.seconds) for r in left)
    works: dict[Point, Callable[[], object]] = {}
    with tqdm(total=total, desc="timing", unit="run") as progress:
        for result in left:
            if not _try(result, lambda r=result: _prepare(workshop, r, settings, works)):  # type: ignore[misc]
                progress.total -= settings.repeats - len(result.seconds)
            progress.update(settings.warm_up)
        file.write()
        for turn in range(settings.repeats):
            for place in order_of_turn(len(left), turn):
                result = left[place]
                if result.failed or len(result.seconds) >= settings.repeats:
                    continue
                _try(result, lambda r=result: _time(r, works))  # type: ignore[misc]
                progress.update()
            file.write()
    for result in left:
        if not result.failed:
            work = works[result.point]
            result.matcher_share = workshop.matcher_share(result.point, work)


def _prepare(
    workshop: Workshop,
    result: Result,
    settings: Settings,
    works: dict[Point, Callable[[], object]],
) -> None:
    work = works[result.point] = workshop.work(result.point)
    for _ in range(settings.warm_up):
        work()


def _time(result: Result, works: Mapping[Point, Callable[[], object]]) -> None:
    result.seconds.append(seconds(works[result.point], result.point.device))


def _try(result: Result, run: Callable[[], None]) -> bool:
    """Run a point's work; what this point alone cannot do is kept with its result, and told."""
    try:
        run()
    except CANNOT as error:
        result.failed = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        logger.warning("%s: %s", result.point, result.failed)
        return False
    return True


def _measure_memory(
    configs: Mapping[str, CfgNode], results: Sequence[Result], file: ResultsFile
) -> None:
    left = [r for r in results if not r.failed and not r.memory_done]
    for result in tqdm(left, desc="memory", unit="point", disable=not left):
        cfg = configs[result.point.model]
        try:
            result.peak_bytes = in_fresh_process(point_memory, cfg, result.point)
        except FreshProcessError as error:
            result.memory_failed = str(error)
            logger.warning("%s: %s", result.point, error)
        result.memory_done = True
        file.write()
