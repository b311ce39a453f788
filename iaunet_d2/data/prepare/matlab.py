"""MATLAB files of both formats: cell arrays of arrays, read one entry at a time where possible.

Files up to version 7 are MATLAB's own format, which SciPy reads as a whole. Files of version 7.3
are HDF5 with 512 bytes before it: a cell array is a table of references, and every array is stored
with its axes reversed.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np

from ..errors import BadFileError

# What SciPy and h5py raise on files that are damaged or none of MATLAB's.
_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    AttributeError,
    struct.error,
    zlib.error,
)


class MatFile:
    """A MATLAB file, open until :meth:`close` or the end of a ``with`` block.

    Args:
        path: of the file.

    Raises:
        BadFileError: it cannot be opened, is damaged, or is none of MATLAB's.
    """

    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        self._hdf5: Any = None
        with _reading(path):
            if h5py.is_hdf5(path):
                self._hdf5 = h5py.File(path, "r")
                variables = {k: v for k, v in self._hdf5.items() if not k.startswith("#")}
            else:
                variables = _read_version_5(path)
        self._variables: dict[str, Any] = variables

    def __enter__(self) -> "MatFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; entries that were not read yet can no longer be."""
        if self._hdf5 is not None:
            self._hdf5.close()

    def follow(self, entry: Any) -> Any:
        """What a reference refers to; of anything else, itself."""
        import h5py

        return self._hdf5[entry] if isinstance(entry, h5py.Reference) else entry

    def find(self, ending: str) -> str | None:
        """The variable whose name ends so, in upper or lower case; None if there is none."""
        names = sorted(self._variables, key=lambda name: (len(name), name))
        return next((n for n in names if n.lower().endswith(ending.lower())), None)

    def cells(self, ending: str) -> "Cells":
        """The cell array whose name ends so, in upper or lower case.

        Raises:
            BadFileError: there is none.
        """
        name = self.find(ending)
        if name is None:
            raise BadFileError(
                f"{self.path}: holds no variable whose name ends in {ending!r}, only "
                f"{', '.join(sorted(self._variables)) or 'none'}. It is another file than its name "
                "says; fetch it again."
            )
        return Cells(self, self._variables[name])

    def numbers(self, ending: str) -> list[float] | None:
        """The numbers of an array whose name ends so, in one row; None if there is none."""
        name = self.find(ending)
        if name is None:
            return None
        cells = Cells(self, self._variables[name])
        values = [np.ravel(entry) for entry in cells]
        return [float(v) for v in np.concatenate(values)] if values else []


class Cells(Sequence[Any]):
    """The entries of a cell array, column by column; of another array, that array alone.

    Each entry is an array, or :class:`Cells` where it is a cell array itself. Those of HDF5 files
    are read when they are asked for.

    Args:
        file: that they are in.
        stored: SciPy's or h5py's object.
    """

    def __init__(self, file: MatFile, stored: Any) -> None:
        self._file = file
        with _reading(file.path):
            self._entries = _entries(stored)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        """Entries by their number from 0.

        Raises:
            BadFileError: the file is damaged there.
        """
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        entry = self._entries[index]
        with _reading(self._file.path):
            entry = self._file.follow(entry)
            return Cells(self._file, entry) if _is_cell(entry) else _array(entry)


def _read_version_5(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
    except MatReadError as error:
        raise ValueError(str(error)) from error
    return {k: v for k, v in content.items() if not k.startswith("__")}


def _entries(stored: Any) -> list[Any]:
    if not _is_cell(stored):
        return [stored]
    if isinstance(stored, np.ndarray):
        return list(stored.ravel(order="F"))
    # An empty cell array is stored as its size.
    return [] if stored.attrs.get("MATLAB_empty") else list(stored[()].ravel())


def _is_cell(stored: Any) -> bool:
    if isinstance(stored, np.ndarray):
        return stored.dtype == object
    import h5py

    kind = stored.attrs.get("MATLAB_class", b"")
    return h5py.check_ref_dtype(stored.dtype) is not None or kind == b"cell"


def _array(stored: Any) -> np.ndarray:
    """An array with MATLAB's axes."""
    if isinstance(stored, np.ndarray):
        return stored
    if stored.attrs.get("MATLAB_empty"):
        return np.zeros(tuple(int(n) for n in stored[()]), dtype=np.float64)
    return stored[()].T


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except BadFileError:
        raise
    except _DAMAGE as error:
        raise BadFileError(
            f"{path}: cannot be read as a MATLAB file ({type(error).__name__}: {error}). It is "
            "truncated or damaged; fetch it again."
        ) from error
