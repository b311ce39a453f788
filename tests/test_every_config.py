"""Every shipped config: keys of Detectron2's hold what Detectron2 understands."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import build_augmentation
from detectron2.data.transforms import RandomFlip, ResizeShortestEdge
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.solver.build import GradientClipType
from torch import nn

import iaunet_d2

FOLDER = Path(__file__).resolve().parents[1] / "configs"
CONFIGS = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml"))


def leaves(node: CfgNode, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in node.items():
        inner = isinstance(value, CfgNode)
        found.update(leaves(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value})
    return found


def test_there_are_configs() -> None:
    assert len(CONFIGS) > 100 and "quickstart.yaml" in CONFIGS


@pytest.mark.parametrize("config", CONFIGS)
def test_detectron2_understands_the_config(config: str) -> None:
    cfg = iaunet_d2.get_cfg(config)
    GradientClipType(cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE)
    assert cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY
    assert cfg.MODEL.BACKBONE.NAME in BACKBONE_REGISTRY
    assert cfg.INPUT.MASK_FORMAT in ("polygon", "bitmask") and cfg.INPUT.FORMAT in ("RGB", "BGR")
    # What Detectron2's own functions make of it.
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    schedule = build_lr_scheduler(cfg, optimizer)
    schedule.last_epoch = cfg.SOLVER.MAX_ITER - 1
    optimizer.step()
    schedule.step()  # a trainer makes it after the last iteration, too
    assert 0 < optimizer.param_groups[0]["lr"] <= cfg.SOLVER.BASE_LR
    assert isinstance(optimizer, torch.optim.SGD)
    resize, flip = build_augmentation(cfg, True)
    assert isinstance(flip, RandomFlip) and isinstance(resize, ResizeShortestEdge)
    # Detectron2's mapper trains at the resolution that ours does.
    assert tuple(resize.short_edge_length) == (cfg.INPUT.IMAGE_SIZE,)
    assert resize.max_size == cfg.INPUT.IMAGE_SIZE
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert name in DatasetCatalog.list()
        metadata = MetadataCatalog.get(name)
        assert metadata.evaluator_type == "coco" and len(metadata.thing_classes) > 0
        assert metadata.json_file and metadata.image_root


@pytest.mark.parametrize("config", CONFIGS)
def test_keys_of_detectron2_s_keep_their_types(config: str) -> None:
    """Each value may be set in a config of Detectron2's alone, which checks types."""
    ours, theirs = leaves(iaunet_d2.get_cfg(config)), detectron2_cfg()
    for key in leaves(theirs).keys() & ours.keys():
        theirs.merge_from_list([key, ours[key]])


def test_a_config_with_a_data_set_trains_and_tests() -> None:
    """A config without data sets is one that others build on or are combined with."""
    for config in CONFIGS:
        cfg = iaunet_d2.get_cfg(config)
        assert bool(cfg.DATASETS.TRAIN) == bool(cfg.DATASETS.TEST), config
        if not config.startswith("base/"):
            assert cfg.DATASETS.TRAIN, config
