"""One process at a time."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import portalocker

from .data.errors import BadFileError

logger = logging.getLogger(__name__)


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file for the time of the block; it is gone afterwards.

    A process that is killed leaves the file, but not the lock: the next one takes it.

    Args:
        path: of the lock file.
        what: is being done, for the error.

    Raises:
        BadFileError: another process holds it.
    """
    try:
        lock = _acquired(path)
    except portalocker.AlreadyLocked as error:
        raise BadFileError(
            f"{path.parent}: another process is at work on {what}. Wait until it has ended."
        ) from error
    except portalocker.LockException as error:
        logger.warning(
            "%s: this file system cannot lock (%s); see to it that one process prepares %s",
            path.parent,
            error,
            what,
        )
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps files that are open
            path.unlink()
        lock.release()


def _acquired(path: Path) -> portalocker.Lock:
    """The lock of the file that is at ``path``, not of one that its last holder removed."""
    while True:
        lock = portalocker.Lock(path, "a", timeout=0, fail_when_locked=True)
        stream = lock.acquire()
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), os.stat(path)):
                return lock
        lock.release()
