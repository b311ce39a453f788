"""JSON files with one long list, written item by item."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...files import atomic_write


def write_items(file: Path, head: dict[str, Any], key: str, items: Iterable[Any]) -> None:
    """Write an object whose last key is a list; one line per item, none kept in memory.

    Args:
        file: appears when it is complete.
        head: the keys before the list, at least one.
        key: of the list.
        items: taken one by one.

    Raises:
        ValueError: an item holds NaN or infinity, which JSON has no word for.
        OSError: the file cannot be written.
    """
    opening = json.dumps(head, allow_nan=False)[:-1] + f", {json.dumps(key)}: ["
    with atomic_write(file) as stream:
        stream.write(opening.encode())
        for number, item in enumerate(items):
            line = json.dumps(item, separators=(",", ":"), allow_nan=False)
            stream.write((",\n" if number else "\n").encode() + line.encode())
        stream.write(b"\n]}\n")
