"""What is done in an output folder: a small file per image, written when all its outputs are."""

import base64
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.errors import OutputError
from ..files import atomic_write
from .cells import Cells
from .inputs import Input
from .outputs.counts import class_counts, counts_row, failed_row, write_counts
from .outputs.overlay import thumbnail
from .outputs.report import ReportEntry, write_report

FOLDER = ".done"
SUFFIX = ".json"
COUNTS, REPORT = "counts.csv", "report.html"

Record = dict[str, Any]


@dataclass(frozen=True)
class Records:
    """The records of an output folder.

    A record holds what the image was (path, size, time of its last change), what it was done with,
    the files that were written, and its part of the report, which is thus complete after a rerun.
    One with an error is of an image that failed.

    Attributes:
        output: the output folder.
        made_with: model and settings.
        started: the time when the run began: what failed before is tried again.
        overwrite: what was done before is done again.
    """

    output: Path
    made_with: dict[str, Any]
    started: float
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """Where the records are."""
        return self.output / FOLDER

    def make_folder(self) -> None:
        """Make the folders.

        Raises:
            OutputError: that is not possible.
        """
        probe = self.folder / f".writable.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OutputError(
                f"{self.output}: cannot be written ({error.strerror}); name another folder"
            ) from error

    def read(self, name: str) -> Record | None:
        """The record of a name; None where there is none, or a damaged one."""
        return _read(self.folder / f"{name}{SUFFIX}")

    def owner(self, name: str) -> Path | None:
        """The image that a name belongs to."""
        record = self.read(name)
        return None if record is None else Path(record["input"]["path"])

    def settled(self, file: Input) -> Record | None:
        """The record of an image that need not be done (again) in this run, else None."""
        record = self.read(file.name)
        if record is None or not self._counts(record):
            return None
        if record["input"] | {"path": ""} != stamp(file.path) | {"path": ""}:
            return None
        here = all((self.output / written).is_file() for written in record["files"])
        return record if here else None

    def write(self, file: Input, planes: Sequence[dict[str, Any]], error: str = "") -> None:
        """Write the record of an image.

        Args:
            file: the image.
            planes: of each plane what :func:`plane_part` gives; of none for one that failed.
            error: why it failed.

        Raises:
            OSError: it cannot be written.
        """
        path = self.folder / f"{file.name}{SUFFIX}"
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "image": file.shown,
            "input": stamp(file.path),
            "made_with": self.made_with,
            "time": time.time(),
            "error": error,
            "files": [written for plane in planes for written in plane["files"]],
            "planes": [] if error else list(planes),
        }
        with atomic_write(path) as stream:
            stream.write(json.dumps(record).encode())

    def all(self) -> Iterator[Record]:
        """All records of this model and these settings; failures of this run alone.

        Of an image that was recorded under two names, the newer.
        """
        newest: dict[str, Record] = {}
        for path in sorted(self.folder.rglob(f"*{SUFFIX}")):
            record = _read(path)
            if record is not None and record["made_with"] == self.made_with:
                before = newest.get(record["input"]["path"])
                if before is None or before["time"] < record["time"]:
                    newest[record["input"]["path"]] = record
        for record in newest.values():
            if not record["error"] or record["time"] >= self.started:
                yield record

    def _counts(self, record: Record) -> bool:
        of_this_run = record["time"] >= self.started
        if record["made_with"] != self.made_with:
            return False
        return of_this_run or not (record["error"] or self.overwrite)


def stamp(path: Path) -> dict[str, Any]:
    """What tells an image from a later version of it; of a folder, all its files count."""
    try:
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        stats = [file.stat() for file in files]
    except OSError:  # it is gone, or cannot be looked at: opening it will say so
        stats = []
    return {
        "path": str(path.absolute()),
        "size": sum(s.st_size for s in stats),
        "mtime_ns": max((s.st_mtime_ns for s in stats), default=0),
    }


def plane_part(
    cells: Cells, files: Sequence[str], seconds: float, notes: Sequence[str]
) -> dict[str, Any]:
    """What a record holds of one plane.

    Args:
        cells: found in it.
        files: that were written, relative to the output folder.
        seconds: that it took.
        notes: for people.
    """
    return {
        "files": list(files),
        "notes": list(notes),
        "counts": counts_row(cells),
        "name": cells.name,
        "cells": len(cells),
        "class_counts": class_counts(cells),
        "scores": [round(float(score), 4) for score in cells.scores],
        "areas": cells.areas.tolist(),
        "thumbnail": base64.b64encode(thumbnail(cells)).decode(),
        "seconds": round(seconds, 3),
        "pixel_size": cells.pixel_size,
    }


def write_summaries(output: Path, records: Iterable[Record], settings: dict[str, Any]) -> None:
    """Write ``counts.csv`` and ``report.html`` of records.

    Raises:
        OSError: they cannot be written.
    """
    rows, entries = [], []
    for record in records:
        some_rows, some_entries = _report_parts(record)
        rows += some_rows
        entries += some_entries
    write_counts(rows, output / COUNTS)
    write_report(entries, settings, output / REPORT)


def _report_parts(record: Record) -> tuple[list[dict[str, Any]], list[ReportEntry]]:
    """Lines of counts and entries of the report, one of each per plane."""
    if record["error"]:
        name, error = record["image"], record["error"]
        return [failed_row(name, error)], [ReportEntry(name, error=error)]
    planes = record["planes"]
    return [plane["counts"] for plane in planes], [_entry(plane) for plane in planes]


def _entry(plane: dict[str, Any]) -> ReportEntry:
    size = plane["pixel_size"]
    return ReportEntry(
        plane["name"],
        plane["cells"],
        plane["class_counts"],
        np.array(plane["scores"], dtype=np.float64),
        np.array(plane["areas"], dtype=np.int64),
        base64.b64decode(plane["thumbnail"]),
        None,
        plane["seconds"],
        (size[0], size[1]) if size else None,
    )


def _read(path: str | os.PathLike[str]) -> Record | None:
    try:
        record = json.loads(Path(path).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return record if isinstance(record, dict) and "made_with" in record else None
