"""Registries, builders and small helpers of networks: alike on either implementation."""

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec, cat, nonzero_tuple
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    Backbone,
    build_backbone,
    build_model,
)
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor, nn


class Stem(Backbone):
    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__()
        self.conv = nn.Conv2d(input_shape.channels, 4, 2, stride=2)
        self._out_features = ["stem"]
        self._out_feature_channels = {"stem": 4}
        self._out_feature_strides = {"stem": 2}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"stem": self.conv(x)}


def test_registries_and_builders() -> None:
    class SolverApiModel(nn.Module):
        def __init__(self, cfg: CfgNode) -> None:
            super().__init__()
            self.backbone = build_backbone(cfg)

    META_ARCH_REGISTRY.register(SolverApiModel)
    BACKBONE_REGISTRY._do_register("SolverApiStem", Stem)
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.PIXEL_MEAN = [0.0, 0.0]
    cfg.MODEL.BACKBONE.NAME = "SolverApiStem"
    cfg.MODEL.META_ARCHITECTURE = "SolverApiModel"
    backbone = build_model(cfg).backbone
    maps = backbone(torch.zeros(1, 2, 8, 6))
    assert maps["stem"].shape == (1, 4, 4, 3)
    assert backbone.output_shape() == {"stem": ShapeSpec(channels=4, stride=2)}
    assert backbone.size_divisibility == 0 and backbone.padding_constraints == {}
    assert build_backbone(cfg, ShapeSpec(channels=5)).conv.in_channels == 5
    cfg.MODEL.META_ARCHITECTURE = "NoSuchModel"
    with pytest.raises(KeyError, match="NoSuchModel"):
        build_model(cfg)


def test_sem_seg_postprocess_cuts_padding_then_resizes() -> None:
    padded = torch.full((1, 4, 4), 9.0)
    padded[0, :2, :3] = 1.0
    result = sem_seg_postprocess(padded, (2, 3), 4, 6)
    assert torch.equal(result, torch.ones(1, 4, 6))
    ramp = torch.tensor(
        [[[0.0, 4.0]]]
    )  # pixel centres at 0.5 and 1.5; of 4 pixels at .25, .75, ...
    assert sem_seg_postprocess(ramp, (1, 2), 1, 4).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]


def test_layer_helpers() -> None:
    one = torch.ones(2, 2)
    assert cat([one]) is one
    assert cat([one, one], dim=1).shape == (2, 4)
    rows, columns = nonzero_tuple(torch.tensor([[0, 1], [2, 0]]))
    assert rows.tolist() == [0, 1] and columns.tolist() == [1, 0]
    assert nonzero_tuple(torch.tensor(3))[0].tolist() == [0]


def test_model_zoo_has_no_such_config() -> None:
    with pytest.raises(RuntimeError, match=r"No/such\.yaml"):
        model_zoo.get_config_file("No/such.yaml")
