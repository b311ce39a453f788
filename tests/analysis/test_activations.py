"""Pages of activation maps: shares by hand, places of the heat maps, and the command."""

import itertools

import cv2
import numpy as np
import pytest
import tifffile
import torch
from detectron2.modeling import build_model

from iaunet_d2.analysis.activations import activation_page, share_inside, write_page
from iaunet_d2.cli import main
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine.checkpointer import AtomicCheckpointer
from iaunet_d2.meta_arch.iaunet_v1 import Explanation
from iaunet_d2.networks import ScoredMasks

TINY = [
    *(
        "MODEL.DEVICE",
        "cpu",
        "MODEL.TIMM.PRETRAINED",
        "False",
        "MODEL.TIMM.NAME",
        "resnet10t",
        "TEST.SCORE_THRESH",
        0.0,
    ),
    *("INPUT.IMAGE_SIZE", 64, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64),
]
V1 = [
    *("MODEL.META_ARCHITECTURE", "IAUNetV1", "MODEL.IAUNETV1.HIDDEN_DIM", 16),
    *("MODEL.IAUNETV1.NUM_HEADS", 2, "MODEL.IAUNETV1.FFN_DIM", 32),
    *("MODEL.IAUNETV1.NUM_QUERIES", 4, "MODEL.IAUNETV1.SCORE_THRESH", 0.0),
]
IAUNET = ["MODEL.IAUNET.HIDDEN_DIM", 16, "MODEL.IAUNET.NUM_HEADS", 2, "MODEL.IAUNET.FFN_DIM", 32]


def write_model(folder, settings):
    cfg = get_iaunet_cfg()
    cfg.merge_from_list([*TINY, *settings])
    folder.mkdir()
    AtomicCheckpointer(build_model(cfg), str(folder)).save_weights("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("v1") / "model", V1)


def save(path, height, width):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.uint8)
    cv2.imwrite(str(path), pixels)
    return str(path)


SIZES = ((1, 2), (2, 4), (4, 8), (8, 16))


def explanation(count, size=(30, 60), extent=(32.0, 64.0)):
    """Instances of 10 x 10 pixels side by side; each map is all in one cell, the i-th."""
    crops = [torch.ones(10, 10, dtype=torch.bool) for _ in range(count)]
    corners = torch.tensor([[5, 10 * i] for i in range(count)]).view(-1, 2)
    scores = torch.linspace(0.9, 0.5, count)
    maps = []
    for h, w in SIZES:
        cells = torch.zeros(count, h * w)
        cells[torch.arange(count), torch.arange(count) % (h * w)] = 1
        maps.append(cells.view(count, h, w))
    found = ScoredMasks(crops, corners, scores, torch.arange(count) % 2, size)
    return Explanation(found, maps, extent)


def test_share_inside_by_hand():
    activation = np.array([[0.1, 0.2], [0.3, 0.4]])  # cells of 4 x 4 pixels
    whole = np.ones((4, 4), bool)
    assert share_inside(activation, whole, (4, 0), (8, 8)) == pytest.approx(0.3)
    assert share_inside(activation, np.ones((8, 8), bool), (0, 0), (8, 8)) == pytest.approx(1)
    # Half of the upper left cell, and a pixel of the lower right one.
    assert share_inside(activation, np.ones((2, 4), bool), (0, 0), (8, 8)) == pytest.approx(0.05)
    assert share_inside(activation, np.ones((1, 1), bool), (7, 7), (8, 8)) == pytest.approx(0.025)
    assert share_inside(activation, np.zeros((0, 0), bool), (0, 0), (8, 8)) == 0


def test_share_inside_where_cells_do_not_end_at_pixels():
    """A map of 2 x 2 over 5 x 5 pixels, whose middle ones count to the cell of their centre."""
    activation = np.array([[0.1, 0.2], [0.3, 0.4]])
    row = share_inside(activation, np.ones((1, 5), bool), (0, 0), (5, 5))
    assert row == pytest.approx((2 * 0.1 + 3 * 0.2) * 4 / 25)


def test_heat_maps_lie_where_they_belong():
    picture = np.full((30, 60, 3), 90, np.uint8)
    figure = activation_page("a.png", picture, explanation(3), instances=2)
    panels = [a for a in figure.axes if a.get_xlabel().endswith("inside")]
    for panel, (i, level) in zip(panels, itertools.product(range(2), range(4)), strict=True):
        ground, heat = panel.get_images()
        assert ground.get_extent() == [0, 60, 30, 0] and heat.get_extent() == [0, 64, 32, 0]
        assert panel.get_xlim() == (0, 60) and panel.get_ylim() == (30, 0)
        values = np.asarray(heat.get_array())
        assert values.shape == SIZES[level]
        assert values.flat[i] == 1 and values.sum() == 1
        drawn = np.concatenate([line.get_xydata() for line in panel.get_lines()])
        assert drawn[:, 0].min() == 10 * i and drawn[:, 0].max() == 10 * i + 10
        assert drawn[:, 1].min() == 5 and drawn[:, 1].max() == 15
    # 32 x 32 pixels are the first cell: the first instance lies in it, a tenth of its weight.
    assert panels[0].get_xlabel() == "10% inside"
    titles = [a.get_title() for a in figure.axes]
    assert "the best 2 of 3 found" in titles and "level 2: 2 × 4" in titles
    rows = [a.get_ylabel() for a in figure.axes if a.get_ylabel()]
    assert rows == ["1\nscore 0.90", "2\nscore 0.70"]


def test_numbers_stand_in_the_largest_part():
    told = explanation(1)
    crop = torch.zeros(20, 20, dtype=torch.bool)
    crop[:2, :9], crop[9:20, 3:14] = True, True  # 18 and 121 pixels
    told.found.crops[0] = crop
    figure = activation_page("a", np.zeros((30, 60, 3), np.uint8), told)
    (text,) = [t for a in figure.axes for t in a.texts if t.get_text() == "1"]
    assert text.get_position() == (8.5, 19.5)  # the middle, 5 rows further down


def test_names_of_several_classes_are_told():
    picture = np.zeros((30, 60, 3), np.uint8)
    figure = activation_page("a.png", picture, explanation(2), class_names=("nucleus", "cell"))
    rows = [a.get_ylabel() for a in figure.axes if a.get_ylabel()]
    assert rows == ["1\nnucleus\nscore 0.90", "2\ncell\nscore 0.50"]


@pytest.mark.parametrize(("count", "size"), [(0, (30, 60)), (1, (400, 20)), (1, (1100, 1500))])
def test_pages_of_none_one_and_large(count, size, tmp_path):
    picture = np.full((*size, 3), 120, np.uint8)
    told = explanation(count, size, (float(size[0]), float(size[1])))
    file = tmp_path / "sub" / "page.png"
    write_page(activation_page("x" * 200, picture, told), file)
    page = cv2.imread(str(file))
    assert page.min() < 100 and page.max() == 255
    assert page.shape[1] < 1600 and page.shape[0] < 1600 * (1 + count)
    assert [p.name for p in file.parent.iterdir()] == ["page.png"]


def test_a_row_needs_an_instance():
    with pytest.raises(ValueError, match="--instances 0"):
        activation_page("a", np.zeros((8, 8, 3), np.uint8), explanation(1), instances=0)


def test_the_command_writes_a_page_per_plane(model, tmp_path, capsys):
    images, out = tmp_path / "in", tmp_path / "out"
    save(images / "a.png", 40, 64)
    stack = np.random.default_rng(1).integers(0, 4000, (2, 50, 64)).astype(np.uint16)
    tifffile.imwrite(images / "b.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    (images / "bad.png").write_text("no image")
    command = ["activations", model, str(images), "-o", str(out), "--instances", "1"]
    assert main([*command, "--device", "cpu"]) == 1
    told = capsys.readouterr().out
    assert "bad.png" in told and str(out / "a.activations.png") in told
    names = sorted(p.name for p in out.iterdir())
    assert names == ["a.activations.png", "b.p000.activations.png", "b.p001.activations.png"]


def test_its_own_pages_are_no_images(model, tmp_path, capsys):
    for name in ("a.png", "b.activations.png"):
        save(tmp_path / name, 64, 64)
    command = ["activations", model, str(tmp_path), "-o", str(tmp_path), "--instances", "1"]
    assert main(command) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "a.activations.png")]


def test_sub_folders_are_looked_into_when_asked(model, tmp_path, capsys):
    """Without ``--recursive`` the message names it, so it must be there."""
    save(tmp_path / "in" / "deep" / "a.png", 64, 64)
    command = ["activations", model, str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main(command) == 2
    assert "--recursive" in capsys.readouterr().err
    assert main([*command, "--instances", "1", "--recursive"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "out/deep/a.activations.png")]


def test_nothing_to_explain_and_nowhere_to_write_are_told(tmp_path, capsys):
    """Before the model is loaded, which does not exist here."""
    page = save(tmp_path / "b.activations.png", 64, 64)
    assert main(["activations", "nowhere", page, "-o", str(tmp_path / "out")]) == 2
    assert f"{page}: no image in it but pages" in capsys.readouterr().err
    image = save(tmp_path / "a.png", 64, 64)
    assert main(["activations", "nowhere", image, "-o", page]) == 2
    assert f"--output {page}: is a file" in capsys.readouterr().err


def test_a_large_image_is_shown_whole_and_that_is_told(model, tmp_path, capsys):
    image = save(tmp_path / "large.png", 40, 300)
    assert main(["activations", model, image, "-o", str(tmp_path / "out"), "--instances", "1"]) == 0
    assert "larger than the images of the training" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-1"])
def test_no_rows_are_refused_before_the_model_is_loaded(count, tmp_path, capsys):
    command = ["activations", "nowhere", "a.png", "-o", str(tmp_path), f"--instances={count}"]
    assert main(command) == 2
    assert f"--instances {count}" in capsys.readouterr().err


def test_another_model_is_told_in_one_line(tmp_path, capsys):
    folder = write_model(tmp_path / "other", IAUNET)
    image = save(tmp_path / "a.png", 64, 64)
    assert main(["activations", folder, image, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "a model of IAUNet." in error and "IAUNetV1" in error
    assert not (tmp_path / "out").exists()
