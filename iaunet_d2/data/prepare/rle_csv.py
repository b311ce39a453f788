"""Tables of instances as Kaggle's competitions have them: a row per instance, runs of pixels."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import BadFileError
from ..readers import image_size
from ..segmentation import encode_mask

Order = Literal["C", "F"]
"""How pixels are counted: "C" row by row, "F" column by column."""


@dataclass(frozen=True)
class RleColumns:
    """Names of a table's columns.

    Attributes:
        image: the image that the instance is in.
        runs: its mask.
        height: of the image.
        width: of the image.
        further: others that every row must have.
    """

    image: str
    runs: str
    height: str
    width: str
    further: tuple[str, ...] = ()


@dataclass(frozen=True)
class RleRow:
    """One instance.

    Attributes:
        path: of the table.
        line: in the table, from 1 (the header's).
        columns: the table's.
        values: column name -> text.
    """

    path: Path
    line: int
    columns: RleColumns
    values: Mapping[str, str]

    @property
    def image(self) -> str:
        """Name of the image that the instance is in."""
        return self.values[self.columns.image]

    @property
    def runs(self) -> str:
        """The mask's runs; see :func:`decode_runs`."""
        return self.values[self.columns.runs]

    def segmentation(self, size: tuple[int, int], order: Order) -> dict[str, Any]:
        """The mask as COCO's run lengths.

        Args:
            size: height and width of the image file.
            order: how the runs count pixels.

        Raises:
            BadFileError: the row states another size, or its runs are damaged; names the line.
        """
        stated = tuple(self.values[c] for c in (self.columns.height, self.columns.width))
        if stated != tuple(map(str, size)):
            raise BadFileError(
                f"{self.path}, line {self.line}: states the height and width {stated} for "
                f"{self.image}, whose image file has {size}. Table and images are not of the same "
                "data set, or one is damaged; fetch them again."
            )
        try:
            return encode_mask(decode_runs(self.runs, *size, order))
        except ValueError as error:
            raise BadFileError(
                f"{self.path}, line {self.line}: the mask of an instance in {self.image} {error}. "
                "The file is damaged; fetch it again."
            ) from error


def decode_runs(runs: str, height: int, width: int, order: Order) -> np.ndarray:
    """A mask from Kaggle's run-length text ``"start length start length ..."``.

    Unlike COCO's run lengths, starts are absolute and count pixels from 1.

    Args:
        runs: empty for a mask without pixels.
        height: of the frame.
        width: of the frame.
        order: how pixels are counted.

    Returns:
        (height, width), bool.

    Raises:
        ValueError: the text is no list of runs inside the frame; the message goes on from "the
            mask".
    """
    try:
        numbers = [int(word) for word in runs.split()]
    except ValueError as error:
        raise ValueError(f"is {runs[:40]!r}, not whole numbers") from error
    if len(numbers) % 2:
        raise ValueError(f"has {len(numbers)} numbers; pairs of start and length are needed")
    flat = np.zeros(height * width, dtype=bool)
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        if start < 1 or length < 1 or start - 1 + length > flat.size:
            raise ValueError(
                f"has a run of {length} pixels from pixel {start}, which is not inside "
                f"{height}x{width} (height x width) pixels"
            )
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape((height, width), order=order)


def read_rle_csv(path: Path, columns: RleColumns) -> list[RleRow]:
    """Read a table, all rows in order.

    Raises:
        BadFileError: the file cannot be read, lacks a column, or a row is cut short.
    """
    needed = (columns.image, columns.runs, columns.height, columns.width, *columns.further)
    rows = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            _require_columns(path, reader.fieldnames or (), needed)
            for values in reader:
                if any(values[column] is None for column in needed):
                    raise BadFileError(
                        f"{path}, line {reader.line_num}: is cut short. Fetch the file again."
                    )
                rows.append(RleRow(path, reader.line_num, columns, values))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadFileError(f"{path}: cannot be read ({error}). Fetch it again.") from error
    if not rows:
        raise BadFileError(f"{path}: lists no instance. Fetch it again.")
    return rows


def by_image(rows: Sequence[RleRow]) -> dict[str, list[RleRow]]:
    """The rows of each image, images in the order of their names, rows in the table's."""
    grouped: dict[str, list[RleRow]] = {}
    for row in rows:
        grouped.setdefault(row.image, []).append(row)
    return dict(sorted(grouped.items()))


def rle_annotations(
    rows: Sequence[RleRow], image: Path, order: Order, categories: Sequence[int]
) -> list[dict[str, Any]]:
    """COCO annotations of an image's rows; ``categories`` has an id for every row."""
    size = image_size(image)
    return [
        {"category_id": category, "segmentation": row.segmentation(size, order)}
        for row, category in zip(rows, categories, strict=True)
    ]


def _require_columns(path: Path, found: Sequence[str], needed: Sequence[str]) -> None:
    absent = [column for column in needed if column not in found]
    if absent:
        raise BadFileError(
            f"{path}: lacks the column(s) {', '.join(absent)} (found: "
            f"{', '.join(found) or 'nothing'}). It is another file, or damaged; fetch it again."
        )
