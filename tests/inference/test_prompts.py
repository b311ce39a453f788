"""Point prompts: a mask per click, on whole images and tiles, from Python and from a CSV."""

import csv
import json

import numpy as np
import pytest
import torch
from blob_model import BlobFinder, save, spots, write_model
from detectron2.modeling import build_model

from iaunet_d2 import Segmenter
from iaunet_d2.cli import main
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import BadFileError
from iaunet_d2.inference.inputs import find_inputs
from iaunet_d2.inference.prompts import read_points, window_at
from iaunet_d2.networks import PointsError, mask_logits


@pytest.fixture
def model(tmp_path):
    folder = write_model(tmp_path / "model")
    about = {"images": 1, "instances": 1, "image_side": 64.0, "cell_side": {"99": 9.0}}
    text = json.dumps({**about, "classes": ["cell"], "version": "0.0"})
    (folder / "training_data.json").write_text(text)
    return folder


def seen(cells):
    return [
        (*corner.tolist(), *crop.shape)
        for crop, corner in zip(cells.crops, cells.corners, strict=True)
    ]


@pytest.mark.parametrize("tile", ["off", "48"])
def test_a_mask_per_point_in_order_none_lost(model, tile):
    image = spots(100, 128, (10, 20, 6, 8), (80, 116, 6, 8), (50, 60, 10, 4))
    points = [(61.5, 52.0), (0.0, 99.5), (120.0, 82.0), (22, 12), (22, 12)]
    BlobFinder.shapes.clear()
    found = Segmenter(model, device="cpu", score_thresh=0.9).masks_at(image, points, tile=tile)
    spot = (50, 60, 10, 4), (99, 0, 1, 1), (80, 116, 6, 8), (10, 20, 6, 8), (10, 20, 6, 8)
    assert seen(found) == list(spot)
    assert found.scores.tolist() == [0.75, 0, 0.75, 0.75, 0.75]
    assert len(BlobFinder.shapes) == (1 if tile == "off" else 5)
    assert found.pixels is not None and found.image_size == (100, 128)


def test_no_points_and_points_outside(model):
    segmenter, image = Segmenter(model, device="cpu"), spots(20, 30)
    assert len(segmenter.masks_at(image, [])) == 0
    assert len(segmenter.masks_at(image, np.zeros((0, 2)), tile="16")) == 0
    for x, y in ((30, 3), (-0.1, 3), (3, 20), (np.nan, 1)):
        with pytest.raises(ValueError, match=r"outside its 30 x 20"):
            segmenter.masks_at(image, [(1, 1), (x, y)])


def test_windows_lie_in_the_image_with_the_point_in_the_middle():
    assert window_at((70, 50), (100, 140), 40) == (30, 50)
    assert window_at((3, 99), (100, 140), 40) == (60, 0)
    assert window_at((3, 99), (30, 140), 40) == (0, 0)


def write_csv(file, *rows, header=("image", "x", "y")):
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


def images_in(folder):
    for name in ("a.png", "b.png", "c.png", "sub/a.png"):
        save(folder / name, spots(40, 64, (5, 12, 6, 6), (20, 40, 8, 9)))
    return find_inputs([str(folder)], folder / "out", recursive=True)


def test_a_csv_names_images_by_file_stem_or_path(tmp_path):
    images = images_in(tmp_path / "in")
    rows = ("b", 1, 2), ("sub/a.png", 5.5, 6), ("b.png", 3, 4), (str(tmp_path / "in/c.png"), 7, 8)
    for header in (("image", "x", "y"), ("Label", "X", "Y"), (" FILE ", "x", "Y ")):
        found = read_points(write_csv(tmp_path / "p.csv", *rows, header=header), images)
        by_path = {one.shown: found[one.name].tolist() for one in images if one.name in found}
        assert by_path == {"b.png": [[1, 2], [3, 4]], "sub/a.png": [[5.5, 6]], "c.png": [[7, 8]]}


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        ([("b", 1, 2)], ("name", "x", "y"), "image, x and y are needed, and there are name, x, y"),
        ([("b", 1, 2), ("d", 1, 2)], ("image", "x", "y"), "line 3: 'd' is none of the images"),
        ([("a", 1, 2)], ("image", "x", "y"), "line 2: 'a' is 2 of the images: name its folders"),
        ([("b", 1, "")], ("image", "x", "y"), "line 2: x, y .* are not two numbers"),
        ([("b", 1)], ("image", "x", "y"), "line 2: x, y .* are not two numbers"),
    ],
)
def test_what_is_wrong_with_a_csv(tmp_path, rows, header, said):
    file = write_csv(tmp_path / "p.csv", *rows, header=header)
    with pytest.raises(BadFileError, match=said):
        read_points(file, images_in(tmp_path / "in"))


def test_the_command_finds_the_cells_at_the_points(model, tmp_path, capsys):
    images_in(tmp_path / "in")
    points = write_csv(tmp_path / "p.csv", ("b", 43, 22), ("b", 14, 7), ("c", 1, 1))
    out = tmp_path / "out"
    command = ["predict", str(tmp_path / "in"), "-o", str(out), "--model", str(model)]
    command += ["--device", "cpu", "--formats", "csv", "--points", str(points)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "1 of 3 images have no row" in told and "2 images: 2 done; 3 cells" in told
    with (out / "b.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["area"]) for row in rows] == [72, 36]
    assert not (out / "a.csv").exists() and (out / "c.csv").is_file()
    # The same points are done; others are not.
    assert main(command) == 0 and "2 done before" in capsys.readouterr().out
    write_csv(points, ("b", 14, 7))
    assert main(command) == 0 and "1 images: 1 done; 1 cells" in capsys.readouterr().out


def small(*opts):
    cfg = get_iaunet_cfg("quickstart.yaml")
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", False),
            *("MODEL.IAUNET.HIDDEN_DIM", 32, "MODEL.SEEDED.HIDDEN_DIM", 32),
            *("MODEL.SEEDED.FFN_DIM", 32, "MODEL.SEEDED.MASK_DIM", 8),
            *opts,
        ]
    )
    torch.manual_seed(0)
    return build_model(cfg).eval()


def test_a_seeded_network_answers_clicks_one_by_one():
    model = small()
    image = torch.rand(3, 70, 101) * 255
    entry = {"image": image, "height": 140, "width": 202}
    points = torch.tensor([[40.0, 100.0], [150.0, 20.0], [41.0, 100.0]])
    together = model.segment_at([{**entry, "points": points}])[0]
    assert len(together) == 3 and together.size == (140, 202)
    for i in range(3):
        alone = model.segment_at([{**entry, "points": points[i : i + 1]}])[0]
        assert torch.equal(alone.corners[0], together.corners[i])
        assert torch.equal(alone.crops[0], together.crops[i])
    images = model.preprocess([entry])
    with torch.no_grad():
        output = model.network.at_points(images.tensor, points[None, :1] / 2)
        logits = mask_logits(output.predictions[0].mask_embeddings, output.mask_features)[0, 0]
    # Untrained, a mask is a disc around its click.
    row, column = divmod(int(logits.argmax()), logits.shape[1])
    assert abs(2 * row - 50) <= 4 and abs(2 * column - 20) <= 4
    top, left = together.corners[0].tolist()
    height, width = together.crops[0].shape
    assert abs(top + height / 2 - 100) < 6 and abs(left + width / 2 - 40) < 6
    assert 0.5 < together.scores[0] < 1


def test_other_models_take_no_points(tmp_path):
    model = small("MODEL.QUERY_DECODER.NAME", "")
    with pytest.raises(PointsError, match=r"_seeded\.yaml"):
        model.segment_at([{"image": torch.rand(3, 64, 64), "points": torch.zeros(1, 2)}])
    BlobFinder.segment_at, kept = None, BlobFinder.segment_at
    try:
        segmenter = Segmenter(write_model(tmp_path / "model"), device="cpu")
        with pytest.raises(PointsError, match="BlobFinder takes no points"):
            segmenter.masks_at(np.zeros((30, 30), np.uint8), [(3, 3)])
    finally:
        BlobFinder.segment_at = kept
