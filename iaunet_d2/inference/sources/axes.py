"""Names of an image's dimensions: one letter each, as the file or the user gives them."""

import itertools
from collections.abc import Iterator, Sequence

from ...data.errors import BadFileError

AXES_HELP = (
    "Y rows, X columns, C channels, S samples of a colour pixel, Z depth, T time, P positions"
)
_USER_LETTERS = "YXCSZTP"
_CHANNELS = "CS"
_UNNAMED = "IQ"
"""tifffile's letters for pages, and for further dimensions, that the file gives no name."""
_NAME_ORDER = "ZTP"

Position = dict[str, int]
"""Which plane of a stack: index by letter."""


def check_axes(axes: str) -> str:
    """The letters in capitals; empty stays empty.

    Raises:
        ValueError: a letter is unknown or stands twice, or Y or X is missing.
    """
    letters = axes.upper()
    if not letters:
        return ""
    unknown = sorted(set(letters) - set(_USER_LETTERS))
    twice = sorted({a for a in letters if letters.count(a) > 1})
    if unknown or twice or "Y" not in letters or "X" not in letters:
        raise ValueError(
            f"axes {axes!r}: one letter per dimension is needed, each once, Y and X among them, "
            f"such as ZYX ({AXES_HELP})"
        )
    return letters


def fitting_axes(axes: str, shape: Sequence[int], path: str) -> str:
    """Check that letters given by the user fit an array.

    Raises:
        ValueError: see :func:`check_axes`.
        BadFileError: there are more or fewer letters than dimensions.
    """
    letters = check_axes(axes)
    if len(letters) != len(shape):
        raise BadFileError(
            f"{path}: has {len(shape)} dimensions ({describe(shape)}), and axes {axes!r} name "
            f"{len(letters)}. Give one letter per dimension ({AXES_HELP})."
        )
    return letters


def require_named(axes: str, shape: Sequence[int], path: str) -> None:
    """Refuse dimensions of which nothing says what they are: depth, time or channels.

    Raises:
        BadFileError: a dimension has no name, or no image plane is among them; with an example of
            ``--axes``.
    """
    unnamed = [a for a, n in zip(axes, shape, strict=True) if a in _UNNAMED and n > 1]
    if unnamed or "Y" not in axes or "X" not in axes:
        raise BadFileError(
            f"{path}: has {len(shape)} dimensions ({describe(shape)}), and nothing in it says "
            f"what each of them is. Name them, for example --axes {_example(axes)} ({AXES_HELP})."
        )


def describe(shape: Sequence[int]) -> str:
    """Such as ``5 x 64 x 64``."""
    return " x ".join(map(str, shape))


def channel_shape(axes: str, shape: Sequence[int]) -> tuple[int, int]:
    """Sizes of the C and the S dimension, 1 where there is none.

    A file can have both: several colour images. Channel c * samples + s is sample s of c.
    """
    sizes = dict(zip(axes, shape, strict=True))
    return sizes.get("C", 1), sizes.get("S", 1)


def positions(axes: str, shape: Sequence[int]) -> Iterator[Position]:
    """Every plane of a stack, in the file's order; one empty position where there is no stack."""
    stack = [(a, n) for a, n in zip(axes, shape, strict=True) if a not in "YX" + _CHANNELS]
    for index in itertools.product(*(range(n) for _, n in stack)):
        yield {a: i for (a, _), i in zip(stack, index, strict=True)}


def position_suffix(position: Position, sizes: dict[str, int], prefix: str = "") -> str:
    """Such as `` [series=1, z=3, t=1]``: counted from 0; dimensions of one plane are left out.

    Args:
        position: of the plane.
        sizes: of each dimension.
        prefix: what comes first, such as ``series=1``.
    """
    order = sorted(position, key=lambda a: (_NAME_ORDER + a).index(a))
    parts = [f"{a.lower()}={position[a]}" for a in order if sizes[a] > 1]
    parts = [prefix, *parts] if prefix else parts
    return f" [{', '.join(parts)}]" if parts else ""


def _example(axes: str) -> str:
    """The known letters, and for each unknown one a letter that could be meant."""
    if "Y" not in axes or "X" not in axes:
        return "PTCZYX"[-len(axes) :] if 3 <= len(axes) <= 6 else "ZYX"
    free = [a for a in "ZTPC" if a not in axes]
    letters = []
    for a in reversed(axes):
        letters.append(free.pop(0) if a in _UNNAMED and free else a)
    return "".join(reversed(letters))
