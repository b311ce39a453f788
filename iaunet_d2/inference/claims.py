"""Which of several processes does a file: claim files beside the records of what is done."""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ..data.errors import BadFileError
from ..lock import only_one

SUFFIX = ".claim"
HEARTBEAT = 20.0
"""Seconds between two touches of the claims that a process holds."""
STALE_AFTER = 180.0
"""Seconds without a touch after which a claim's process counts as dead."""


class Claims:
    """Claims of one process in a folder that several share.

    A claim is a file that only one process can create, with process, machine and time in it. While
    it is held, its time is renewed. That of a process that is dead, or has not renewed it for
    :data:`STALE_AFTER` seconds, goes to whoever asks next. It is used in a ``with`` statement,
    whose end gives everything back.

    Args:
        folder: where the claims are; made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: set[Path] = set()
        self._changing = threading.Lock()
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="claims", daemon=True)

    def __enter__(self) -> "Claims":
        self._renewing.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._renewing.join()
        for path in list(self._held):
            self._give_back(path)

    def take(self, name: str) -> bool:
        """Claim a file's name, which may contain folders; False while another process holds it.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _create(path) and not self._taken_over(path):
            return False
        with self._changing:
            self._held.add(path)
        return True

    def release(self, name: str) -> None:
        """Give a claim back."""
        self._give_back(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"

    def _give_back(self, path: Path) -> None:
        with self._changing:
            self._held.discard(path)
        path.unlink(missing_ok=True)

    def _taken_over(self, path: Path) -> bool:
        """Whether the claim was a dead process's, and is this one's now."""
        if not _is_stale(path):
            return False
        try:
            # Of several that find a dead process's claim, one at a time looks again.
            with only_one(self.folder / ".taking-over", "a claim"):
                if not _is_stale(path):
                    return False
                path.unlink(missing_ok=True)
                return _create(path)
        except BadFileError:
            return False

    def _renew(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            with self._changing:
                held = list(self._held)
            for path in held:
                with suppress(OSError):  # given back meanwhile, or the disk is away for a moment
                    os.utime(path)


def _create(path: Path) -> bool:
    """Create a claim, unless there is one."""
    about = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "w") as stream:
            json.dump(about, stream)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _is_stale(path: Path) -> bool:
    """Whether the process of a claim is dead, as far as can be told."""
    try:
        untouched = time.time() - path.stat().st_mtime
        about = json.loads(path.read_text())
    except FileNotFoundError:
        return False
    except ValueError:  # being written, or its writer was killed in the middle
        return untouched > STALE_AFTER
    here = about.get("host") == socket.gethostname()
    return untouched > STALE_AFTER or (here and not _is_alive(int(about.get("pid", 0))))


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine lives; where that cannot be asked, yes."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
