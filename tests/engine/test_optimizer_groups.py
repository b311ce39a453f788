"""Which parameter learns how fast and decays how much."""

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

import iaunet_d2
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine import Trainer
from iaunet_d2.engine.errors import ConfigError
from iaunet_d2.engine.optimizer import build_optimizer, grouped_optimizer, parameter_groups


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
    cfg.SOLVER.GROUPED_OPTIMIZER, cfg.SOLVER.MOMENTUM = "SGD", 0.8
    sgd = build_optimizer(cfg, Model())
    assert type(sgd) is torch.optim.SGD
    assert {g["momentum"] for g in sgd.param_groups} == {0.8}
    cfg.SOLVER.GROUPED_OPTIMIZER = "Adam"
    with pytest.raises(ConfigError, match="'Adam' is unknown; use 'AdamW' or 'SGD'"):
        build_optimizer(cfg, Model())


class Pair(nn.Module):
    """Two weights with the gradients 3 and 4 (and a third without), their norm is 5."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unused = (nn.Parameter(torch.zeros(1)) for _ in range(3))

    def forward(self) -> torch.Tensor:
        return 3 * self.a + 4 * self.b


def sgd_cfg(**clip: object) -> CfgNode:
    """Plain SGD at the rate 1, so that weights move by minus their clipped gradients."""
    cfg = get_iaunet_cfg()
    solver = cfg.SOLVER
    solver.GROUPED_OPTIMIZER, solver.MOMENTUM, solver.WEIGHT_DECAY = "SGD", 0.0, 0.0
    solver.BASE_LR = 1.0
    solver.CLIP_GRADIENTS.merge_from_list([x for pair in clip.items() for x in pair])
    return cfg


@pytest.mark.parametrize(
    ("clip", "moved"),
    [
        ({"ENABLED": True}, (-0.6, -0.8)),
        ({"ENABLED": True, "FULL_MODEL": False}, (-1.0, -1.0)),
        ({"ENABLED": True, "CLIP_TYPE": "value", "CLIP_VALUE": 3.5}, (-3.0, -3.5)),
        ({"ENABLED": False}, (-3.0, -4.0)),
    ],
)
def test_the_optimizer_clips_before_every_step(
    clip: dict[str, object], moved: tuple[float, float]
) -> None:
    model = Pair()
    optimizer = build_optimizer(sgd_cfg(**{"CLIP_VALUE": 1.0, **clip}), model)
    for count in (1, 2):
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
        expected = [count * x for x in moved]
        assert [model.a.item(), model.b.item()] == pytest.approx(expected, rel=1e-5)
    assert model.unused.item() == 0
    # What a checkpoint holds is that of any optimiser, with or without clipping.
    plain = grouped_optimizer(sgd_cfg(), Pair())
    plain.load_state_dict(optimizer.state_dict())


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="torch has it for CUDA alone")
def test_a_loss_scaler_unscales_before_the_clipping() -> None:
    model = Pair()
    optimizer = build_optimizer(sgd_cfg(ENABLED=True, CLIP_VALUE=10.0), model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(model()).backward()
    assert model.a.grad is not None and model.a.grad.item() == 3 * 1024
    scaler.step(optimizer)
    # The norm 5 is below the limit of 10, that of the scaled gradients is not.
    assert [model.a.item(), model.b.item()] == pytest.approx([-3.0, -4.0])


def test_our_trainer_s_optimizer_leaves_clipping_to_the_step() -> None:
    model = Pair()
    cfg = sgd_cfg(ENABLED=True, CLIP_VALUE=1.0)
    optimizer = Trainer.build_optimizer(cfg, model)
    model().backward()
    optimizer.step()
    assert [model.a.item(), model.b.item()] == [-3.0, -4.0]


def test_the_package_exports_it() -> None:
    assert iaunet_d2.build_optimizer is build_optimizer
