"""CZI, ND2 and LIF through bioio, here a stand-in with the part of its interface that is used."""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from source_files import assert_parts_agree, noise

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.inference.sources import open_planes
from iaunet_d2.inference.sources.bio import PLUGINS

SCENES = [noise(2, 2, 3, 20, 33, dtype=np.uint16), noise(1, 2, 1, 30, 10, dtype=np.uint16)]


class FakeImage:
    """As ``bioio.BioImage``: https://bioio-devs.github.io/bioio/bioio.html."""

    def __init__(self, path: str, reader: str) -> None:
        if reader != "the plug-in's reader":
            raise ValueError(reader)
        self.scenes = ("Scene:0", "Scene:1")
        self._scene = 0

    def set_scene(self, k: int) -> None:
        self._scene = k

    @property
    def dask_data(self) -> np.ndarray:
        return SCENES[self._scene]

    dims = SimpleNamespace(order="TCZYX")
    physical_pixel_sizes = SimpleNamespace(Z=None, Y=0.5, X=0.25)
    channel_names = ["DAPI", "GFP"]


@pytest.fixture
def _bioio(monkeypatch: pytest.MonkeyPatch) -> None:
    bioio: Any = ModuleType("bioio")
    bioio.BioImage = FakeImage
    plugin: Any = ModuleType("bioio_czi")
    plugin.Reader = "the plug-in's reader"
    monkeypatch.setitem(sys.modules, "bioio", bioio)
    monkeypatch.setitem(sys.modules, "bioio_czi", plugin)


@pytest.mark.usefixtures("_bioio")
def test_scenes_and_stacks_give_a_plane_each(tmp_path: Path) -> None:
    (tmp_path / "a.CZI").write_bytes(b"ZISRAWFILE")
    planes = open_planes(tmp_path / "a.CZI")
    assert [p.name for p in planes] == [
        *(f"a.CZI [series=0, z={z}, t={t}]" for t in range(2) for z in range(3)),
        "a.CZI [series=1]",
    ]
    for k, plane in enumerate(planes[:6]):
        assert plane.pixel_size == (0.5, 0.25)
        assert plane.channel_names == ("DAPI", "GFP")
        assert_parts_agree(plane, np.moveaxis(SCENES[0][k // 3, :, k % 3], 0, 2))
    assert_parts_agree(planes[6], np.moveaxis(SCENES[1][0, :, 0], 0, 2))


@pytest.mark.usefixtures("_bioio")
def test_axes_and_channels_are_chosen(tmp_path: Path) -> None:
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE")
    plane = open_planes(tmp_path / "a.czi", channels=(1,))[1]
    assert plane.channel_names == ("GFP",)
    assert_parts_agree(plane, SCENES[0][0, 1, 1, ..., None])
    assert len(open_planes(tmp_path / "a.czi", axes="TZCYX")) == 4 + 2


@pytest.mark.parametrize("suffix", PLUGINS)
def test_without_the_packages(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"something")
    plugin = PLUGINS[suffix]
    monkeypatch.setitem(sys.modules, "bioio", None)
    with pytest.raises(BadFileError, match=f"{path}: .*pip install bioio bioio-{suffix[1:]}$"):
        open_planes(path)
    monkeypatch.setitem(sys.modules, "bioio", ModuleType("bioio"))
    monkeypatch.setitem(sys.modules, plugin, None)
    with pytest.raises(BadFileError, match=f"needs the package {plugin}"):
        open_planes(path)


def test_optional_packages_are_not_imported_before_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package in ("zarr", "bioio", "dask", *PLUGINS.values()):
        monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    for module in ("bio", "zarr", "tiff"):
        importlib.reload(importlib.import_module(f"iaunet_d2.inference.sources.{module}"))
