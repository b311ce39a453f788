"""Uncompressed Zarr folders written by hand from the specifications, and a reader of just those.

https://zarr-specs.readthedocs.io, versions 2 and 3. The package zarr reads the same folders.
"""

import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def write_json(file: Path, content: Any) -> None:
    """Write with the folders above."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def _chunks(array: np.ndarray, chunk: tuple[int, ...]) -> Any:
    for place in itertools.product(
        *(range(-(-n // c)) for n, c in zip(array.shape, chunk, strict=True))
    ):
        corner = [p * c for p, c in zip(place, chunk, strict=True)]
        part = array[tuple(slice(a, a + c) for a, c in zip(corner, chunk, strict=True))]
        pad = [(0, c - n) for c, n in zip(chunk, part.shape, strict=True)]
        yield place, np.pad(part, pad)


def write_zarr2(folder: Path, array: np.ndarray, chunk: tuple[int, ...]) -> None:
    """An array of Zarr 2."""
    about = {
        "zarr_format": 2,
        "shape": array.shape,
        "chunks": chunk,
        "dtype": array.dtype.str,
        "compressor": None,
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }
    write_json(folder / ".zarray", about)
    for place, part in _chunks(array, chunk):
        file = folder.joinpath(*map(str, place))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(part.tobytes())


def write_zarr3(
    folder: Path, array: np.ndarray, chunk: tuple[int, ...], names: list[str] | None = None
) -> None:
    """An array of Zarr 3, little-endian."""
    about: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": array.shape,
        "data_type": array.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
    }
    if names:
        about["dimension_names"] = names
    write_json(folder / "zarr.json", about)
    for place, part in _chunks(array, chunk):
        file = folder.joinpath("c", *map(str, place))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(part.tobytes())


class _Array:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if (folder / ".zarray").exists():
            about = json.loads((folder / ".zarray").read_text())
            self.chunks, self.dtype = tuple(about["chunks"]), np.dtype(about["dtype"])
        else:
            about = json.loads((folder / "zarr.json").read_text())
            self.chunks = tuple(about["chunk_grid"]["configuration"]["chunk_shape"])
            self.dtype = np.dtype(about["data_type"])
            self._folder = folder / "c"
        self.shape = tuple(about["shape"])

    def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
        out = np.zeros(self.shape, self.dtype)
        spans = [i if isinstance(i, slice) else slice(i, i + 1) for i in index]
        met = (
            range(s.start // c, -(-s.stop // c)) for s, c in zip(spans, self.chunks, strict=True)
        )
        for place in itertools.product(*met):
            data = self._folder.joinpath(*map(str, place)).read_bytes()
            part = np.frombuffer(data, self.dtype).reshape(self.chunks)
            corner = [p * c for p, c in zip(place, self.chunks, strict=True)]
            ends = [min(a + c, n) for a, c, n in zip(corner, self.chunks, self.shape, strict=True)]
            where = tuple(slice(a, b) for a, b in zip(corner, ends, strict=True))
            out[where] = part[tuple(slice(0, b - a) for a, b in zip(corner, ends, strict=True))]
        return out[index]


def stand_in() -> ModuleType:
    """A module with the one function of zarr that is used."""
    module = ModuleType("zarr")

    def open_array(store: str, *, mode: str) -> _Array:
        if mode != "r":
            raise ValueError(mode)
        return _Array(Path(store))

    module.open_array = open_array  # type: ignore[attr-defined]
    return module
