"""Every shipped config: it loads, its values are the paper's, and its model trains on images of odd
sizes.
"""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from iaunet_d2.config import config_path, get_iaunet_cfg

FOLDER = Path(__file__).resolve().parents[1] / "configs"
CONFIGS = sorted(p.relative_to(FOLDER).as_posix() for p in FOLDER.glob("*.yaml"))
PAPER = [
    f"{data}_{backbone}.yaml"
    for data in ("revvity", "livecell", "evican2", "isbi2014")
    for backbone in ("r50", "r101", "swins", "swinb")
]


def sample(height, width, count, cfg):
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        masks[i, i : i + 9, 2 * i : 2 * i + 12] = True
    instances = Instances((height, width))
    instances.gt_masks = BitMasks(masks)
    instances.gt_classes = torch.arange(count) % cfg.MODEL.NUM_CLASSES
    return {
        "image": torch.rand(len(cfg.MODEL.PIXEL_MEAN), height, width) * 255,
        "instances": instances,
    }


def test_the_paper_configs_are_all_there():
    assert set(PAPER) <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_builds_and_trains_with_none_one_and_many_instances(name):
    cfg = get_iaunet_cfg(name)
    if name in PAPER:
        assert cfg.MODEL.TIMM.PRETRAINED and cfg.MODEL.IAUNET.NUM_QUERIES == 100
        assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.IMS_PER_BATCH) == (
            1e-4,
            0.05,
            8,
        )
        assert (cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE, cfg.INPUT.IMAGE_SIZE) == (0.8, 1.5, 512)
        assert cfg.MODEL.NUM_CLASSES == (2 if name.startswith("isbi2014") else 1)
    assert Path(cfg.OUTPUT_DIR).name == Path(name).stem
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", False])
    cfg.merge_from_list(
        ["MODEL.IAUNET.LOSS.NUM_POINTS", 32, "MODEL.IAUNET.LOSS.MATCHER_POINTS", 32]
    )
    model = build_model(cfg)
    for counts in ((0, 1), (7, 0)):
        losses = model([sample(40, 67, counts[0], cfg), sample(64, 33, counts[1], cfg)])
        assert all(torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "name", ["revvity_r50.yaml", "configs/revvity_r50.yaml", "base/iaunet.yaml"]
)
def test_configs_are_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(config_path(name)).is_file()


def test_a_config_that_is_not_there_names_the_places():
    with pytest.raises(FileNotFoundError, match=r"nope\.yaml.*searched"):
        config_path("nope.yaml")
