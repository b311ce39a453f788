"""The training step against hand-worked updates."""

import math
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine.errors import ConfigError, NonFiniteLossError
from iaunet_d2.engine.optimizer import build_clipper
from iaunet_d2.engine.step import AmpStep, Step, build_step


class Slope(nn.Module):
    """loss = mean((w x - y)^2); its gradient is 2 mean(x (w x - y))."""

    def __init__(self, w: float = 2.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))
        self.norm = nn.BatchNorm1d(1, affine=False)

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        x, y = (torch.tensor([float(item[k]) for item in batch]) for k in "xy")
        if len(batch) > 1:
            self.norm(x.view(-1, 1))
        return {"loss_square": ((self.w * x - y) ** 2).mean(), "loss_zero": 0 * self.w}


def batch(*pairs: tuple[float, float]) -> list[dict]:
    return [{"x": x, "y": y, "file_name": f"{x:g}.png"} for x, y in pairs]


def one_step(batches: list[list[dict]], model: nn.Module, *opts: object, rate: float = 0.1) -> Step:
    cfg = get_iaunet_cfg()
    cfg.merge_from_list(["SOLVER.ACCUMULATE_STEPS", len(batches), *opts])
    step = build_step(cfg, model, torch.optim.SGD(model.parameters(), lr=rate))
    step.feed(batches)
    step.iter = 17
    with EventStorage(17) as storage:
        step.run_step()
    step.storage = storage
    return step


def test_accumulation_is_the_mean_over_all_samples() -> None:
    # Gradient at w = 2: 2 * mean(1 * (2-1), 2 * (4-2), 3 * (6-9), 4 * (8-4)) = 2 * 12 / 4 = 6.
    model = Slope()
    step = one_step([batch((1, 1), (2, 2)), batch((3, 9), (4, 4))], model)
    assert model.w.item() == pytest.approx(2 - 0.1 * 6)
    together = Slope()
    one_step([batch((1, 1), (2, 2), (3, 9), (4, 4))], together)
    assert together.w.item() == pytest.approx(model.w.item())
    # Loss: mean(1, 4, 9, 16) = 7.5.
    latest = {name: value for name, (value, _) in step.storage.latest().items()}
    assert latest["loss_square"] == pytest.approx(7.5)
    assert latest["total_loss"] == pytest.approx(7.5)
    assert latest["grad_norm"] == pytest.approx(6)


# CLIP_TYPE and FULL_MODEL.
KINDS = [("norm", True), ("norm", False), ("value", True)]


@pytest.mark.parametrize(("kind", "full_model"), KINDS)
def test_clipping_limits_the_update(kind: str, full_model: bool) -> None:
    model = Slope()
    clip = "SOLVER.CLIP_GRADIENTS"
    opts = (f"{clip}.ENABLED", True, f"{clip}.CLIP_TYPE", kind, f"{clip}.CLIP_VALUE", 0.5)
    # gradient 2 * 3 * 6 = 36
    one_step([batch((3, 0))], model, *opts, f"{clip}.FULL_MODEL", full_model)
    assert model.w.item() == pytest.approx(2 - 0.1 * 0.5)


@pytest.mark.parametrize(
    ("kind", "full_model", "expected"),
    [
        ("norm", True, (0.6, 0.8)),
        ("norm", False, (1.0, 1.0)),
        ("value", True, (1.0, 1.0)),
        ("value", False, (1.0, 1.0)),
        (None, True, (3.0, 4.0)),
    ],
)
def test_kinds_of_clipping(
    kind: str | None, full_model: bool, expected: tuple[float, float]
) -> None:
    cfg = get_iaunet_cfg()
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_VALUE, clip.FULL_MODEL = kind is not None, 1.0, full_model
    clip.CLIP_TYPE = kind or "norm"
    parameters = [
        nn.Parameter(torch.zeros(1)),
        nn.Parameter(torch.zeros(1)),
        nn.Parameter(torch.zeros(1)),
    ]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert build_clipper(cfg)(parameters).item() == pytest.approx(5)
    assert [p.grad.item() for p in parameters[:2]] == pytest.approx(list(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("norms", "'norms' is unknown; write norm or value"),
        ("full_model", r"'full_model' .* norm, with SOLVER.CLIP_GRADIENTS.FULL_MODEL True"),
    ],
)
def test_unknown_clip_type_is_told(kind: str, remedy: str) -> None:
    cfg = get_iaunet_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = True, kind
    with pytest.raises(ConfigError, match=remedy):
        build_clipper(cfg)


def test_a_loss_that_is_not_finite_names_itself_and_the_files_and_changes_nothing() -> None:
    model = Slope()
    with pytest.raises(NonFiniteLossError) as caught:
        one_step([batch((1, 1), (2, 2)), batch((3, math.nan), (5, 1))], model)
    message = str(caught.value)
    assert "iteration 17" in message and "loss_square = nan" in message
    assert "3.png, 5.png" in message
    assert "1.png" not in message and "loss_zero" not in message
    assert model.w.item() == 2.0
    assert model.norm.num_batches_tracked.item() == 0
    assert model.norm.running_mean.item() == 0.0


def test_gradients_that_are_not_finite_stop_before_the_update() -> None:
    class Root(Slope):
        def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
            return {"loss_root": torch.sqrt(self.w - 2)}  # value 0, slope infinite

    model = Root()
    with pytest.raises(NonFiniteLossError, match=r"gradient norm = inf.*1\.png"):
        one_step([batch((1, 1))], model)
    assert model.w.item() == 2.0


def test_bfloat16_on_the_cpu() -> None:
    class Matrix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4, bias=False)
            self.types: list[torch.dtype] = []

        def forward(self, batch: list[dict]) -> torch.Tensor:
            out = self.linear(torch.ones(2, 4))
            self.types.append(out.dtype)
            return out.float().square().mean()

    model = Matrix()
    before = model.linear.weight.detach().clone()
    one_step([batch((1, 1))], model, "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "bfloat16")
    assert model.types == [torch.bfloat16]
    assert model.linear.weight.dtype == torch.float32
    assert not torch.equal(model.linear.weight, before)


def test_precision_that_does_not_exist_here() -> None:
    amp = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION")
    with pytest.raises(ConfigError, match="float16 needs a CUDA device"):
        one_step([batch((1, 1))], Slope(), *amp, "float16")
    with pytest.raises(ConfigError, match="'float8' is unknown"):
        one_step([batch((1, 1))], Slope(), *amp, "float8")


def test_norm_of_a_skipped_update_is_not_logged() -> None:
    """An overflow that the loss scaler takes care of is no number for ``metrics.json``."""
    model = Slope()
    options = {"clip": lambda _: torch.tensor(torch.inf), "precision": torch.bfloat16}
    scaler = SimpleNamespace(
        scale=lambda loss: loss,
        unscale_=lambda _: None,
        get_scale=lambda: 65536.0,
        step=lambda _: None,
        update=lambda: None,
    )
    step = AmpStep(model, torch.optim.SGD(model.parameters(), 0.1), grad_scaler=scaler, **options)
    step.feed([batch((1, 1))])
    step.iter = 17
    with EventStorage(17) as storage:
        step.run_step()
    latest = storage.latest()
    assert "grad_norm" not in latest
    assert all(math.isfinite(value) for value, _ in latest.values())


def test_evaluation_mode_is_refused() -> None:
    cfg = get_iaunet_cfg()
    model = Slope()
    step = build_step(cfg, model, torch.optim.SGD(model.parameters(), lr=0.1))
    model.eval()
    with pytest.raises(RuntimeError, match="evaluation mode"):
        step.run_step()


def test_scaler_state_of_a_run_without_one() -> None:
    cfg = get_iaunet_cfg()
    model = Slope()
    plain = build_step(cfg, model, torch.optim.SGD(model.parameters(), lr=0.1)).state_dict()
    cfg.merge_from_list(["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "bfloat16"])
    amp = build_step(cfg, model, torch.optim.SGD(model.parameters(), lr=0.3))
    amp.load_state_dict(plain)
    assert amp.optimizer.param_groups[0]["lr"] == 0.1
