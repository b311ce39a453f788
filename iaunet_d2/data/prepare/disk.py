"""Room on the disk, and names that stay below their folder."""

import re
import shutil
from pathlib import Path

from ..errors import BadFileError

_DRIVE = re.compile(r"^[A-Za-z]:")


def parts_below(name: str) -> tuple[str, ...] | None:
    """The components of a relative path that stays below its folder; None if it does not.

    A backslash parts folders too: some Windows programs write it into archives.
    """
    plain = name.replace("\\", "/")
    parts = tuple(part for part in plain.split("/") if part not in ("", "."))
    leaves = plain.startswith("/") or _DRIVE.match(plain) or ".." in parts or "\0" in plain
    return None if leaves else parts


def require_room(folder: Path, needed: int, what: str) -> None:
    """Ask the disk for room before it is used up.

    Args:
        folder: an existing folder on the disk.
        needed: bytes.
        what: needs them, for the message.

    Raises:
        BadFileError: fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BadFileError(
            f"{folder}: {what} needs {readable(needed)}, and {readable(free)} are free. Make room, "
            "or give a --root on a larger disk."
        )


def readable(size: int) -> str:
    """A number of bytes as people read it: 1.3 GB."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.4g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"
