"""An array of any number of named dimensions, read in parts, cut into planes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...data.errors import BadFileError
from ...data.readers import DECODER_ERRORS
from .axes import (
    Position,
    channel_shape,
    describe,
    fitting_axes,
    position_suffix,
    positions,
    require_named,
)
from .base import Plane
from .pixel_size import PixelSize

MAX_CHANNELS = 64
"""More are a stack that is read wrongly; choosing some is always allowed."""

Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Block:
    """What a format module knows of one array.

    Attributes:
        axes: a letter per dimension.
        shape: of the array.
        dtype: of its values.
        read: values at an index of one integer or slice (start, stop) per dimension; integers take
            their dimension away, as in NumPy.
        has_alpha: the last channel is transparency.
        pixel_size: µm, vertically and horizontally; None where it is not known.
        channel_names: one per channel; empty where they have none.
        part: which array of the file, such as ``series=1``; empty where it is the only one.
        present: bool, over the first dimensions: whether this file holds what is there; None where
            it holds all.
    """

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray]
    has_alpha: bool = False
    pixel_size: PixelSize | None = None
    channel_names: tuple[str, ...] = ()
    part: str = ""
    present: np.ndarray | None = None

    def holds(self, position: Position) -> bool:
        """Whether the first channel of a plane is in this file."""
        if self.present is None:
            return True
        return bool(self.present[tuple(position.get(a, 0) for a in self.axes)[: self.present.ndim]])


class BlockPlane:
    """One plane of a :class:`Block` with the chosen channels; see :class:`.base.Plane`."""

    def __init__(
        self, block: Block, position: Position, numbers: Sequence[int], file: str, path: str
    ) -> None:
        """``numbers``: of the channels; ``file``: for people; ``path``: for errors."""
        sizes = dict(zip(block.axes, block.shape, strict=True))
        suffix = position_suffix(position, sizes, block.part)
        self.shape = (sizes["Y"], sizes["X"], len(numbers))
        # One-bit images become 0 and 255, as those of every file format.
        self.dtype = np.dtype(np.uint8) if block.dtype == bool else block.dtype.newbyteorder("=")
        self.name = file + suffix
        self.pixel_size = block.pixel_size
        names = block.channel_names
        self.channel_names = tuple(names[k] for k in numbers) if names else ()
        self._block, self._position, self._numbers = block, position, tuple(numbers)
        self._where = path + suffix

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The values of a rectangle inside the plane: (height, width, C).

        Raises:
            BadFileError: that part of the file is damaged, or holds NaN or Inf.
            ValueError: the rectangle reaches beyond the plane.
        """
        if min(top, left, height, width) < 0 or not (
            top + height <= self.shape[0] and left + width <= self.shape[1]
        ):
            raise ValueError(
                f"{self.name}: rows {top} to {top + height} and columns {left} to {left + width} "
                f"are not all inside its {self.shape[0]} x {self.shape[1]} pixels"
            )
        if not height or not width:
            return np.empty((height, width, self.shape[2]), self.dtype)
        try:
            values = self._values(slice(top, top + height), slice(left, left + width))
        except BadFileError:
            raise
        except DECODER_ERRORS as error:
            raise BadFileError(
                f"{self._where}: rows {top} to {top + height - 1}, columns {left} to "
                f"{left + width - 1} cannot be decoded ({type(error).__name__}: {error}). The file "
                "is truncated or damaged; copy it again from its source."
            ) from error
        self._require_numbers(values, top, left)
        return values

    def _values(self, rows: slice, columns: slice) -> np.ndarray:
        block, numbers = self._block, np.array(self._numbers)
        samples = channel_shape(block.axes, block.shape)[1]
        first, last = numbers.min() // samples, numbers.max() // samples
        wanted: dict[str, int | slice] = {
            "Y": rows,
            "X": columns,
            "C": slice(int(first), int(last) + 1),
            "S": slice(0, samples),
            **self._position,
        }
        values = np.asarray(block.read(tuple(wanted[a] for a in block.axes)))
        left = [a for a in block.axes if a not in self._position]
        values = values.transpose([left.index(a) for a in "YXCS" if a in left])
        values = values.reshape(*values.shape[:2], math.prod(values.shape[2:]))
        numbers = numbers - first * samples
        if not np.array_equal(numbers, np.arange(values.shape[2])):
            values = values[..., numbers]
        if block.dtype == bool:
            return np.where(values, np.uint8(255), np.uint8(0))
        return np.ascontiguousarray(values, dtype=self.dtype)

    def _require_numbers(self, values: np.ndarray, top: int, left: int) -> None:
        if values.dtype.kind != "f":
            return
        # Models compute with 32-bit floats. NaN compares false too.
        good = np.abs(values) <= np.finfo(np.float32).max
        if good.all():
            return
        row, column, k = np.argwhere(~good)[0]
        raise BadFileError(
            f"{self._where}: {values[row, column, k]} at row {top + row}, column {left + column} "
            f"of channel {self._numbers[k]}, and {good.size - np.count_nonzero(good)} of the "
            f"{good.size} values read there are NaN, Inf or beyond 32-bit floats. Replace them in "
            "the file."
        )


def planes_of(
    block: Block,
    path: str,
    file: str,
    axes: str = "",
    channels: Sequence[int] = (),
    pixel_size: PixelSize | None = None,
) -> list[Plane]:
    """Every plane of an array.

    Args:
        block: the array.
        path: of its file, for errors.
        file: the file's name, for people.
        axes: a letter per dimension instead of what the file says.
        channels: numbers of the channels to take, in this order; empty takes all but transparency.
        pixel_size: instead of what the file says.

    Raises:
        BadFileError: the dimensions have no names, there are no pixels, channels lack or are too
            many, or the values are no real numbers.
        ValueError: ``axes`` cannot be read.
    """
    where = f"{path} [{block.part}]" if block.part else path
    if block.dtype.kind not in "buif":
        remedy = "Save its magnitude as floats" if block.dtype.kind == "c" else "Save numbers"
        raise BadFileError(
            f"{where}: holds values of type {block.dtype}, not real numbers. {remedy}."
        )
    if axes:
        block = _with_axes(block, fitting_axes(axes, block.shape, where), where)
    if 0 in block.shape:
        raise BadFileError(
            f"{where}: holds no pixels ({describe(block.shape)}). Save it again with an image."
        )
    require_named(block.axes, block.shape, where)
    if pixel_size:
        block = replace(block, pixel_size=pixel_size)
    numbers = _channel_numbers(block, channels, where)
    planes: list[Plane] = [
        BlockPlane(block, position, numbers, file, path)
        for position in positions(block.axes, block.shape)
        if block.holds(position)
    ]
    if not planes:
        raise BadFileError(
            f"{where}: holds no plane of its own, only further channels of planes that begin in "
            "other files of the same set. Open those."
        )
    return planes


def _with_axes(block: Block, axes: str, where: str) -> Block:
    """Other letters; names of channels and transparency only where the same dimension has them.

    Raises:
        BadFileError: the samples of colour pixels would become an axis of the image.
    """
    for own, other, length in zip(block.axes, axes, block.shape, strict=True):
        if own == "S" and length > 1 and other not in "SC":
            raise BadFileError(
                f"{where}: its dimension of {length} holds the samples of colour pixels, and axes "
                f"{axes!r} call it {other}. Give colour images and stacks to runs of their own."
            )

    def places(letters: str) -> list[int]:
        return [i for i, a in enumerate(letters) if a in "CS" and block.shape[i] > 1]

    same = places(block.axes) == places(axes)
    return replace(
        block,
        axes=axes,
        has_alpha=block.has_alpha and same,
        channel_names=block.channel_names if same else (),
    )


def _channel_numbers(block: Block, channels: Sequence[int], where: str) -> list[int]:
    planes, samples = channel_shape(block.axes, block.shape)
    count = planes * samples
    absent = [c for c in channels if not 0 <= c < count]
    if absent:
        raise BadFileError(
            f"{where}: has {count} channel(s), numbered from 0, and "
            f"{', '.join(map(str, absent))} of {','.join(map(str, channels))} is not among them. "
            "Change --channels (in Python: channels)."
        )
    numbers = list(channels) or list(range(count - 1 if block.has_alpha and count > 1 else count))
    if len(numbers) > MAX_CHANNELS:
        raise BadFileError(
            f"{where}: has {count} channels (axes {block.axes}, {describe(block.shape)}); at most "
            f"{MAX_CHANNELS} are taken. Choose some, for example --channels 0,1,2, or, if that "
            "dimension is depth or time, name it so with --axes."
        )
    return numbers
