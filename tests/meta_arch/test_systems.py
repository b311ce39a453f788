"""What every system of the papers must do: take any number of instances and any size, learn one
image, find the same alone and in a batch, and survive a checkpoint.
"""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from iaunet_d2.analysis import summarize
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import IAUNetDatasetMapper, load_coco
from iaunet_d2.data.synthetic import SyntheticCells, ensure_synthetic
from iaunet_d2.engine import AtomicCheckpointer
from iaunet_d2.engine.optimizer import build_optimizer
from iaunet_d2.inference import Segmenter

# The small config of each system, smaller still.
V1_TINY = {
    "HIDDEN_DIM": 64,
    "FFN_DIM": 64,
    "NUM_QUERIES": 10,
    "LOSS.NUM_POINTS": 512,
    "LOSS.MATCHER_POINTS": 256,
}
TINY = {
    "iaunet_v1": [x for key, v in V1_TINY.items() for x in (f"MODEL.IAUNETV1.{key}", v)],
    "iau_net": [],
    "maunet": [],
    "vsm": [],
}
# Everything that is found, whatever its score.
EVERY_SCORE = {
    "iaunet_v1": ["MODEL.IAUNETV1.SCORE_THRESH", 0.0],
    "iau_net": [],
    "maunet": [],
    "vsm": ["MODEL.VSM.SCORE_THRESH", 0.0, "MODEL.VSM.DETECTOR_SCORE_THRESH", 0.0],
}
# Steps until one image is known by heart, and how often it is in a batch: statistics of VSM's batch
# norms need more than its few coarse cells.
LEARNING = {"iaunet_v1": (100, 1), "iau_net": (60, 1), "maunet": (60, 1), "vsm": (100, 2)}


@pytest.fixture(params=TINY)
def system(request):
    return request.param


@pytest.fixture
def build(system):
    def build_it(*changes):
        cfg = tiny(system, *changes)
        return build_model(cfg)

    return build_it


def tiny(system, *changes):
    cfg = get_iaunet_cfg(f"systems/{system}_small.yaml")
    sizes = ["INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 96]
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *sizes, *TINY[system], *changes])
    return cfg


def sample(height, width, count, classes=1, channels=3):
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        masks[i, i : i + 20, i : i + 30] = True
    instances = Instances((height, width))
    instances.gt_masks = BitMasks(masks)
    instances.gt_classes = torch.arange(count) % classes
    return {"image": torch.rand(channels, height, width) * 255, "instances": instances}


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (40, 2)])
def test_training_with_none_one_and_many_instances_of_two_odd_sizes(build, counts):
    model = build("MODEL.NUM_CLASSES", 2)
    losses = model([sample(70, 101, counts[0], 2), sample(96, 65, counts[1], 2)])
    assert losses and all(torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


def test_losses_in_evaluation_mode_serve_validation(build):
    model = build().eval()
    with torch.no_grad():
        losses = model.losses([sample(64, 64, 3)])
    assert all(torch.isfinite(x) and not x.requires_grad for x in losses.values())
    assert not any(m.training for m in model.modules())


def test_inference_gives_instances_at_the_original_size(system, build):
    model = build(*EVERY_SCORE[system]).eval()
    images = [{**sample(70, 101, 0), "height": 35, "width": 50}, sample(33, 64, 0)]
    sizes = [(35, 50), (33, 64)]
    for found, size in zip((x["instances"] for x in model(images)), sizes, strict=True):
        assert found.image_size == size and found.pred_masks.shape == (len(found), *size)
        assert found.pred_masks.dtype == torch.bool and found.pred_masks.flatten(1).any(1).all()
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert set(found.pred_classes.tolist()) <= {0}


def test_a_grey_image_of_one_channel(build):
    model = build("MODEL.PIXEL_MEAN", [100.0], "MODEL.PIXEL_STD", [30.0])
    assert all(torch.isfinite(x) for x in model([sample(64, 64, 2, channels=1)]).values())
    model.eval()([{"image": sample(64, 64, 0, channels=1)["image"]}])


def test_parameters_and_gmacs_can_be_counted(build):
    model = build()
    got = summarize(model, size=64)
    assert got.parameters == sum(p.numel() for p in model.parameters()) and got.gmacs > 0


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The data-set dict of a synthetic image of overlapping cells."""
    folder = tmp_path_factory.mktemp("synthetic") / "one"
    ensure_synthetic(folder, SyntheticCells(num_images=1, size=96, cells=(5, 5), seed=3))
    return load_coco(str(folder / "annotations.json"), str(folder / "images")).dicts[0]


def ap50(found, truth):
    """pycocotools' AP50 of one image's masks."""
    height, width = truth.shape[1:]
    if not len(found):  # loadRes takes no empty list
        return 0.0

    def encoded(mask):
        return rle.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))

    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1, "height": height, "width": width}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": int(m.sum())}
            | {"segmentation": encoded(m), "bbox": [0, 0, 1, 1]}
            for i, m in enumerate(truth)
        ],
    }
    coco.createIndex()
    results = [
        {"image_id": 1, "category_id": 1, "score": float(s), "segmentation": encoded(m)}
        for m, s in zip(found.pred_masks, found.scores, strict=True)
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return 100 * evaluation.stats[1]


def test_one_image_is_learnt_by_heart_and_kept_by_a_checkpoint(system, build, record, tmp_path):
    one_image = IAUNetDatasetMapper(tiny(system), is_train=False, keep_instances=True)(record)
    torch.manual_seed(0)
    model = build()
    optimizer = build_optimizer(tiny(system), model)
    steps, copies = LEARNING[system]
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(steps):
        loss = sum(model([one_image] * copies).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()
    found = model.eval()([one_image])[0]["instances"]
    assert ap50(found, one_image["instances"].gt_masks.tensor) >= 95

    AtomicCheckpointer(model, str(tmp_path)).save("model")
    other = build()
    AtomicCheckpointer(other, str(tmp_path)).load(str(tmp_path / "model.pth"))
    again = other.eval()([one_image])[0]["instances"]
    assert torch.equal(again.scores, found.scores)
    assert torch.equal(again.pred_masks, found.pred_masks)

    # In a batch with another image, and as prediction has it: from a folder, batch norms folded.
    turned = {**one_image, "image": one_image["image"].flip(2)}
    batch = other([turned, {k: v for k, v in one_image.items() if k != "instances"}])
    torch.testing.assert_close(batch[1]["instances"].scores, found.scores, atol=1e-3, rtol=1e-3)
    (tmp_path / "model.pth").rename(tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(tiny(system).dump())
    cells = Segmenter(tmp_path, device="cpu", score_thresh=0.0).predict(one_image["file_name"])
    expected = torch.sort(found.scores, descending=True).values.numpy()
    np.testing.assert_allclose(np.sort(cells.scores)[::-1], expected, atol=1e-3)
