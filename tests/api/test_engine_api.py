"""Training loop and hooks: alike on either implementation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import (
    AMPTrainer,
    BestCheckpointer,
    CallbackHook,
    EvalHook,
    HookBase,
    IterationTimer,
    LRScheduler,
    PeriodicCheckpointer,
    PeriodicWriter,
    SimpleTrainer,
    TrainerBase,
)
from detectron2.utils.events import EventStorage, EventWriter
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import Tensor, nn

from iaunet_d2._seam import uses_standin


class Weight(nn.Module):
    """One weight, 1 at first; the loss of batch x is w * x, so the gradient is x."""

    def __init__(self, names: tuple[str, ...] = ("loss_a",)) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))
        self.names = names

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: self.w * x for name in self.names}


def batches(*values: float) -> Iterator[Tensor]:
    return iter([torch.tensor(v) for v in values])


def simple(*values: float, names: tuple[str, ...] = ("loss_a",), **options: Any) -> SimpleTrainer:
    model = Weight(names)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    return SimpleTrainer(model, list(batches(*values)), sgd, **options)


class Recorder(HookBase):
    def __init__(self, events: list[str], name: str) -> None:
        self.events = events
        self.name = name

    def before_train(self) -> None:
        self.events.append(f"{self.name} before_train")

    def before_step(self) -> None:
        self.events.append(f"{self.name} before_step {self.trainer.iter}")

    def after_backward(self) -> None:
        self.events.append(f"{self.name} after_backward")

    def after_step(self) -> None:
        self.events.append(f"{self.name} after_step {self.trainer.storage.iter}")

    def after_train(self) -> None:
        self.events.append(f"{self.name} after_train {self.trainer.iter}")


def test_order_of_hooks() -> None:
    events: list[str] = []
    trainer = simple(1.0, 1.0)
    trainer.register_hooks([Recorder(events, "a"), None, Recorder(events, "b")])
    trainer.train(5, 7)
    steps = [
        f"{name} {moment}"
        for k in (5, 6)
        for moment in (f"before_step {k}", "after_backward", f"after_step {k}")
        for name in "ab"
    ]
    assert events == [
        *["a before_train", "b before_train"],
        *steps,
        *["a after_train 7", "b after_train 7"],
    ]


def test_after_train_runs_after_an_error_and_tells_it() -> None:
    class Failing(TrainerBase):
        def run_step(self) -> None:
            if self.iter == 1:
                raise KeyError("broken")

    events: list[str] = []
    trainer = Failing()
    trainer.register_hooks([Recorder(events, "a")])
    with pytest.raises(KeyError, match="broken"):
        trainer.train(0, 5)
    assert events[-1] == "a after_train 1"
    with pytest.raises((AssertionError, TypeError)):
        trainer.register_hooks(["not a hook"])  # type: ignore[list-item]


@pytest.mark.parametrize("before", [False, True])
def test_simple_trainer_takes_sgd_steps(before: bool) -> None:
    trainer = simple(1.0, 2.0, 3.0, names=("loss_a", "loss_b"), zero_grad_before_forward=before)
    with pytest.raises(StopIteration):  # the loader must not end before training does
        trainer.train(0, 4)
    # Gradient 2x (two losses): w = 1 - 0.1 * 2 * (1 + 2 + 3).
    assert trainer.model.w.item() == pytest.approx(-0.2)
    history = trainer.storage.history("total_loss").values()
    # w before each step: 1, 0.8, 0.4; loss 2 w x.
    assert [value for value, _ in history] == pytest.approx([2.0, 3.2, 2.4])
    assert trainer.storage.history("loss_b").latest() == pytest.approx(1.2)
    assert {"data_time", "rank_data_time"} <= set(trainer.storage.histories())


def test_a_single_loss_and_asynchronous_writing() -> None:
    class Bare(Weight):
        def forward(self, x: Tensor) -> Tensor:
            return self.w * x

    model = Bare()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleTrainer(model, list(batches(1.0, 1.0)), sgd, async_write_metrics=True)
    trainer.train(0, 2)
    values = trainer.storage.history("total_loss").values()
    assert values == [(1.0, 0), (pytest.approx(0.9), 1)]
    assert "loss_a" not in trainer.storage.histories()


def test_losses_are_gathered_every_so_often() -> None:
    trainer = simple(1.0, 1.0, 1.0, 1.0, gather_metric_period=2)
    trainer.train(0, 4)
    assert [k for _, k in trainer.storage.history("total_loss").values()] == [1, 3]


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    trainer = simple(1.0, float("nan"))
    with pytest.raises(FloatingPointError, match="iteration=1"):
        trainer.train(0, 2)
    assert trainer.model.w.item() == pytest.approx(0.9)


def test_eval_mode_is_refused_and_the_loader_can_be_replaced() -> None:
    trainer = simple(1.0)
    trainer.reset_data_loader(lambda: list(batches(5.0)))
    trainer.train(0, 1)
    assert trainer.model.w.item() == pytest.approx(0.5)
    trainer.model.eval()
    with pytest.raises((AssertionError, RuntimeError), match="eval mode"):
        trainer.train(0, 1)


class Stateful(HookBase):
    value = 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value = state_dict["value"]


def test_state_of_a_trainer(caplog: pytest.LogCaptureFixture) -> None:
    trainer = simple(1.0, 1.0)
    hook = Stateful()
    hook.value = 7
    trainer.register_hooks([CallbackHook(), hook])
    trainer.train(0, 2)
    state = trainer.state_dict()
    assert state["iteration"] == 2 and state["hooks"] == {"Stateful": {"value": 7}}
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.1

    other = simple(1.0)
    new_hook = Stateful()
    other.register_hooks([new_hook])
    other.load_state_dict({**state, "hooks": {**state["hooks"], "Vanished": {"a": 1}}})
    assert other.iter == 2 and new_hook.value == 7
    assert "Vanished" in caplog.text


class Scaler:
    """A gradient scaler with a fixed scale of 4."""

    def scale(self, loss: Tensor) -> Tensor:
        return loss * 4

    def get_scale(self) -> float:
        return 4.0

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad /= 4
        optimizer.step()

    def update(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"scale": 4.0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state


def amp(model: nn.Module, *values: float) -> AMPTrainer:
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    data = list(batches(*values))
    return AMPTrainer(
        model, data, sgd, grad_scaler=Scaler(), precision=torch.bfloat16, log_grad_scaler=True
    )


def test_amp_state_has_the_scaler() -> None:
    trainer = amp(Weight(), 1.0)
    state = trainer.state_dict()
    assert state["grad_scaler"] == {"scale": 4.0}
    trainer.load_state_dict(state)
    assert trainer.grad_scaler.loaded == {"scale": 4.0}


def test_amp_step() -> None:
    if not uses_standin() and not torch.cuda.is_available():
        pytest.skip("Detectron2's AMPTrainer needs CUDA")

    class Product(Weight):
        dtype: torch.dtype | None = None

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = x.to(self.w.device)
            out = self.w.reshape(1, 1) @ x.reshape(1, 1)
            self.dtype = out.dtype
            return {"loss_a": out.sum()}

    trainer = amp(Product().to("cuda" if torch.cuda.is_available() else "cpu"), 2.0)
    trainer.train(0, 1)
    assert trainer.model.dtype == torch.bfloat16
    assert trainer.model.w.item() == pytest.approx(1 - 0.1 * 2)
    assert trainer.storage.history("[metric]grad_scaler").latest() == 4.0


def run_hooks(*hooks: HookBase, iterations: int, start: int = 0) -> SimpleTrainer:
    trainer = simple(*[1.0] * iterations)
    trainer.register_hooks(list(hooks))
    trainer.train(start, start + iterations)
    return trainer


def test_callback_hook() -> None:
    seen: list[Any] = []
    hook = CallbackHook(
        before_train=lambda t: seen.append("first"),
        before_step=lambda t: seen.append(t.iter),
        after_step=lambda t: seen.append(-t.iter),
        after_train=lambda t: seen.append("last"),
    )
    run_hooks(hook, iterations=2, start=3)
    assert seen == ["first", 3, -3, 4, -4, "last"]


def test_timer_leaves_the_warmup_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        trainer = run_hooks(IterationTimer(warmup_iter=2), iterations=4)
    times = trainer.storage.history("time").values()
    assert [k for _, k in times] == [1, 2, 3]
    assert all(seconds >= 0 for seconds, _ in times)
    assert "Overall training speed: 3 iterations" in caplog.text


class Writer(EventWriter):
    def __init__(self) -> None:
        self.at: list[int | str] = []

    def write(self) -> None:
        from detectron2.utils.events import get_event_storage

        self.at.append(get_event_storage().iter)

    def close(self) -> None:
        self.at.append("closed")


def test_periodic_writer() -> None:
    writer = Writer()
    run_hooks(PeriodicWriter([writer], period=3), iterations=7)
    assert writer.at == [2, 5, 6, 7, "closed"]
    with pytest.raises((AssertionError, TypeError)):
        PeriodicWriter([object()])  # type: ignore[list-item]


def test_eval_hook_schedule_and_results() -> None:
    calls: list[int] = []

    def evaluate() -> dict[str, Any]:
        calls.append(trainer.iter)
        return {"segm": {"AP": 10.0 * len(calls)}, "speed": 1}

    trainer = simple(*[1.0] * 6)
    trainer.register_hooks([EvalHook(2, evaluate)])
    trainer.train(0, 6)
    assert calls == [1, 3, 6]  # the last one once, after training
    assert [v for v, _ in trainer.storage.history("segm/AP").values()] == [10.0, 20.0, 30.0]

    calls.clear()
    trainer = simple(*[1.0] * 2)
    trainer.register_hooks([EvalHook(0, evaluate), EvalHook(1, dict, eval_after_train=False)])
    trainer.train(0, 2)
    assert calls == [2]
    with pytest.raises(ValueError, match="segm/AP"):
        run_hooks(EvalHook(1, lambda: {"segm": {"AP": "many"}}), iterations=2)


def test_no_evaluation_after_a_failure() -> None:
    calls: list[int] = []
    trainer = simple(1.0, float("nan"), 1.0, 1.0)
    trainer.register_hooks([EvalHook(0, lambda: calls.append(1))])
    with pytest.raises(FloatingPointError):
        trainer.train(0, 4)
    assert calls == []


@pytest.mark.parametrize("mode, best, at", [("max", 5.0, 3), ("min", 1.0, 7)])
def test_best_checkpointer_keeps_the_best(tmp_path: Path, mode: Any, best: float, at: int) -> None:
    scores = iter([3.0, 5.0, float("nan"), 1.0, 5.0])
    trainer = simple(*[1.0] * 10)
    checkpointer = DetectionCheckpointer(trainer.model, str(tmp_path))
    hook = BestCheckpointer(2, checkpointer, "segm/AP", mode)
    trainer.register_hooks([EvalHook(2, lambda: {"segm": {"AP": next(scores)}}), hook])
    trainer.train(0, 10)
    assert (hook.best_metric, hook.best_iter) == (best, at)
    saved = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert saved["iteration"] == at
    # One step of 0.1 per iteration; iteration `at` is done when it is evaluated.
    assert saved["model"]["w"].item() == pytest.approx(1 - 0.1 * (at + 1), abs=1e-6)


def test_best_checkpointer_without_a_metric(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = simple(1.0, 1.0)
    checkpointer = DetectionCheckpointer(trainer.model, str(tmp_path))
    trainer.register_hooks([BestCheckpointer(1, checkpointer, "segm/AP")])
    trainer.train(0, 2)
    assert "segm/AP" in caplog.text and not list(tmp_path.iterdir())
    with pytest.raises((AssertionError, ValueError), match="sideways"):
        BestCheckpointer(1, checkpointer, "segm/AP", "sideways")  # type: ignore[arg-type]


def test_periodic_checkpointer_keeps_the_newest(tmp_path: Path) -> None:
    trainer = simple(*[1.0] * 7)
    checkpointer = DetectionCheckpointer(trainer.model, str(tmp_path))
    trainer.register_hooks([PeriodicCheckpointer(checkpointer, 2, max_to_keep=2)])
    trainer.train(0, 7)
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == [
        *["model_0000003.pth", "model_0000005.pth", "model_final.pth"]
    ]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_lr_hook_with_a_fvcore_schedule() -> None:
    trainer = simple(*[1.0] * 4)
    trainer.register_hooks([LRScheduler(scheduler=LinearParamScheduler(1.0, 0.0))])
    trainer.train(0, 4)
    found = [v for v, _ in trainer.storage.history("lr").values()]
    assert found == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert trainer.model.w.item() == pytest.approx(1 - sum(found))
    assert trainer.state_dict()["hooks"]["LRScheduler"] == {"base_lrs": [0.1], "last_epoch": 4}


def test_lr_hook_chooses_the_group_to_show() -> None:
    def optimizer(*groups: tuple[int, float]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            [
                {"params": [nn.Parameter(torch.zeros(1)) for _ in range(n)], "lr": lr}
                for n, lr in groups
            ],
            lr=1.0,
        )

    choose = LRScheduler.get_best_param_group_id
    assert choose(optimizer((1, 0.1), (3, 0.2), (2, 0.3))) == 1
    assert choose(optimizer((1, 0.3), (1, 0.1), (1, 0.1))) == 1


def test_storage_is_open_during_training_only() -> None:
    trainer = simple(1.0)
    trainer.train(0, 1)
    assert isinstance(trainer.storage, EventStorage) and trainer.storage.iter == 1
