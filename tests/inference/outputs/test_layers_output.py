"""The layered label TIFF: every mask comes back whole."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from cell_scenes import block, cells_of, scattered, single_pixels
from PIL import Image, ImageSequence

from iaunet_d2.inference.cells import Cells, no_cells
from iaunet_d2.inference.outputs import layers


def greedy(cells: Cells) -> list[list[int]]:
    """First fit by full frames."""
    frames: list[np.ndarray] = []
    members: list[list[int]] = []
    for i in sorted(range(len(cells)), key=lambda k: (-cells.scores[k], k)):
        mask = cells.mask(i)
        fit = next((k for k, frame in enumerate(frames) if not (frame & mask).any()), len(frames))
        if fit == len(frames):
            frames.append(np.zeros_like(mask))
            members.append([])
        frames[fit] |= mask
        members[fit].append(i)
    return members


def frames_of(file: Path) -> np.ndarray:
    """All pages (L, H, W), read by Pillow."""
    with Image.open(file) as image:
        return np.stack([np.asarray(frame).copy() for frame in ImageSequence.Iterator(image)])


def test_cells_that_overlap_lie_in_different_layers() -> None:
    places = [(0, 0, block(4, 4)), (0, 2, block(4, 4)), (0, 4, block(4, 4)), (3, 0, block(1, 8))]
    found = layers.layers(cells_of(places, (5, 9)))
    assert [layer.tolist() for layer in found] == [[0, 2], [1], [3]]


def test_boxes_may_overlap_in_a_layer() -> None:
    corner = np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0]])
    cells = cells_of([(0, 0, corner), (1, 1, block(2, 2))], (3, 3))
    assert [layer.tolist() for layer in layers.layers(cells)] == [[0, 1]]


@pytest.mark.parametrize("seed", range(3))
def test_layers_are_those_of_plain_first_fit(seed: int) -> None:
    cells = scattered(150, (70, 90), seed=seed)
    wanted = greedy(cells)
    assert len(wanted) > 8  # more than a byte has bits
    assert [layer.tolist() for layer in layers.layers(cells)] == wanted


def test_as_many_layers_as_it_takes() -> None:
    cells = cells_of([(1, 1, block(2, 2))] * 20, (5, 5))
    assert [layer.tolist() for layer in layers.layers(cells)] == [[i] for i in range(20)]


@pytest.mark.parametrize("pixel_size", [None, (0.5, 0.25)])
def test_masks_come_back_whole(pixel_size: tuple[float, float] | None, tmp_path: Path) -> None:
    cells = scattered(60, (75, 110), pixel_size=pixel_size)
    file = tmp_path / "a.layers.tif"
    layers.write(cells, file)
    frames = frames_of(file)
    assert frames.shape == (len(greedy(cells)), 75, 110)
    for i in range(len(cells)):
        planes = [k for k, frame in enumerate(frames) if (frame == i + 1).any()]
        assert len(planes) == 1
        assert np.array_equal(frames[planes[0]] == i + 1, cells.mask(i))
    with tifffile.TiffFile(file) as tif:
        assert tif.series[0].axes == "CYX"
        about = tif.imagej_metadata or {}
    assert about["Labels"] == [f"layer {k + 1}" for k in range(len(frames))]
    assert about.get("unit") == ("um" if pixel_size else None)


def test_numbers_are_those_of_the_label_image(tmp_path: Path) -> None:
    cells = scattered(30, (50, 60))
    layers.write(cells, tmp_path / "a.layers.tif")
    frames, flat = frames_of(tmp_path / "a.layers.tif"), cells.labels()
    assert ((frames == flat).any(0) | (flat == 0)).all()


@pytest.mark.parametrize("cells", [no_cells((6, 4)), cells_of([(1, 2, block(3, 1))], (6, 4))])
def test_one_layer_where_nothing_overlaps(cells: Cells, tmp_path: Path) -> None:
    layers.write(cells, tmp_path / "a.layers.tif")
    frames = frames_of(tmp_path / "a.layers.tif")
    assert frames.shape == (1, 6, 4)
    assert np.array_equal(frames[0], cells.labels())


def test_many_cells_in_32_bits_and_named_channels(tmp_path: Path) -> None:
    flat = single_pixels(70_000, 280, pixel_size=(0.5, 0.5))
    twice = cells_of([(0, 0, block(1, 1))], flat.image_size)
    cells = Cells(
        [*flat.crops, *twice.crops],
        np.concatenate([flat.corners, twice.corners]),
        np.full(70_001, 0.5, np.float32),
        np.zeros(70_001, np.int64),
        flat.image_size,
    )
    file = tmp_path / "a.layers.tif"
    layers.write(cells, file)
    with tifffile.TiffFile(file) as tif:
        assert tif.series[0].axes == "CYX"
        found, xml = tif.asarray(), tif.ome_metadata
    assert found.dtype == np.uint32 and found.shape == (2, 250, 280)
    assert np.array_equal(found[0].ravel(), np.arange(1, 70_001))
    assert found[1, 0, 0] == 70_001 and np.count_nonzero(found[1]) == 1
    names = [c.get("Name") for c in ElementTree.fromstring(xml).iterfind(".//{*}Channel")]
    assert names == ["layer 1", "layer 2"]
