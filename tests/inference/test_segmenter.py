"""One image at a time: the same as evaluation gives, and exact on images of any kind and size."""

import json

import numpy as np
import pytest
import tifffile
import torch
from blob_model import BlobFinder, save, spots, write_model
from detectron2.modeling import build_model

from iaunet_d2 import Segmenter
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import BadFileError, build_test_loader, ensure_registered
from iaunet_d2.data.readers import pixel_limits, stretched, to_byte_range
from iaunet_d2.engine.checkpointer import AtomicCheckpointer
from iaunet_d2.inference import Predictor, segmenter, stretch
from iaunet_d2.inference.sources.base import ArrayPlane
from iaunet_d2.inference.stretch import plane_limits

TRAINED_ON = {
    "images": 10,
    "instances": 50,
    "image_side": 64.0,
    "cell_side": {"50": 6.0, "95": 8.0, "99": 9.0, "max": 12.0},
    "classes": ["nucleus"],
    "version": "0.0",
}


@pytest.fixture(autouse=True)
def _fresh():
    BlobFinder.shapes.clear()
    BlobFinder.batches.clear()


@pytest.fixture
def blobs(tmp_path):
    """A model trained on images of 64 pixels."""
    folder = write_model(tmp_path / "model")
    (folder / "training_data.json").write_text(json.dumps(TRAINED_ON))
    return Segmenter(folder, device="cpu")


def boxes_of(cells):
    return sorted(
        (top, left, *crop.shape)
        for crop, (top, left) in zip(cells.crops, cells.corners, strict=True)
    )


def test_the_instances_of_predictor_and_evaluation(tmp_path):
    cfg = get_iaunet_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.TIMM.NAME", "resnet18"),
            *("MODEL.IAUNET.HIDDEN_DIM", 32, "MODEL.IAUNET.FFN_DIM", 64),
            *("MODEL.IAUNET.NUM_QUERIES", 8, "MODEL.IAUNET.BLOCKS_PER_LEVEL", 1),
            *("MODEL.IAUNET.SCORE_THRESH", 0.0, "DATALOADER.NUM_WORKERS", 0),
            *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64, "INPUT.PERCENTILES", (2, 98)),
        ]
    )
    model = build_model(cfg).eval()
    AtomicCheckpointer(model, str(tmp_path)).save_weights("model_best")
    model.fold()  # as a Predictor does: values differ by rounding, which an untrained mask shows
    (tmp_path / "config.yaml").write_text(cfg.dump())
    rng = np.random.default_rng(3)
    images = tmp_path / "images"
    save(images / "a.png", rng.integers(0, 256, (48, 80, 3)).astype(np.uint8))
    tifffile.imwrite(images / "b.tif", rng.integers(0, 4000, (40, 64)).astype(np.uint16))
    sizes = {"a.png": (48, 80), "b.tif": (40, 64)}
    described = [
        {"id": k, "file_name": name, "height": h, "width": w}
        for k, (name, (h, w)) in enumerate(sizes.items(), 1)
    ]
    content = {"images": described, "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "set.json").write_text(json.dumps(content))
    name = f"coco:{tmp_path / 'set.json'}:{images}"
    ensure_registered([name])

    cfg.MODEL.WEIGHTS = str(tmp_path / "model_best.pth")
    segment, predict = Segmenter(tmp_path, device="cpu", score_thresh=0), Predictor(cfg)
    for batch in build_test_loader(cfg, name):
        with torch.no_grad():
            wanted = model(batch)[0]["instances"]
        found = segment.predict(batch[0]["file_name"])
        same = predict(batch[0]["file_name"])
        has_pixels = wanted.pred_masks.flatten(1).any(1).numpy()
        assert len(found) == has_pixels.sum() > 0
        frames = np.stack([found.mask(i) for i in range(len(found))])
        for instances in (wanted, same):
            assert np.array_equal(frames, instances.pred_masks.numpy()[has_pixels])
            assert np.array_equal(found.scores, instances.scores.numpy()[has_pixels])
            assert np.array_equal(found.classes, instances.pred_classes.numpy()[has_pixels])
    pixels = tifffile.imread(images / "b.tif")
    assert np.array_equal(segment.predict(pixels).scores, found.scores)
    assert len(segment.predict(pixels).above(0.99)) == len(
        Segmenter(tmp_path, device="cpu", score_thresh=0.99).predict(pixels)
    )


def test_full_frames_of_any_architecture_become_crops_best_first(blobs):
    image = spots(48, 64, (5, 7, 4, 6), (20, 30, 10, 12), (40, 60, 8, 4))
    cells = blobs.predict(image)
    assert boxes_of(cells) == [(5, 7, 4, 6), (20, 30, 10, 12), (40, 60, 8, 4)]
    assert cells.areas.tolist() == [120, 32, 24] and all(crop.all() for crop in cells.crops)
    np.testing.assert_allclose(cells.scores, [120 / 121, 32 / 33, 24 / 25], rtol=1e-6)
    assert cells.class_names == ("nucleus",) and np.array_equal(cells.pixels[..., 0], image)
    nothing = blobs.predict(spots(30, 64))
    assert len(nothing) == 0 and nothing.image_size == (30, 64) and nothing.boxes.shape == (0, 4)


def test_large_images_are_cut_into_tiles_of_the_training_size(blobs):
    places = [(top, left, 7, 9) for top in range(3, 240, 12) for left in range(2, 180, 11)]
    image = spots(250, 190, *places)
    assert blobs.tile_side((96, 40)) == 0 and blobs.tile_side((97, 40)) == 64  # 1.5 x 64
    cells = blobs.predict(image)
    assert set(BlobFinder.shapes) == {(3, 64, 64)}
    assert boxes_of(cells) == sorted(places) and np.array_equal(cells.pixels[..., 0], image)
    BlobFinder.shapes.clear()
    assert boxes_of(blobs.predict(image, tile=100)) == sorted(places)
    assert set(BlobFinder.shapes) == {(3, 100, 100)}  # the scale is the training's, for all tiles
    BlobFinder.shapes.clear()
    blobs.predict(image, tile="off")
    assert BlobFinder.shapes == [(3, 64, 49)]  # whole, as evaluation would


SEEDED = ["MODEL.QUERY_DECODER.NAME", "SeededQueryDecoder"]
FREE = [
    *("MODEL.IAUNET.COORD_CONV", "False"),
    *("MODEL.IAUNET.SE", "False"),
    *("MODEL.IAUNET.ALIGN_CORNERS", "False"),
]


@pytest.mark.parametrize(
    ("opts", "side"),
    [
        # The network's input has 64 pixels, the tile 512 at that scale.
        ([*SEEDED, *FREE], 512),
        ([*SEEDED, *FREE, "MODEL.IAUNET.COORD_CONV", "True"], 64),
        ([*SEEDED, *FREE, "MODEL.IAUNET.SE", "True"], 64),
        ([*SEEDED, *FREE, "MODEL.IAUNET.ALIGN_CORNERS", "True"], 64),
        ([*SEEDED, *FREE, "MODEL.PIXEL_DECODER.NAME", "MSDeformAttnPixelDecoder"], 64),
        (FREE, 64),
    ],
)
def test_tiles_are_larger_where_the_model_does_not_see_their_size(blobs, opts, side):
    larger = Segmenter(blobs.weights.parent, device="cpu", opts=opts)
    assert larger.tile_side((96, 40)) == 0 and larger.tile_side((97, 40)) == side
    image = spots(600, 300, (5, 7, 4, 6), (555, 230, 10, 12))
    BlobFinder.shapes.clear()
    assert boxes_of(larger.predict(image)) == [(5, 7, 4, 6), (555, 230, 10, 12)]
    assert max(max(shape) for shape in BlobFinder.shapes) == side


def test_tiles_without_training_data_get_the_size_of_the_networks_input(tmp_path):
    unknown = Segmenter(write_model(tmp_path / "m"), device="cpu", opts=["INPUT.IMAGE_SIZE", "32"])
    assert unknown.tile_side((64, 64)) == 0 and unknown.tile_side((65, 10)) == 32
    unknown.predict(spots(70, 70))
    assert set(BlobFinder.shapes) == {(3, 32, 32)} and unknown.class_names == ("cell",)
    BlobFinder.shapes.clear()
    unknown.predict(spots(70, 70), tile=50)
    assert set(BlobFinder.shapes) == {(3, 32, 32)}
    with pytest.raises(ValueError, match="'auto', 'off' or a number"):
        unknown.predict(spots(70, 70), tile="big")


def test_cells_that_are_too_large_for_the_overlap_are_told(tmp_path, caplog):
    folder = write_model(tmp_path / "model")
    large = {**TRAINED_ON, "cell_side": {"99": 60.0}}
    (folder / "training_data.json").write_text(json.dumps(large))
    image = spots(200, 64, (30, 5, 90, 50))
    cells = Segmenter(folder, device="cpu").predict(image)
    assert len(cells) >= 1
    assert "do not fit tiles of 64" in caplog.text and "reach over the border" in caplog.text


def test_grey_values_of_a_whole_plane_and_of_a_file_are_stretched_alike():
    rng = np.random.default_rng(0)
    for dtype, percentiles in ((np.uint16, ()), (np.float32, (5, 80)), (np.uint8, (1, 99))):
        pixels = (rng.random((37, 23, 2)) * 250).astype(dtype)
        pixels[..., 1] = 7
        limits = plane_limits(ArrayPlane(pixels), percentiles)
        wanted = to_byte_range(pixels, percentiles)
        assert np.array_equal(stretched(pixels, limits), wanted)
        part = stretched(pixels[5:9, 3:20], limits)
        assert np.array_equal(part, wanted[5:9, 3:20])
    assert plane_limits(ArrayPlane(pixels)) == () and stretched(pixels, ()) is pixels
    spike = np.zeros((100, 100, 1), np.uint16)
    spike[3, 3] = 9
    assert pixel_limits(spike) == ((0.0, 9.0),)


@pytest.mark.parametrize("shape", [(5000, 700, 1), (700, 5000, 1), (300, 9000, 1)])
def test_large_planes_are_measured_by_an_even_sample(shape, monkeypatch):
    monkeypatch.setattr(stretch, "EXACT_PIXELS", 16 * 256**2)
    read = []

    class Watched(ArrayPlane):
        def read(self, top, left, height, width):
            read.append(height * width)
            return super().read(top, left, height, width)

    height, width, _ = shape
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None].astype(np.float32)
    ((low, high),) = plane_limits(Watched(ramp), (10, 90))
    exact = np.percentile(ramp, (10, 90))
    assert abs(low - exact[0]) + abs(high - exact[1]) < 0.06 * ramp.max()
    assert max(read) < ramp.size / 1.1


def test_a_16_bit_image_is_stretched_as_one_however_it_is_cut(blobs, tmp_path):
    image = np.full((200, 130), 300, np.uint16)
    image[::2] = 310
    image[150:160, 100:109] = 3000  # the only cell: tiles by themselves would show noise as white
    tifffile.imwrite(tmp_path / "deep.tif", image)
    for given in (image, tmp_path / "deep.tif"):
        assert boxes_of(blobs.predict(given)) == [(150, 100, 10, 9)]


def test_planes_that_are_not_kept_in_memory_give_the_same(blobs, tmp_path, monkeypatch):
    image = (np.kron(spots(20, 13, (3, 2, 1, 1), (12, 8, 1, 1)), np.ones((10, 10))) * 9).astype(
        np.uint16
    )
    tifffile.imwrite(tmp_path / "large.tif", image)
    kept = blobs.predict(tmp_path / "large.tif")
    monkeypatch.setattr(segmenter, "KEPT_PIXELS", 1000)
    streamed = blobs.predict(tmp_path / "large.tif")
    assert streamed.pixels is None and kept.pixels is not None
    assert boxes_of(streamed) == boxes_of(kept) == [(30, 20, 10, 10), (120, 80, 10, 10)]


def test_stacks_channels_axes_and_pixel_sizes(blobs, tmp_path):
    stack = np.stack([spots(40, 50, (k, k, 6, 6)) for k in (3, 13, 23)])
    file = tmp_path / "stack.tif"
    tifffile.imwrite(file, stack, metadata={"axes": "ZYX"}, imagej=True)
    with pytest.raises(ValueError, match="one of 3 planes; predict_planes"):
        blobs.predict(file)
    found = list(blobs.predict_planes(file, pixel_size=0.5))
    assert [boxes_of(cells) for cells in found] == [[(k, k, 6, 6)] for k in (3, 13, 23)]
    assert found[1].pixel_size == (0.5, 0.5) and "z=1" in found[1].name
    assert boxes_of(blobs.predict(stack, axes="CYX", channels=(1, 1, 1))) == [(13, 13, 6, 6)]
    with pytest.raises(BadFileError, match=r"has 2 channels, the model takes 3.*--channels 0,1,2"):
        blobs.predict(stack, axes="CYX", channels=(0, 1))


def test_several_images_of_a_size_go_together(blobs, tmp_path):
    images = [spots(40, 64, (k, 9, 5, 5)) for k in range(1, 6)]
    images += [spots(64, 64, (1, 9, 5, 5)), save(tmp_path / "a.png", spots(64, 64, (2, 9, 5, 5)))]
    found = blobs.predict_batch(images, batch_size=4)
    assert [boxes_of(cells)[0][0] for cells in found] == [1, 2, 3, 4, 5, 1, 2]
    assert BlobFinder.batches == [4, 1, 2] and found[-1].name == "a.png"
    assert blobs.predict_batch([]) == []
    with pytest.raises(ValueError, match="batch size 0"):
        blobs.predict_batch(images, batch_size=0)


def test_images_of_a_batch_that_need_tiles_are_found_too(blobs):
    small, large = spots(64, 64, (1, 9, 5, 5)), spots(400, 400, (3, 9, 5, 5), (300, 390, 5, 5))
    assert blobs.tile_side((400, 400)) > 0
    found = blobs.predict_batch([small, large, large, small, small], batch_size=4)
    assert [len(cells) for cells in found] == [1, 2, 2, 1, 1]
    assert [len(cells) for cells in blobs.predict_batch([large])] == [2]


def test_what_cannot_be_used_is_told(blobs, tmp_path):
    with pytest.raises(BadFileError, match="nan"):
        blobs.predict(np.full((8, 8), np.nan))
    with pytest.raises(BadFileError, match=r"gone\.png: does not exist"):
        blobs.predict(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"in 0\.\.1 is needed"):
        Segmenter(blobs.weights, device="cpu", score_thresh=2)

    class Boxes(torch.nn.Module):
        def forward(self, batch):
            return [{"proposals": None} for _ in batch]

    blobs.model = Boxes()
    with pytest.raises(ValueError, match="gives no masks"):
        blobs.predict(spots(9, 9))
