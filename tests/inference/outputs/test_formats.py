"""The list of formats: names, suffixes, choice, and files that appear whole or not at all."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from outline_scenes import awkward_cells, box, cells_of

from iaunet_d2.inference.cells import Cells
from iaunet_d2.inference.outputs import FORMATS, parse_formats, write

SUFFIXES = {
    "labels": ".labels.tif",
    "layers": ".layers.tif",
    "coco": ".coco.json",
    "geojson": ".geojson",
    "rois": ".rois.zip",
    "csv": ".csv",
    "overlay": ".overlay.png",
}
OUTLINED = ("coco", "geojson", "rois")


def test_names_and_suffixes() -> None:
    assert {name: f.suffix for name, f in FORMATS.items()} == SUFFIXES
    assert all(f.description for f in FORMATS.values())


@pytest.mark.parametrize("name", SUFFIXES)
def test_every_writer_is_there(name: str) -> None:
    module = importlib.import_module(f"iaunet_d2.inference.outputs.{FORMATS[name].writer}")
    assert callable(module.write)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("csv", ("csv",)),
        ("csv,geojson", ("csv", "geojson")),
        (" GeoJSON , csv,", ("geojson", "csv")),
        ("csv,rois,csv", ("csv", "rois")),
        ("all", tuple(SUFFIXES)),
        ("csv,all", tuple(SUFFIXES)),
    ],
)
def test_choice(text: str, names: tuple[str, ...]) -> None:
    assert parse_formats(text) == names


@pytest.mark.parametrize("text", ["png", "csv,png", "all,png", "", " , "])
def test_unknown_names_list_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"labels, layers, coco, geojson, rois, csv, overlay.*all"):
        parse_formats(text)


def test_unknown_format_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'all' is not known; there are labels"):
        write(awkward_cells(), tmp_path / "a", "all")
    assert list(tmp_path.iterdir()) == []


def test_writer_is_called_with_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    module = ModuleType("overlay")
    module.write = lambda cells, file: called.append((cells, file))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "iaunet_d2.inference.outputs.overlay", module)
    cells = cells_of([box(1, 1, 2, 2)])
    cells.overlay("folder/a.png")
    assert called == [(cells, Path("folder/a.png"))]


class Breaking(Sequence):
    """Crops, of which the last cannot be had."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if index >= self.count:
            raise IndexError
        if index == self.count - 1:
            raise KeyboardInterrupt
        return np.ones((3, 3), bool)


@pytest.mark.parametrize("name", OUTLINED)
def test_an_interrupted_file_does_not_appear(name: str, tmp_path: Path) -> None:
    count = 200
    cells = Cells(
        Breaking(count),
        np.zeros((count, 2), np.int64),
        np.ones(count, np.float32),
        np.zeros(count, np.int64),
        (9, 9),
    )
    old = tmp_path / "old"
    old.write_text("as it was")
    for file in (tmp_path / "new", old):
        with pytest.raises(KeyboardInterrupt):
            cells.save(file, name)
    assert list(tmp_path.iterdir()) == [old] and old.read_text() == "as it was"


@pytest.mark.parametrize("name", OUTLINED)
def test_a_folder_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        awkward_cells().save(tmp_path / "nowhere" / "a", name)


@pytest.mark.parametrize("name", OUTLINED)
def test_a_file_name_that_is_no_text(name: str, tmp_path: Path) -> None:
    cells = cells_of([box(1, 1, 2, 2)], name=b"\xff.tif".decode(errors="surrogateescape"))
    cells.save(tmp_path / "a", name)
    assert (tmp_path / "a").stat().st_size > 0
