"""Tables as CSV: RFC 4180, UTF-8."""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...files import atomic_write

_DIGITS = 6  # that count
_DECIMALS = 3  # at least


def write_csv(heads: Iterable[str], rows: Iterable[Iterable[Any]], file: Path) -> None:
    """Write lines under a line of heads, each value as :func:`text_of` has it.

    Raises:
        OSError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(heads)
    writer.writerows([text_of(value) for value in row] for row in rows)
    with atomic_write(file) as stream:
        # The names of files may hold bytes that are no text.
        stream.write(text.getvalue().encode(errors="backslashreplace"))


def text_of(value: Any) -> str:
    """A value as text: None is empty; a float has 6 digits that count, and at least 3 decimals."""
    if value is None:
        return ""
    if not isinstance(value, float) or value == 0 or not math.isfinite(value):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return repr(round(value, max(_DECIMALS, _DIGITS - 1 - math.floor(math.log10(abs(value))))))
