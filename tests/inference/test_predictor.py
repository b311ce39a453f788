"""The predictor against the evaluation path and against Detectron2's own predictor."""

import numpy as np
import pytest
import tifffile
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from PIL import Image

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import BadFileError
from iaunet_d2.engine.checkpointer import AtomicCheckpointer
from iaunet_d2.inference import Predictor

TINY = [
    "MODEL.DEVICE", "cpu",
    "MODEL.TIMM.NAME", "resnet18",
    "MODEL.IAUNET.HIDDEN_DIM", 32,
    "MODEL.IAUNET.FFN_DIM", 64,
    "MODEL.IAUNET.NUM_QUERIES", 8,
    "MODEL.IAUNET.BLOCKS_PER_LEVEL", 1,
    "MODEL.IAUNET.SCORE_THRESH", 0.0,
    "INPUT.MIN_SIZE_TEST", 64,
    "INPUT.MAX_SIZE_TEST", 64,
]  # fmt: skip


@pytest.fixture
def cfg(tmp_path):
    cfg = get_iaunet_cfg()
    cfg.merge_from_list(TINY)
    model = build_model(cfg)
    AtomicCheckpointer(model, str(tmp_path)).save_weights("weights")
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    cfg.MODEL.TIMM.PRETRAINED = True  # must not be fetched
    return cfg


def picture(*shape, top=256, dtype=np.uint8):
    return np.random.default_rng(3).integers(0, top, shape).astype(dtype)


def test_equals_detectron2s_predictor_on_colour_images(cfg):
    image = picture(48, 80, 3)
    ours = Predictor(cfg)(image)
    cfg.MODEL.TIMM.PRETRAINED = False
    theirs = DefaultPredictor(cfg)(image[..., ::-1])["instances"]  # it takes blue, green, red
    assert ours.image_size == theirs.image_size == (48, 80) and len(ours) > 0
    assert torch.equal(ours.pred_masks, theirs.pred_masks)
    torch.testing.assert_close(ours.scores, theirs.scores)


def test_a_file_and_its_array_give_the_same(cfg, tmp_path):
    predictor = Predictor(cfg)
    grey, deep = picture(40, 64), picture(40, 64, top=4000, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    tifffile.imwrite(tmp_path / "deep.tif", deep)
    for name, image in (("grey.png", grey), ("deep.tif", deep)):
        a, b = predictor(image), predictor(tmp_path / name)
        assert torch.equal(a.pred_masks, b.pred_masks) and torch.equal(a.scores, b.scores)


def test_wrong_arrays_and_weights_are_told(cfg, tmp_path):
    predictor = Predictor(cfg)
    with pytest.raises(ValueError, match="NaN"):
        predictor(np.full((8, 8), np.nan))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        predictor(np.zeros((2, 3, 4, 5)))
    with pytest.raises(BadFileError, match=r"INPUT\.CHANNELS"):
        predictor(picture(8, 8, 2))
    cfg.MODEL.WEIGHTS = ""
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is empty"):
        Predictor(cfg)


def test_weights_that_carry_code_are_refused(cfg, tmp_path):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (marker.write_text, ("code ran",))

    torch.save({"model": {}, "x": Payload()}, tmp_path / "evil.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth"):
        Predictor(cfg)
    assert not marker.exists()
