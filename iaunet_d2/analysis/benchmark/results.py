"""What was measured, kept in a file so that a second run takes up where the first ended."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from ...config.imports import without_places
from ...env import describe_environment
from ...files import atomic_write
from ..timing import Spread, spread
from .points import Point


@dataclass
class Result:
    """Of one point.

    Attributes:
        point: what was measured.
        config: digest of its config.
        seconds: of every repeat.
        matcher_share: of a training step, 0 to 1; None where there is none.
        peak_bytes: None if not measured.
        memory_done: whether the memory was measured, or could not be.
        failed: why it could not be timed; empty if it could.
        memory_failed: the same of its memory.
    """

    point: Point
    config: str
    seconds: list[float] = field(default_factory=list)
    matcher_share: float | None = None
    peak_bytes: int | None = None
    memory_done: bool = False
    failed: str = ""
    memory_failed: str = ""

    def milliseconds(self) -> Spread | None:
        """For one run of the point; None if it was not timed."""
        return spread([1000 * s for s in self.seconds]) if self.seconds else None


class ResultsFile:
    """``benchmark.json``.

    Args:
        path: of the file, there or not.
        configs: model name -> config: what was measured of another is not taken.

    Raises:
        ValueError: it was measured elsewhere, or is no such file.
    """

    def __init__(self, path: Path, configs: Mapping[str, CfgNode]) -> None:
        self.path = path
        self.environment = describe_environment()
        self.threads = torch.get_num_threads()
        self._digests = {name: digest(cfg) for name, cfg in configs.items()}
        self._results = self._read() if path.is_file() else {}

    def of(self, point: Point) -> Result:
        """The result of a point, so far."""
        key = (point, self._digests[point.model])
        return self._results.setdefault(key, Result(*key))

    def write(self, extra: Mapping[str, Any] | None = None) -> None:
        """Write everything that was measured, with further entries."""
        content = {
            "environment": self.environment,
            "threads": self.threads,
            "points": [_as_dict(r) for r in self._results.values()],
            **(extra or {}),
        }
        with atomic_write(self.path) as stream:
            stream.write(json.dumps(content, indent=1).encode("utf-8"))

    def _read(self) -> dict[tuple[Point, str], Result]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            same = (content["environment"], content["threads"]) == (self.environment, self.threads)
            found = [_from_dict(entry) for entry in content["points"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path}: is no file of this benchmark ({error}); choose another folder (-o)"
            ) from error
        if not same:
            raise ValueError(
                f"{self.path}: was measured on another machine, with other versions or another "
                "number of threads, and the two must not be mixed; choose another folder (-o)"
            )
        return {(result.point, result.config): result for result in found}


def digest(cfg: CfgNode) -> str:
    """Of everything a config says, and of the files that it imports, wherever these lie."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.IMPORTS = without_places(cfg.MODEL.IMPORTS)
    return hashlib.sha256(cfg.dump().encode()).hexdigest()[:16]


def _as_dict(result: Result) -> dict[str, Any]:
    times = result.milliseconds()
    return {**asdict(result), "milliseconds": None if times is None else asdict(times)}


def _from_dict(entry: dict[str, Any]) -> Result:
    """The result of an entry; what failed is tried again."""
    known = {key: value for key, value in entry.items() if key not in ("point", "milliseconds")}
    known["memory_done"] = known["memory_done"] and not known["memory_failed"]
    known["failed"] = known["memory_failed"] = ""
    return Result(point=Point(**entry["point"]), **known)


def timed(results: Sequence[Result]) -> list[Result]:
    """Those with times."""
    return [result for result in results if result.seconds]
