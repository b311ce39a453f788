"""CZI, ND2 and LIF, the files of Zeiss, Nikon and Leica, through bioio and its plug-ins.

https://bioio-devs.github.io/bioio: each scene is an array T, C, Z, Y, X (S), read through dask.
"""

from typing import Any

import numpy as np

from .block import Block, Index
from .extras import optional_package
from .pixel_size import both, microns

PLUGINS = {".czi": "bioio_czi", ".nd2": "bioio_nd2", ".lif": "bioio_lif"}
"""The package that reads each kind of file."""
_KEPT_BYTES = 256 * 2**20


def open_bio(path: str, suffix: str) -> list[Block]:
    """A block per scene.

    Args:
        path: the file.
        suffix: its ending, one of :data:`PLUGINS`.

    Raises:
        BadFileError: bioio or the plug-in is not installed, with the line that installs them.
    """
    plugin = PLUGINS[suffix]
    install = f"bioio {plugin.replace('_', '-')}"
    bioio = optional_package("bioio", path, install)
    reader = optional_package(plugin, path, install).Reader
    scenes = bioio.BioImage(path, reader=reader).scenes
    blocks = []
    for k in range(len(scenes)):
        # One object per scene: it has a current scene, which another would change.
        image = bioio.BioImage(path, reader=reader)
        image.set_scene(k)
        blocks.append(_block(image, f"series={k}" if len(scenes) > 1 else ""))
    return blocks


def _block(image: Any, part: str) -> Block:
    array = image.dask_data
    axes = str(image.dims.order)
    size = image.physical_pixel_sizes  # µm in these three formats' plug-ins
    names = tuple(str(name) for name in image.channel_names or ())
    count = dict(zip(axes, array.shape, strict=True)).get("C", 1)
    if len(names) != count or "S" in axes:
        names = ()
    return Block(
        axes,
        tuple(array.shape),
        np.dtype(array.dtype),
        _PlaneCache(array, axes).read,
        False,
        both(microns(size.Y, "um"), microns(size.X, "um")),
        names,
        part,
    )


class _PlaneCache:
    """Keeps the last plane if it is small: dask would decode all of it for each rectangle."""

    def __init__(self, array: Any, axes: str) -> None:
        self._array = array
        self._y, self._x = axes.index("Y"), axes.index("X")
        self._key: tuple[str, ...] = ()
        self._kept: Any = None

    def read(self, index: Index) -> np.ndarray:
        """See :class:`.block.Block`."""
        whole = list(index)
        whole[self._y] = whole[self._x] = slice(None)
        plane = self._array[tuple(whole)]
        if plane.nbytes > _KEPT_BYTES:
            return np.asarray(self._array[index])
        key = tuple(map(str, whole))
        if key != self._key:
            self._key, self._kept = key, np.asarray(plane)
        inside = [i if k in (self._y, self._x) else slice(None) for k, i in enumerate(index)]
        return self._kept[
            tuple(i for i, j in zip(inside, whole, strict=True) if not isinstance(j, int))
        ]
