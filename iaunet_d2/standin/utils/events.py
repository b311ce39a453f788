"""Scalars and pictures of a training run: a storage, and writers (JSON, TensorBoard, console)."""

import datetime
import functools
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

from .file_io import PathManager

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
]

_open_storages: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """The storage of the innermost ``with EventStorage(...)``.

    Raises:
        AssertionError: there is none (the type that Detectron2 documents code to catch).
    """
    if not _open_storages:
        raise AssertionError("get_event_storage() works only inside 'with EventStorage(...)'")
    return _open_storages[-1]


def has_event_storage() -> bool:
    """Whether a ``with EventStorage(...)`` is open."""
    return bool(_open_storages)


class EventStorage:
    """Values that a training run produces, each with its iteration.

    A context manager: inside it, :func:`get_event_storage` finds it.
    """

    def __init__(self, start_iter: int = 0) -> None:
        self._iter = start_iter
        self._prefix = ""
        self._buffers: defaultdict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest: dict[str, tuple[float, int]] = {}
        self._hints: dict[str, bool] = {}
        # For the TensorBoard writer, which empties them.
        self._vis_data: list[tuple[str, Any, int]] = []
        self._histograms: list[dict[str, Any]] = []

    def put_scalar(
        self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Add a number under ``name``.

        Args:
            smoothing_hint: whether the value is noisy, so that writers show its median.
            cur_iter: its iteration; by default the current one.

        Raises:
            AssertionError: the name was used with another hint.
        """
        name = self._prefix + name
        if self._hints.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"scalar {name!r} was put with another smoothing_hint before")
        iteration = self._iter if cur_iter is None else cur_iter
        self._latest[name] = (float(value), iteration)
        self._buffers[name].update(float(value), iteration)

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any
    ) -> None:
        """Add several numbers, each under the name of its argument."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint, cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Add an RGB image (3, H, W) for TensorBoard: uint8 in 0..255 or float in 0..1."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Add the distribution of a tensor's elements for TensorBoard."""
        low, high = hist_tensor.min().item(), hist_tensor.max().item()
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float32)
        self._histograms.append(
            {
                "tag": hist_name,
                "global_step": self._iter,
                "num": len(hist_tensor),
                "min": low,
                "max": high,
                "sum": float(hist_tensor.sum()),
                "sum_squares": float(hist_tensor.square().sum()),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": torch.histc(hist_tensor, bins=bins).tolist(),
            }
        )

    def history(self, name: str) -> HistoryBuffer:
        """All values under ``name``.

        Raises:
            KeyError: there are none.
        """
        if name not in self._buffers:
            raise KeyError(f"no scalar {name!r} was put")
        return self._buffers[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All values of every scalar."""
        return self._buffers

    def latest(self) -> dict[str, tuple[float, int]]:
        """The last value of every scalar and its iteration."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As :meth:`latest`, but of noisy scalars the median over ``window_size`` iterations."""
        smoothed = {}
        for name, (value, iteration) in self._latest.items():
            if self._hints[name]:
                value = self._buffers[name].median(self.count_samples(name, window_size))
            smoothed[name] = (value, iteration)
        return smoothed

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Number of values under ``name`` in the last ``window_size`` iterations that it has."""
        iterations = [iteration for _, iteration in self._buffers[name].values()]
        count = 0
        while count < len(iterations) and iterations[-1 - count] > iterations[-1] - window_size:
            count += 1
        return count

    def smoothing_hints(self) -> dict[str, bool]:
        """Whether each scalar is noisy."""
        return self._hints

    def step(self) -> None:
        """Go to the next iteration."""
        self._iter += 1

    @property
    def iter(self) -> int:
        """The current iteration."""
        return self._iter

    @iter.setter  # noqa: A003 (Detectron2's name)
    def iter(self, val: int) -> None:
        self._iter = int(val)

    iteration = iter  # noqa: A003

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put ``name/`` in front of every scalar that is added inside."""
        outer, self._prefix = self._prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    def clear_images(self) -> None:
        """Forget the images, after they were written."""
        self._vis_data = []

    def clear_histograms(self) -> None:
        """Forget the histograms, after they were written."""
        self._histograms = []

    def __enter__(self) -> "EventStorage":
        _open_storages.append(self)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        _open_storages.pop()


class EventWriter:
    """Base of the writers: ``write`` takes what is new in the current storage."""

    def write(self) -> None:
        """Write what the current storage holds."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is written after this."""


class JSONWriter(EventWriter):
    """One JSON object per line and iteration: the scalars of that iteration, and ``iteration``."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        """Append to ``json_file``; noisy scalars are medians over ``window_size`` iterations."""
        self._file = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._newest = -1

    def write(self) -> None:
        rows: defaultdict[int, dict[str, float]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._newest:
                rows[iteration][name] = value
        for iteration, row in rows.items():
            self._file.write(json.dumps({**row, "iteration": iteration}, sort_keys=True) + "\n")
        self._newest = max(rows, default=self._newest)
        self._file.flush()
        if hasattr(self._file, "fileno"):  # remote files have none
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Scalars, images and histograms for TensorBoard, which is imported at the first write."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        """Write under ``log_dir``; ``kwargs`` go to ``torch.utils.tensorboard.SummaryWriter``."""
        self._window_size = window_size
        self._options = {"log_dir": log_dir, **kwargs}
        self._newest = -1

    @functools.cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._options)

    def write(self) -> None:
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(self._window_size)
        fresh = {name: item for name, item in latest.items() if item[1] > self._newest}
        for name, (value, iteration) in fresh.items():
            self._writer.add_scalar(name, value, iteration)
        self._newest = max((item[1] for item in fresh.values()), default=self._newest)
        for image in storage._vis_data:
            self._writer.add_image(*image)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs what one watches: time left, losses, metrics, seconds, learning rate and GPU memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        """Losses are medians over ``window_size`` iterations; ``max_iter`` gives the time left."""
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._previous: tuple[int, float] | None = None

    def _eta(self, storage: EventStorage) -> str | None:
        """Time left as h:mm:ss; None while there is nothing to estimate it from."""
        if self._max_iter is None:
            return None
        remaining = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * remaining
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            return str(datetime.timedelta(seconds=int(seconds)))
        # Without measured times: from the last write to this one.
        now, before = time.perf_counter(), self._previous
        self._previous = (storage.iter, now)
        if before is None or before[0] == storage.iter:
            return None
        seconds = (now - before[1]) / (storage.iter - before[0]) * remaining
        return str(datetime.timedelta(seconds=int(seconds)))

    def _medians(self, storage: EventStorage, marker: str) -> str:
        """``name: value`` of every scalar with ``marker`` in its name."""
        return "  ".join(
            f"{name}: {buffer.median(storage.count_samples(name, self._window_size)):.4g}"
            for name, buffer in storage.histories().items()
            if marker in name
        )

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # the last iteration was reported; what comes after training is not progress
        eta = self._eta(storage)
        line = f" eta: {eta}  " if eta else " "
        line += f"iter: {storage.iter}  "
        line += f"{self._medians(storage, 'loss')}  {self._medians(storage, '[metric]')}  "
        scalars = storage.histories()
        if "time" in scalars:
            line += f"time: {scalars['time'].global_avg():.4f}  "
            line += f"last_time: {scalars['time'].latest():.4f}  "
        if "data_time" in scalars:
            count = storage.count_samples("data_time", self._window_size)
            line += f"data_time: {scalars['data_time'].avg(count):.4f}  "
            line += f"last_data_time: {scalars['data_time'].latest():.4f}  "
        line += f" lr: {scalars['lr'].latest():.5g}  " if "lr" in scalars else " lr: N/A  "
        if torch.cuda.is_available():
            line += f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"
        self.logger.info(line)
