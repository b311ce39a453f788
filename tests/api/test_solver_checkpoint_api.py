"""Optimizer, schedules, checkpoints: alike on either implementation."""

import logging
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.solver import (
    LRMultiplier,
    WarmupParamScheduler,
    build_lr_scheduler,
    build_optimizer,
    get_default_optimizer_params,
)
from detectron2.solver.build import maybe_add_gradient_clipping, reduce_param_groups
from fvcore.common.param_scheduler import ConstantParamScheduler, CosineParamScheduler
from torch import nn

from iaunet_d2._seam import uses_standin


def solver_cfg(**solver: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    for key, value in {"BASE_LR": 0.1, "MAX_ITER": 100, "WARMUP_ITERS": 0, **solver}.items():
        cfg.SOLVER[key] = value
    return cfg


def rates(cfg: CfgNode, iterations: int) -> list[float]:
    """Learning rate of iterations 0 to ``iterations - 1``."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    found = [first_rate(optimizer)]
    for _ in range(iterations - 1):
        optimizer.step()
        scheduler.step()
        found.append(first_rate(optimizer))
    return found


def first_rate(optimizer: torch.optim.Optimizer) -> float:
    return optimizer.param_groups[0]["lr"]


def test_cosine_follows_its_formula() -> None:
    cfg = solver_cfg(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=0.001)
    found = rates(cfg, 101)
    for k in (0, 1, 25, 50, 99, 100):
        expected = 0.001 + 0.5 * (0.1 - 0.001) * (1 + math.cos(math.pi * k / 100))
        assert found[k] == pytest.approx(expected, rel=1e-9)
    assert found[0] == pytest.approx(0.1) and found[100] == pytest.approx(0.001)


def test_linear_warmup_meets_the_cosine() -> None:
    cfg = solver_cfg(LR_SCHEDULER_NAME="WarmupCosineLR", WARMUP_ITERS=10, WARMUP_FACTOR=0.2)
    found = rates(cfg, 21)
    at_10 = 0.1 * 0.5 * (1 + math.cos(math.pi * 0.1))
    assert found[0] == pytest.approx(0.02)
    assert found[5] == pytest.approx((0.02 + at_10) / 2)
    assert found[10] == pytest.approx(at_10)
    assert found[20] == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 0.2)))


def test_warmup_with_rescaled_interval_starts_the_schedule_after_it() -> None:
    cfg = solver_cfg(
        LR_SCHEDULER_NAME="WarmupCosineLR",
        WARMUP_ITERS=20,
        WARMUP_FACTOR=0.0,
        RESCALE_INTERVAL=True,
    )
    found = rates(cfg, 61)
    assert found[10] == pytest.approx(0.05)  # half-way up to the full rate
    assert found[60] == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 0.5)))


def test_constant_warmup_then_steps() -> None:
    cfg = solver_cfg(
        LR_SCHEDULER_NAME="WarmupMultiStepLR",
        WARMUP_ITERS=4,
        WARMUP_FACTOR=0.5,
        WARMUP_METHOD="constant",
        STEPS=(50, 80),
        GAMMA=0.1,
    )
    found = rates(cfg, 100)
    expected = {0: 0.05, 3: 0.05, 5: 0.1, 49: 0.1, 50: 0.01, 79: 0.01, 80: 0.001, 99: 0.001}
    assert {k: pytest.approx(v) for k, v in expected.items()} == {k: found[k] for k in expected}


def test_steps_after_the_end_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = rates(solver_cfg(LR_SCHEDULER_NAME="WarmupMultiStepLR", STEPS=(60, 5000)), 99)
    assert found[-1] == pytest.approx(0.01)
    assert "SOLVER.STEPS" in caplog.text


def test_fixed_gamma_decays_in_equal_intervals() -> None:
    cfg = solver_cfg(LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR", NUM_DECAYS=3, GAMMA=0.5)
    found = rates(cfg, 100)
    assert [found[k] for k in (0, 24, 25, 50, 75, 99)] == pytest.approx(
        [0.1, 0.1, 0.05, 0.025, 0.0125, 0.0125]
    )


def test_schedule_errors() -> None:
    with pytest.raises(ValueError, match="Nothing"):
        rates(solver_cfg(LR_SCHEDULER_NAME="Nothing"), 1)
    with pytest.raises(ValueError, match="sideways"):
        WarmupParamScheduler(ConstantParamScheduler(1.0), 0.1, 0.5, "sideways")  # type: ignore[arg-type]
    with pytest.raises((ValueError, AssertionError)):
        rates(solver_cfg(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=1.0), 1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="ParamScheduler"):
        LRMultiplier(optimizer, lambda where: 1.0, 10)


def test_multiplier_keeps_the_ratio_of_groups_and_resumes() -> None:
    def build() -> tuple[torch.optim.Optimizer, LRMultiplier]:
        groups = [
            {"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0},
            {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1},
        ]
        optimizer = torch.optim.SGD(groups, lr=1.0)
        return optimizer, LRMultiplier(optimizer, CosineParamScheduler(1.0, 0.0), max_iter=4)

    optimizer, scheduler = build()
    optimizer.step()
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(
        [0.5 * (1 + math.sqrt(0.5)), 0.05 * (1 + math.sqrt(0.5))]
    )
    state = scheduler.state_dict()
    assert state == {"base_lrs": [1.0, 0.1], "last_epoch": 1}
    optimizer, scheduler = build()
    scheduler.load_state_dict(state)
    optimizer.step()
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.5, 0.05])


class Small(nn.Module):
    """Names and kinds of parameters: convolution, norm, a shared one and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.layer_norm = nn.LayerNorm(2)
        self.embedding = nn.Parameter(torch.zeros(3))
        self.shared = self.conv
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)


def named_groups(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [{**g, "params": [names[p] for p in g["params"]]} for g in groups]


def test_groups_without_wishes_are_all_trainable_parameters_once() -> None:
    model = Small()
    assert named_groups(model, get_default_optimizer_params(model)) == [
        {
            "params": [
                "embedding",
                *["conv.weight", "conv.bias"],
                *["norm.weight", "norm.bias", "layer_norm.weight", "layer_norm.bias"],
            ]
        }
    ]


def test_groups_by_kind_and_name() -> None:
    model = Small()
    groups = get_default_optimizer_params(
        model,
        base_lr=1.0,
        weight_decay=0.5,
        weight_decay_norm=0.0,
        lr_factor_func=lambda name: 0.1 if "conv" in name else 1.0,
        overrides={"embedding": {"weight_decay": 0.25}},
    )
    norms = ["norm.weight", "norm.bias", "layer_norm.weight", "layer_norm.bias"]
    assert named_groups(model, groups) == [
        {"params": ["embedding"], "lr": 1.0, "weight_decay": 0.25},
        {"params": ["conv.weight", "conv.bias"], "lr": 0.1, "weight_decay": 0.5},
        {"params": norms, "lr": 1.0, "weight_decay": 0.0},
    ]


def test_bias_settings_win_over_norm() -> None:
    model = Small()
    groups = get_default_optimizer_params(
        model, base_lr=1.0, weight_decay_norm=0.0, bias_lr_factor=2.0, weight_decay_bias=0.3
    )
    found = {name: g for g in named_groups(model, groups) for name in g["params"]}
    assert found["norm.bias"]["lr"] == 2.0 and found["norm.bias"]["weight_decay"] == 0.3
    assert found["norm.weight"]["weight_decay"] == 0.0
    assert "weight_decay" not in found["conv.weight"]


def test_group_errors() -> None:
    model = Small()
    with pytest.raises(ValueError, match="base_lr"):
        get_default_optimizer_params(model, bias_lr_factor=2.0)
    with pytest.raises(ValueError, match="base_lr"):
        get_default_optimizer_params(model, lr_factor_func=lambda name: 1.0)
    with pytest.raises(ValueError, match="bias"):
        get_default_optimizer_params(
            model, weight_decay_bias=0.1, overrides={"bias": {"weight_decay": 0.2}}
        )


def test_reduce_joins_equal_groups_and_later_settings_win() -> None:
    a, b, c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    groups = reduce_param_groups(
        [{"params": [a, b], "lr": 1.0}, {"params": [c], "lr": 2.0}, {"params": [a], "lr": 2.0}]
    )
    assert [(g["lr"], [id(p) for p in g["params"]]) for g in groups] == [
        (2.0, [id(a), id(c)]),
        (1.0, [id(b)]),
    ]


def clip_cfg(kind: str, value: float) -> CfgNode:
    cfg = solver_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.merge_from_list(
        ["ENABLED", True, "CLIP_TYPE", kind, "CLIP_VALUE", value, "NORM_TYPE", 2.0]
    )
    return cfg


@pytest.mark.parametrize(
    "kind, value, first, second",
    [("norm", 1.0, (-0.6, -0.8), (-0.5, 0.0)), ("value", 3.5, (-3.0, -3.5), (-0.5, 0.0))],
)
def test_clipping_is_per_parameter(
    kind: str, value: float, first: tuple[float, ...], second: tuple[float, ...]
) -> None:
    large, small = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer_type = maybe_add_gradient_clipping(clip_cfg(kind, value), torch.optim.SGD)
    assert optimizer_type.__name__ == "SGDWithGradientClip"
    optimizer = optimizer_type([large, small], lr=1.0)
    large.grad, small.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.5, 0.0])
    optimizer.step()
    torch.testing.assert_close(large.data, torch.tensor(first))
    torch.testing.assert_close(small.data, torch.tensor(second))


def test_clipping_off_on_an_object_and_of_unknown_kind() -> None:
    assert maybe_add_gradient_clipping(solver_cfg(), torch.optim.AdamW) is torch.optim.AdamW
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
    assert maybe_add_gradient_clipping(clip_cfg("norm", 1.0), optimizer) is optimizer
    assert type(optimizer).__name__ == "AdamWWithGradientClip"
    with pytest.raises(ValueError, match="sideways"):
        maybe_add_gradient_clipping(clip_cfg("sideways", 1.0), torch.optim.SGD)


def test_build_optimizer_is_sgd_with_the_configs_settings() -> None:
    cfg = solver_cfg(MOMENTUM=0.5, WEIGHT_DECAY=0.01, WEIGHT_DECAY_NORM=0.0, NESTEROV=True)
    optimizer = build_optimizer(cfg, Small())
    assert isinstance(optimizer, torch.optim.SGD)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01, 0.0]
    assert all(
        g["lr"] == 0.1 and g["momentum"] == 0.5 and g["nesterov"] for g in optimizer.param_groups
    )


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    writer = DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer)
    writer.save("model_0000004", iteration=4)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"

    other = nn.Linear(2, 1)
    fresh = torch.optim.SGD(other.parameters(), lr=0.5, momentum=0.9)
    reader = DetectionCheckpointer(other, str(tmp_path), optimizer=fresh)
    assert reader.has_checkpoint()
    assert reader.resume_or_load("", resume=True) == {"iteration": 4}
    assert torch.equal(other.weight, model.weight)
    assert fresh.param_groups[0]["lr"] == 0.1
    momentum = fresh.state[other.weight]["momentum_buffer"]
    assert torch.equal(momentum, torch.ones(1, 2))  # the gradient of the sum of x = 1


def test_weights_alone_leave_the_rest_alone(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer).save("m")
    fresh = torch.optim.SGD(model.parameters(), lr=0.5)
    reader = DetectionCheckpointer(model, str(tmp_path / "new"), optimizer=fresh)
    reader.resume_or_load(str(tmp_path / "m.pth"), resume=True)
    assert fresh.param_groups[0]["lr"] == 0.5
    assert DetectionCheckpointer(model).resume_or_load("") == {}


def test_bare_state_dict_and_module_prefix(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    torch.save({f"module.{k}": v + 1 for k, v in model.state_dict().items()}, tmp_path / "w.pth")
    weight = model.weight.detach().clone()
    DetectionCheckpointer(model).load(str(tmp_path / "w.pth"))
    assert torch.equal(model.weight, weight + 1)


class Normalised(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, 1)
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.register_buffer("other", torch.zeros(1))


def test_what_does_not_fit_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"layer.weight": torch.ones(1, 5), "surplus": torch.ones(1)}, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(Normalised()).load(str(tmp_path / "w.pth"))
    assert "(1, 5) in the checkpoint but (1, 3) in the model" in caplog.text
    assert "surplus" in caplog.text and "other" in caplog.text
    assert "pixel_mean" not in caplog.text


class Code:
    """Would make a folder when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (Path("executed"),)


def test_code_in_a_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, "hook": Code()}, "w.pth")
    with pytest.raises(pickle.UnpicklingError):
        DetectionCheckpointer(nn.Linear(1, 1)).load("w.pth")
    assert not Path("executed").exists()


def test_missing_file() -> None:
    with pytest.raises((AssertionError, OSError), match=r"nowhere\.pth"):
        DetectionCheckpointer(nn.Linear(1, 1)).load("nowhere.pth")


@pytest.mark.parametrize("name", ["R-50.pkl", "model.pyth"])
def test_legacy_pickles_are_refused(tmp_path: Path, name: str) -> None:
    if not uses_standin():
        pytest.skip("Detectron2 itself reads these files")
    (tmp_path / name).write_bytes(pickle.dumps(Code()))
    with pytest.raises(ValueError, match=f"{name} is a legacy pickle"):
        DetectionCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / name))
    assert not Path("executed").exists()


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    DetectionCheckpointer(nn.Linear(1, 1), str(tmp_path), save_to_disk=False).save("m")
    DetectionCheckpointer(nn.Linear(1, 1)).save("m")
    assert list(tmp_path.iterdir()) == []
