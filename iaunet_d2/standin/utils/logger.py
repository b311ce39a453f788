"""Loggers for the console and for log.txt, and messages that are not repeated without end."""

import atexit
import functools
import logging
import os
import sys
import time
from collections import Counter
from typing import Any

from tabulate import tabulate
from termcolor import colored

from .file_io import PathManager

__all__ = [
    "create_small_table",
    "log_every_n",
    "log_every_n_seconds",
    "log_first_n",
    "setup_logger",
]

# Modules of the stand-in log under their real names; whoever sets up "detectron2" means them too.
_STANDIN = __name__.removesuffix(".utils.logger")
_REMOTE_BUFFER_BYTES = 2**20


class _Formatter(logging.Formatter):
    """Shortens the root of logger names, and marks warnings and errors in colour."""

    def __init__(self, layout: str, roots: dict[str, str], color: bool) -> None:
        super().__init__(layout, datefmt="%m/%d %H:%M:%S")
        self.roots = roots
        self.color = color

    def formatMessage(self, record: logging.LogRecord) -> str:
        full_name = record.name
        for root, short in self.roots.items():
            if full_name.startswith(root + "."):
                record.name = (short + "." if short else "") + full_name[len(root) + 1 :]
        text = super().formatMessage(record)
        record.name = full_name  # other handlers see the record too
        if not self.color or record.levelno < logging.WARNING:
            return text
        if record.levelno == logging.WARNING:
            return colored("WARNING", "red", attrs=["blink"]) + " " + text
        return colored("ERROR", "red", attrs=["blink", "underline"]) + " " + text


@functools.cache  # a second call with the same arguments adds no second handler
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Let a logger write to the console (main process only) and to a file (every process).

    Args:
        output: a folder, for ``log.txt`` in it, or a file that ends with .txt or .log; processes
            after the first append ``.rank<n>``. None writes no file.
        distributed_rank: index of this process.
        name: the logger, and so the root of the modules that it hears.
        abbrev_name: stands for ``name`` in the messages; by default "d2" for Detectron2.
        enable_propagation: whether the root logger hears the messages as well.
        configure_stdout: False leaves the console out.

    Returns:
        The logger.
    """
    short = ("d2" if name == "detectron2" else name) if abbrev_name is None else abbrev_name
    roots = {name: short, _STANDIN: short} if name == "detectron2" else {name: short}
    plain = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
    handlers: list[logging.Handler] = []
    if configure_stdout and distributed_rank == 0:
        console = logging.StreamHandler(stream=sys.stdout)
        layout = colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s" if color else plain
        console.setFormatter(_Formatter(layout, roots, color))
        handlers.append(console)
    if output is not None:
        is_file = output.endswith((".txt", ".log"))
        path = output if is_file else os.path.join(output, "log.txt")
        file = logging.StreamHandler(
            _open_log(path + (f".rank{distributed_rank}" if distributed_rank else ""))
        )
        file.setFormatter(_Formatter(plain, roots, color=False))
        handlers.append(file)
    for root in roots:
        target = logging.getLogger(root)
        target.setLevel(logging.DEBUG)
        target.propagate = enable_propagation
        for handler in handlers:
            target.addHandler(handler)
    return logging.getLogger(name)


@functools.cache  # loggers that write to one file share its handle
def _open_log(path: str) -> Any:
    folder = os.path.dirname(path)
    if folder:
        PathManager.mkdirs(folder)
    # A remote file is written in large pieces.
    buffering = _REMOTE_BUFFER_BYTES if "://" in path else -1
    stream = PathManager.open(path, "a", buffering=buffering)
    atexit.register(stream.close)
    return stream


_times_called: Counter[Any] = Counter()
_last_logged: dict[Any, float] = {}


def _caller() -> tuple[str, tuple[str, int, str]]:
    """Module, and (file, line, function), of the first frame outside this file."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    module = frame.f_globals["__name__"]
    place = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    return ("detectron2" if module == "__main__" else module), place


def log_first_n(
    lvl: int,
    msg: str,
    n: int = 1,
    *,
    name: str | None = None,
    key: str | tuple[str, ...] = "caller",
) -> None:
    """Log only the first ``n`` times.

    Args:
        lvl: level, as of :mod:`logging`.
        name: the logger; by default that of the calling module.
        key: what makes two calls the same: the line of code ("caller"), the text ("message"), or
            both in a tuple.

    Raises:
        ValueError: ``key`` is empty.
    """
    parts = (key,) if isinstance(key, str) else key
    if not parts:
        raise ValueError('key must name "caller", "message" or both')
    module, place = _caller()
    same = (place if "caller" in parts else (), msg if "message" in parts else "")
    _times_called[same] += 1
    if _times_called[same] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log the first of every ``n`` calls from the same line of code."""
    module, place = _caller()
    _times_called[place] += 1
    if (_times_called[place] - 1) % n == 0:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log at most once per ``n`` seconds from the same line of code."""
    module, place = _caller()
    now = time.time()
    if place not in _last_logged or now - _last_logged[place] >= n:
        _last_logged[place] = now
        logging.getLogger(name or module).log(lvl, msg)


def create_small_table(small_dict: dict[str, Any]) -> str:
    """A table of one row under the dict's keys, for a few results."""
    headers, row = list(small_dict), list(small_dict.values())
    return tabulate([row], headers, "pipe", floatfmt=".3f", stralign="center", numalign="center")
