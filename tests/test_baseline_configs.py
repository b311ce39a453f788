"""Every config of a baseline is the IAUNet's of the same data and backbone, with another model."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from iaunet_d2.config import get_iaunet_cfg

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "baselines"
ARCHITECTURES = {"mask_rcnn": "MaskRCNN", "pointrend": "PointRend", "mask2former": "Mask2Former"}
DATA = ("revvity", "livecell", "evican2", "isbi2014")
BACKBONES = ("r50", "r101", "swins", "swinb")
# (model, the IAUNet's config)
LEAVES = {f"{m}_{d}_{b}": (m, f"{d}_{b}") for m in ARCHITECTURES for d in DATA for b in BACKBONES}
LEAVES |= {f"{m}_small": (m, "systems/iaunet_small") for m in ("mask_rcnn", "mask2former")}
OWN_SECTIONS = ("IAUNET", "MASK_RCNN", "POINT_REND", "MASK2FORMER")


def without_the_model(cfg):
    cfg = cfg.clone()
    for key in (*OWN_SECTIONS, "META_ARCHITECTURE"):
        del cfg.MODEL[key]
    del cfg["OUTPUT_DIR"]
    return cfg


def test_every_combination_is_there_and_nothing_else():
    assert {p.stem for p in FOLDER.glob("*.yaml")} == set(LEAVES)


@pytest.mark.parametrize("name", LEAVES)
def test_only_the_model_differs_from_the_iaunet_config(name):
    model, counterpart = LEAVES[name]
    cfg, expected = get_iaunet_cfg(f"baselines/{name}.yaml"), get_iaunet_cfg(f"{counterpart}.yaml")
    assert cfg.MODEL.META_ARCHITECTURE == ARCHITECTURES[model]
    assert Path(cfg.OUTPUT_DIR).name == name
    assert without_the_model(cfg) == without_the_model(expected)


def sample(height, width, count, num_classes):
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        masks[i, i : i + 9, 2 * i : 2 * i + 12] = True
    instances = Instances((height, width))
    instances.gt_masks = BitMasks(masks)
    instances.gt_classes = torch.arange(count) % num_classes
    return {"image": torch.rand(3, height, width) * 255, "instances": instances}


@pytest.mark.parametrize(
    "name",
    [*(f"{m}_isbi2014_r50" for m in ARCHITECTURES), "mask_rcnn_small", "mask2former_small"],
)
def test_it_trains_with_none_one_and_many_instances(name):
    if name.startswith("mask2former"):
        pytest.importorskip("transformers")
    cfg = get_iaunet_cfg(f"baselines/{name}.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", False])
    cfg.merge_from_list(["MODEL.MASK2FORMER.LOSS.NUM_POINTS", 32])
    cfg.merge_from_list(["MODEL.MASK_RCNN.PROPOSALS_TRAIN", 50])
    model, classes = build_model(cfg), cfg.MODEL.NUM_CLASSES
    for counts in ((0, 1), (7, 0)):
        losses = model([sample(40, 67, counts[0], classes), sample(64, 33, counts[1], classes)])
        assert all(torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
