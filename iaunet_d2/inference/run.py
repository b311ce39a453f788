"""A folder of images: each read, predicted and written once, by however many processes."""

import errno
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from tqdm import tqdm

from ..data.errors import BadFileError
from ..data.readers import DECODER_ERRORS
from ..engine.errors import OutputError
from ..lock import only_one
from .cells import Cells
from .claims import STALE_AFTER, Claims
from .inputs import Input
from .loaded import Loaded, batches_with
from .options import Options, Summary
from .outputs import FORMATS, write
from .records import Records, plane_part, write_summaries
from .segmenter import KEPT_PIXELS, Segmenter
from .sources.base import Plane

logger = logging.getLogger(__name__)

_WAIT = 0.2  # seconds between two looks at what other processes are doing
_READ_AHEAD = 64 * 10**6  # pixels that may wait for the model

# What one image may end in without ending the run.
_ERRORS = (*DECODER_ERRORS, ArithmeticError)
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass
class _Work:
    """An image that this process does, and how far it is."""

    file: Input
    planes: Sequence[Plane] = ()
    parts: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0
    error: str = ""
    reading: threading.Lock = field(default_factory=threading.Lock)


class FolderRun:
    """A run over images; see :meth:`__call__`.

    Args:
        segmenter: the model.
        files: the images.
        records: of the output folder.
        options: how.
    """

    def __init__(
        self, segmenter: Segmenter, files: Sequence[Input], records: Records, options: Options
    ) -> None:
        self.segmenter = segmenter
        self.files = files
        self.records = records
        self.options = options
        self.summary = Summary()
        self._told_of_waiting = False
        self._writing: deque[tuple[_Work, int, Future[dict[str, Any]]]] = deque()

    def __call__(self) -> Summary:
        """Predict what is not done yet, wait for what other processes are at, write the report.

        Raises:
            OutputError: the output folder's disk is full.
            OSError: it cannot be written at all.
            KeyboardInterrupt: as it came; what was written is kept, and a rerun goes on.
        """
        try:
            self._run()
            self._write_report()
        except OSError as error:
            if not _is_full(error):
                raise
            raise OutputError(
                f"{self.records.output}: no space is left on the disk. What is complete was kept: "
                "make room and start again, and the run goes on"
            ) from error
        return self.summary

    def _run(self) -> None:
        self.records.make_folder()
        bar = tqdm(total=len(self.files), desc="predict", unit="image")
        with (
            bar,
            Claims(self.records.folder) as claims,
            ThreadPoolExecutor(self.options.workers, "reading") as readers,
            ThreadPoolExecutor(self.options.workers, "writing") as writers,
        ):
            self._bar, self._claims, self._readers, self._writers = bar, claims, readers, writers
            left = list(self.files)
            try:
                while left:
                    busy = self._pass(left)
                    if len(busy) == len(left):
                        self._tell_of_waiting(len(busy))
                        time.sleep(_WAIT)
                    left = busy
            except BaseException as error:
                readers.shutdown(wait=True, cancel_futures=True)
                if isinstance(error, KeyboardInterrupt):
                    self._keep_written()
                raise

    def _tell_of_waiting(self, count: int) -> None:
        if not self._told_of_waiting:
            logger.info(
                "Waiting for %d image(s) that another process is at; if it has died, they are "
                "taken over after %d s at most",
                count,
                STALE_AFTER,
            )
        self._told_of_waiting = True

    def _pass(self, files: Sequence[Input]) -> list[Input]:
        """Do those that are free; give those that other processes are at."""
        busy: list[Input] = []
        workers = self.options.workers
        batch_size = self.options.batch_size if self.options.points is None else 1
        opened = ahead(self._readers, self._open, self._mine(files, busy), lambda _: 1, workers)
        loaded = ahead(
            self._readers,
            self._load,
            self._planes(opened),
            lambda item: max(_pixels(item), _READ_AHEAD / (workers + batch_size)),
            _READ_AHEAD,
        )
        batch: list[tuple[_Work, int, Loaded]] = []
        for (work, number), future in loaded:
            one = self._value(work, future)
            if one is None:
                self._plane_ended(work)
                continue
            if batch and not (len(batch) < batch_size and batches_with(batch[-1][2], one)):
                self._predict(batch)
                batch = []
            batch.append((work, number, one))
        self._predict(batch)
        self._collect(0)
        return busy

    def _mine(self, files: Sequence[Input], busy: list[Input]) -> Iterator[_Work]:
        """Claim what is neither done nor claimed."""
        for file in files:
            if self._is_settled(file):
                continue
            if not self._claims.take(file.name):
                busy.append(file)
            elif self._is_settled(file):  # between the two questions
                self._claims.release(file.name)
            else:
                yield _Work(file)

    def _is_settled(self, file: Input) -> bool:
        record = self.records.settled(file)
        if record is None:
            return False
        if record["error"]:
            self.summary.failed.append((str(file.path), record["error"]))
        elif record["time"] >= self.records.started:
            self.summary.elsewhere += 1
        else:
            self.summary.before += 1
        self._count(file, record["planes"])
        return True

    def _open(self, work: _Work) -> list[Plane]:
        options = self.options
        return self.segmenter.planes(
            work.file.path, options.axes, options.channels, options.pixel_size
        )

    def _planes(
        self, opened: Iterable[tuple[_Work, Future[list[Plane]]]]
    ) -> Iterator[tuple[_Work, int]]:
        for work, future in opened:
            planes = self._value(work, future)
            if planes is None:
                self._ended(work)
                continue
            work.planes, work.left = planes, len(planes)
            work.parts = [{}] * len(planes)
            for number in range(len(planes)):
                yield work, number

    def _load(self, item: tuple[_Work, int]) -> Loaded | None:
        work, number = item
        if work.error:
            return None
        with work.reading:  # planes of one file share its handle
            return self.segmenter.load(work.planes[number], self.options.tile)

    def _predict(self, batch: list[tuple[_Work, int, Loaded]]) -> None:
        """Predict planes that fit into one pass; if that fails, one by one."""
        begin = time.perf_counter()
        try:
            if len(batch) == 1:
                found = [self._find(batch[0][0].file, batch[0][2])]
            else:
                found = self.segmenter.find_together([one for _, _, one in batch])
        except _ERRORS as error:
            if len(batch) > 1:
                for one in batch:
                    self._predict([one])
                return
            self._fail(batch[0][0], error)
            self._plane_ended(batch[0][0])
            return
        seconds = (time.perf_counter() - begin) / max(1, len(batch))
        for (work, number, _), cells in zip(batch, found, strict=True):
            future = self._writers.submit(self._write, work, number, cells, seconds)
            self._writing.append((work, number, future))
        self._collect(2 * self.options.workers)

    def _find(self, file: Input, one: Loaded) -> Cells:
        if self.options.points is not None:
            return self.segmenter.find_at(one, self.options.points[file.name])
        if not one.tile:
            return self.segmenter.find(one)
        with tqdm(desc=one.plane.name, unit="tile", leave=False) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return self.segmenter.find(one, self.options.batch_size, progress)

    def _write(self, work: _Work, number: int, cells: Cells, seconds: float) -> dict[str, Any]:
        """Write a plane's outputs; what a record holds of it."""
        file, planes = work.file, work.planes
        cells = replace(cells, name=(PurePosixPath(file.shown).parent / cells.name).as_posix())
        stem = file.name if len(planes) == 1 else f"{file.name}.p{number:03d}"
        names = [f"{stem}{FORMATS[name].suffix}" for name in self.options.formats]
        (self.records.output / stem).parent.mkdir(parents=True, exist_ok=True)
        for name, format_name in zip(names, self.options.formats, strict=True):
            write(cells, self.records.output / name, format_name)
        notes = []
        if cells.pixels is None:
            notes.append(
                f"more than {KEPT_PIXELS / 1e6:.0f} megapixels: no intensities in the table, and "
                "the picture shows the cells alone"
            )
        return plane_part(cells, names, seconds, notes)

    def _collect(self, at_most: int) -> None:
        """Take what has been written, until so many are still at it."""
        # What has been written is recorded at once: a kill then loses less.
        while self._writing and (len(self._writing) > at_most or self._writing[0][2].done()):
            work, number, future = self._writing.popleft()
            part = self._value(work, future)
            if part is not None:
                work.parts[number] = part
            self._plane_ended(work)

    def _keep_written(self) -> None:
        """Record the images that the model has done when the run is interrupted."""
        for work, number, future in self._writing:
            if future.exception() is None:
                work.parts[number] = future.result()
                self._plane_ended(work)
        self._writing.clear()

    def _value(self, work: _Work, future: "Future[Value]") -> Value | None:
        """A thread's result; None where it failed, which is then the image's error."""
        try:
            return future.result()
        except _ERRORS as error:
            self._fail(work, error)
            return None

    def _fail(self, work: _Work, error: BaseException) -> None:
        if _is_full(error):
            raise error
        logger.debug("%s", work.file.path, exc_info=error)
        work.error = work.error or _message(error, work.file.path)

    def _plane_ended(self, work: _Work) -> None:
        work.left -= 1
        if work.left == 0:
            self._ended(work)

    def _ended(self, work: _Work) -> None:
        self.records.write(work.file, [] if work.error else work.parts, work.error)
        self._claims.release(work.file.name)
        if work.error:
            self.summary.failed.append((str(work.file.path), work.error))
            self._bar.write(work.error, file=sys.stderr)
        else:
            self.summary.done += 1
        self._count(work.file, [] if work.error else work.parts)

    def _count(self, file: Input, parts: Sequence[dict[str, Any]]) -> None:
        self.summary.cells += sum(part["cells"] for part in parts)
        self.summary.notes += [(str(file.path), note) for part in parts for note in part["notes"]]
        self._bar.set_postfix_str(f"{self.summary.cells:,} cells", refresh=False)
        self._bar.update()

    def _write_report(self) -> None:
        """Counts and page of all that is done with this model and these settings."""
        output = self.records.output
        while True:
            try:
                # Of several processes the last one has everything, whoever it is.
                with only_one(self.records.folder / ".report", "the report"):
                    write_summaries(output, self.records.all(), self.records.made_with)
                return
            except BadFileError:
                time.sleep(_WAIT)


def ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Value],
    items: Iterable[Item],
    weight: Callable[[Item], float],
    limit: float,
) -> Iterator[tuple[Item, "Future[Value]"]]:
    """Call a function in threads for items to come, as many as the limit of their weight allows."""
    waiting: deque[tuple[Item, Future[Value]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        while sum(weight(one) for one, _ in waiting) > limit:
            yield waiting.popleft()
    yield from waiting


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL


def _pixels(item: tuple[_Work, int]) -> int:
    work, number = item
    height, width, _ = work.planes[number].shape
    return height * width


def _message(error: BaseException, path: Path) -> str:
    """The error in one line, with the file's name."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    if not isinstance(error, ValueError | OSError):
        text = f"{type(error).__name__}: {text}"
    if isinstance(error, MemoryError) or "out of memory" in text:
        text += " (give --tile a number, or a smaller --batch-size)"
    return text if path.name in text else f"{path}: {text}"
