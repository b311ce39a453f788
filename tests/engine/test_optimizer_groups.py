"""Which parameter learns how fast and decays how much."""

import pytest
import torch
from torch import nn

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine.errors import ConfigError
from iaunet_d2.engine.optimizer import build_optimizer, parameter_groups


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.backbone.relative_position_bias_table = nn.Parameter(torch.zeros(3))
        self.decoder = nn.ModuleDict({"linear": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
        self.queries = nn.Embedding(5, 4)
        self.query_feat = nn.Parameter(torch.zeros(4))
        self.frozen = nn.Parameter(torch.zeros(4), requires_grad=False)
        self.backbone_like = nn.Linear(4, 4, bias=False)
        self.tied = self.decoder["linear"]


def groups_by_name(model: nn.Module, *opts: object) -> dict[tuple[float, float], set[str]]:
    cfg = get_iaunet_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", 1e-3, "SOLVER.WEIGHT_DECAY", 0.05, *opts])
    names = {id(p): n for n, p in model.named_parameters()}
    return {
        (round(g["lr"], 12), g["weight_decay"]): {names[id(p)] for p in g["params"]}
        for g in parameter_groups(cfg, model)
    }


def test_exact_membership() -> None:
    assert groups_by_name(Model()) == {
        (1e-4, 0.05): {"backbone.0.weight", "backbone.0.bias"},
        (1e-4, 0.0): {
            "backbone.1.weight",
            "backbone.1.bias",
            "backbone.relative_position_bias_table",
        },
        (1e-3, 0.05): {"decoder.linear.weight", "decoder.linear.bias", "backbone_like.weight"},
        (1e-3, 0.0): {"decoder.norm.weight", "decoder.norm.bias", "queries.weight", "query_feat"},
    }


def test_switches() -> None:
    decay = "SOLVER.WEIGHT_DECAY"
    found = groups_by_name(
        Model(),
        *("SOLVER.BACKBONE_MULTIPLIER", 1.0, f"{decay}_NORM", 0.01, f"{decay}_EMBED", 0.02),
        *(f"{decay}_BIAS", 0.03, "SOLVER.BIAS_LR_FACTOR", 2.0),
    )
    assert found[(2e-3, 0.03)] == {"backbone.0.bias", "decoder.linear.bias"}
    assert found[(2e-3, 0.01)] == {"backbone.1.bias", "decoder.norm.bias"}
    assert found[(1e-3, 0.01)] == {"backbone.1.weight", "decoder.norm.weight"}
    assert found[(1e-3, 0.02)] == {
        "backbone.relative_position_bias_table",
        "queries.weight",
        "query_feat",
    }


def test_the_backbone_of_iaunet_is_found_below_its_network() -> None:
    model = nn.Module()
    model.network = Model()
    found = groups_by_name(model)
    assert found[(1e-4, 0.05)] == {
        "network.backbone.0.weight",
        "network.backbone.0.bias",
    }


def test_kinds_of_optimizer() -> None:
    cfg = get_iaunet_cfg()
    assert type(build_optimizer(cfg, Model())) is torch.optim.AdamW
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.MOMENTUM = "SGD", 0.8
    sgd = build_optimizer(cfg, Model())
    assert type(sgd) is torch.optim.SGD
    assert {g["momentum"] for g in sgd.param_groups} == {0.8}
    cfg.SOLVER.OPTIMIZER = "Adam"
    with pytest.raises(ConfigError, match="'Adam' is unknown; use 'AdamW' or 'SGD'"):
        build_optimizer(cfg, Model())
