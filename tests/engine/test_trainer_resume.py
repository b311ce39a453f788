"""The whole trainer on a toy: what it writes, and that a resumed run is the same run."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from detectron2.config import CfgNode

from iaunet_d2.engine import ConfigError, NonFiniteLossError, Trainer
from iaunet_d2.engine.hooks import Evaluated

MakeCfg = Callable[..., CfgNode]


def train(cfg: CfgNode, resume: bool = False) -> Trainer:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def saved(cfg: CfgNode, name: str = "model_final") -> dict:
    return torch.load(Path(cfg.OUTPUT_DIR) / f"{name}.pth", weights_only=True)


def assert_same(a: object, b: object, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    else:
        assert a == b, where


def interrupt(trainer: Trainer, at: int) -> None:
    """Train until just before iteration ``at`` and drop dead there."""

    def die() -> None:
        if trainer.iter == at:
            raise KeyboardInterrupt
        Trainer.run_step(trainer)

    trainer.run_step = die
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


@pytest.mark.parametrize(("seed", "decay"), [(7, 0.0), (-1, 0.0), (7, 0.6)])
def test_resumed_run_is_the_uninterrupted_run(toy_cfg: MakeCfg, seed: int, decay: float) -> None:
    opts = (
        *("SOLVER.EMA_DECAY", decay),
        *("SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.ACCUMULATE_STEPS", 2, "SEED", seed),
        *("TEST.EVAL_PERIOD", 2, "SOLVER.EARLY_STOPPING.PATIENCE", 50, "TEST.NUM_OVERLAYS", 0),
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.WARMUP_ITERS", 3),
    )
    whole = toy_cfg(*opts, output="whole")
    first = Trainer(whole)
    parts = toy_cfg(*opts, output="parts")
    second = Trainer(parts)
    second.model.load_state_dict(first.model.state_dict())
    second.seed = first.seed
    first.train()
    interrupt(second, at=5)  # the last checkpoint is after iteration 3
    assert saved(parts, "model_0000003")["trainer"]["position"] == 4 * 2 * 2
    resumed = train(parts, resume=True)
    assert resumed.start_iter == 4 and resumed.seed == first.seed
    end = saved(whole)
    assert_same(end, saved(parts))
    assert end["trainer"]["iteration"] == 5 and end["trainer"]["position"] == 6 * 2 * 2
    assert end["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 6


def test_the_average_is_what_is_evaluated_and_kept(toy_cfg: MakeCfg) -> None:
    cfg = toy_cfg("SOLVER.EMA_DECAY", 0.25, "TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 2)
    trainer = Trainer(cfg)
    name = next(name for name, _ in trainer.model.named_parameters())
    steps, evaluated = [], []
    trainer.evaluation.listeners.append(
        lambda event: evaluated.append(trainer.model.state_dict()[name].clone())
    )

    def step() -> None:
        Trainer.run_step(trainer)
        steps.append(trainer.model.state_dict()[name].clone())

    trainer.run_step = step
    trainer.train()
    average, expected = steps[0], []
    for t, value in enumerate(steps):
        decay = min(0.25, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * value
        expected.append(average)
    assert len(steps) == 6 and not torch.equal(steps[5], expected[5])
    for got, wanted in zip(evaluated, expected[1::2], strict=True):
        torch.testing.assert_close(got, wanted)
    kept = saved(cfg)
    torch.testing.assert_close(kept["model"][name], expected[5])
    trained = kept["trainer"]["hooks"]["AveragedWeights"]["trained"][name]
    assert torch.equal(trained, steps[5])
    assert torch.equal(trainer.model.state_dict()[name], steps[5])


def test_missed_evaluation_is_made_up_for(toy_cfg: MakeCfg) -> None:
    cfg = toy_cfg("TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 2)
    trainer = Trainer(cfg)

    def die() -> None:
        raise KeyboardInterrupt

    trainer.evaluation.evaluate = die
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed = Trainer(cfg)
    resumed.resume_or_load()
    seen: list[int] = []
    resumed.evaluation.listeners = [lambda event: seen.append(event.iteration)]
    resumed.train()
    assert seen == [1, 3, 5]


def test_what_a_run_leaves(toy_cfg: MakeCfg, cells: str) -> None:
    cfg = toy_cfg("TEST.EVAL_PERIOD", 3, "SOLVER.CHECKPOINT_PERIOD", 1)
    trainer = train(cfg)
    out = Path(cfg.OUTPUT_DIR)
    names = {p.name for p in out.iterdir()}
    assert {"metrics.json", "results.json", "curves.png", "model_final.pth"} <= names
    # MAX_TO_KEEP 2: the two newest of the periodic ones, and the final one.
    kept = sorted(n for n in names if n.endswith(".pth") and n != "model_best.pth")
    assert kept == ["model_0000003.pth", "model_0000004.pth", "model_final.pth"]
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    assert any(n.startswith("events.out.tfevents") for n in names)
    overlays = sorted(p.relative_to(out / "overlays").as_posix() for p in out.glob("overlays/*/*"))
    assert overlays == ["iter_0000002/00_cell0.png", "iter_0000005/00_cell0.png"]
    picture = cv2.imread(str(out / "overlays" / overlays[0]))
    assert picture.shape == (24 + 384, 384 + 6 + 384, 3)
    assert cv2.imread(str(out / "curves.png")) is not None

    (report,) = (out / "inference").iterdir()
    assert {"per_image.csv", "pr_curves.png", "best", "worst"} <= {p.name for p in report.iterdir()}
    results = json.loads((out / "results.json").read_text())
    assert list(results) == [cells] and set(results[cells]) == {"bbox", "segm", "overlap"}
    segm = results[cells]["segm"]
    assert {"AP", "AP50", "AP75"} <= set(segm)
    assert all(v is None or 0 <= v <= 100 for v in segm.values())

    lines = [json.loads(x) for x in (out / "metrics.json").read_text().splitlines()]
    evaluated = {x["iteration"] for x in lines if "val/total_loss" in x}
    assert evaluated == {2, 5}
    assert {"total_loss", "loss_mask", "loss_size", "lr", "grad_norm"} <= set().union(*lines)
    last = [x for x in lines if "val/total_loss" in x][-1]
    assert last["val/total_loss"] == pytest.approx(last["val/loss_mask"] + last["val/loss_size"])
    assert trainer.evaluation.latest.metrics["segm/AP50"] == pytest.approx(segm["AP50"])


def test_a_finished_run_resumed_only_evaluates(toy_cfg: MakeCfg) -> None:
    cfg = toy_cfg("SOLVER.MAX_ITER", 2)
    train(cfg)
    before = saved(cfg)
    (Path(cfg.OUTPUT_DIR) / "results.json").unlink()
    trainer = train(cfg, resume=True)
    assert trainer.start_iter == 2 and trainer.completed == 2
    assert (Path(cfg.OUTPUT_DIR) / "results.json").is_file()
    assert_same(before, saved(cfg))


def test_early_stopping_ends_the_run_with_everything_at_its_end(toy_cfg: MakeCfg) -> None:
    opts = ("SOLVER.MAX_ITER", 50, "TEST.EVAL_PERIOD", 2, "SOLVER.EARLY_STOPPING.PATIENCE", 2)
    cfg = toy_cfg(*opts, "SOLVER.EARLY_STOPPING.MIN_DELTA", 1000.0)  # only the first is a gain
    trainer = train(cfg)
    assert trainer.completed == 6  # evaluations after 2 (the best), 4 and 6 iterations
    end = saved(cfg)
    assert end["trainer"]["iteration"] == 5
    assert end["trainer"]["hooks"]["EarlyStopping"]["without_gain"] == 2
    assert (Path(cfg.OUTPUT_DIR) / "results.json").is_file()
    again = train(cfg, resume=True)
    assert again.completed == 6
    cfg.SOLVER.EARLY_STOPPING.PATIENCE = 3
    assert train(cfg, resume=True).completed == 8


def test_early_stopping_by_the_evaluation_that_is_made_up_for(toy_cfg: MakeCfg) -> None:
    opts = ("SOLVER.MAX_ITER", 50, "TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 2)
    patience = ("SOLVER.EARLY_STOPPING.PATIENCE", 1, "SOLVER.EARLY_STOPPING.MIN_DELTA", 1000.0)
    cfg = toy_cfg(*opts, *patience)
    trainer = Trainer(cfg)
    evaluate = trainer.evaluation.evaluate

    def die_at_the_second() -> tuple[dict, dict]:
        if trainer.iter == 3:
            raise KeyboardInterrupt
        return evaluate()

    trainer.evaluation.evaluate = die_at_the_second
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not (Path(cfg.OUTPUT_DIR) / "model_final.pth").exists()
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == resumed.completed == 4
    assert saved(cfg)["trainer"]["iteration"] == 3
    assert saved(cfg)["trainer"]["hooks"]["EarlyStopping"]["without_gain"] == 1
    assert (Path(cfg.OUTPUT_DIR) / "results.json").is_file()


def test_the_config_is_checked_once(toy_cfg: MakeCfg) -> None:
    with pytest.raises(ConfigError, match="ACCUMULATE_STEPS 0 must be at least 1"):
        Trainer(toy_cfg("SOLVER.ACCUMULATE_STEPS", 0))


def test_best_checkpoint_holds_the_best_weights(toy_cfg: MakeCfg) -> None:
    cfg = toy_cfg("SOLVER.MAX_ITER", 8, "TEST.EVAL_PERIOD", 2, "SOLVER.BEST_METRIC", "segm/AP")
    trainer = Trainer(cfg)
    scores = iter([10.0, 30.0, 20.0, float("nan")])
    weights: list[torch.Tensor] = []

    def evaluate() -> tuple[dict, dict]:
        weights.append(trainer.model.head.weight.detach().clone())
        return {"cells": {"segm": {"AP": next(scores)}}}, {"val/total_loss": 1.0}

    trainer.evaluation.evaluate = evaluate
    trainer.train()
    best = saved(cfg, "model_best")
    assert (best["iteration"], best["metric"], best["value"]) == (3, "segm/AP", 30.0)
    assert torch.equal(best["model"]["head.weight"], weights[1])
    assert json.loads((Path(cfg.OUTPUT_DIR) / "results.json").read_text()) == {
        "cells": {"segm": {"AP": None}}
    }


def test_best_by_a_loss_is_the_smallest(toy_cfg: MakeCfg) -> None:
    from iaunet_d2.engine.hooks import BestMetric

    best = BestMetric("val/total_loss")
    gains = [
        best.improved(Evaluated(i, {}, {"val/total_loss": x})) for i, x in enumerate([3, 4, 2])
    ]
    assert gains == [True, False, True] and (best.value, best.iteration) == (2, 2)


def test_metric_that_is_not_computed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    from iaunet_d2.engine.hooks import BestMetric

    event = Evaluated(0, {"a": {"segm": {"AP": 1.0}}, "b": {}}, {"a/segm/AP": 1.0})
    assert BestMetric("segm/AP").of(event) == 1.0  # of the first of several data sets
    assert not BestMetric("segm/AP51").improved(event)
    assert "'segm/AP51' was not computed; there are: a/segm/AP" in caplog.text


def test_loss_that_is_not_finite_keeps_the_last_good_state(toy_cfg: MakeCfg) -> None:
    cfg = toy_cfg("SOLVER.MAX_ITER", 4)
    trainer = Trainer(cfg)
    losses = trainer.model.losses
    calls = []

    def poisoned(batch: list[dict]) -> dict[str, torch.Tensor]:
        calls.append([x["file_name"] for x in batch])
        found = losses(batch)
        return {**found, "loss_mask": found["loss_mask"] * (torch.inf if len(calls) == 3 else 1)}

    trainer.model.losses = poisoned
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train()
    message = str(caught.value)
    assert "iteration 2: loss_mask = inf is not finite" in message and "--resume" in message
    assert all(name in message for name in calls[2])
    state = saved(cfg, "model_0000001")
    assert state["trainer"]["iteration"] == 1
    assert not (Path(cfg.OUTPUT_DIR) / "results.json").exists()
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 2 and resumed.completed == 4
    other = toy_cfg("SOLVER.MAX_ITER", 4, output="clean")
    reference = Trainer(other)
    reference.train()
    assert_same(saved(other)["model"], saved(cfg)["model"])


def test_first_iteration_not_finite(toy_cfg: MakeCfg) -> None:
    trainer = Trainer(toy_cfg())
    torch.nn.init.constant_(trainer.model.head.bias, torch.nan)
    with pytest.raises(NonFiniteLossError, match="weights are not finite either"):
        trainer.train()
    trainer = Trainer(toy_cfg())
    trainer.model.losses = lambda batch: {"loss_mask": trainer.model.head.bias.sum() * torch.nan}
    with pytest.raises(NonFiniteLossError, match="no iteration was finished"):
        trainer.train()


def test_no_test_set(toy_cfg: MakeCfg) -> None:
    cfg = toy_cfg("DATASETS.TEST", (), "SOLVER.MAX_ITER", 1, "SOLVER.EARLY_STOPPING.PATIENCE", 1)
    train(cfg)
    assert json.loads((Path(cfg.OUTPUT_DIR) / "results.json").read_text()) == {}


def test_schedule_ends_at_the_smallest_rate(toy_cfg: MakeCfg) -> None:
    cfg = toy_cfg("SOLVER.MAX_ITER", 4, "SOLVER.BASE_LR", 1e-2, "SOLVER.BASE_LR_END", 1e-4)
    trainer = train(cfg)
    history = [v for v, _ in trainer.storage.history("lr").values()]
    # Half a cosine over 4 iterations from 1e-2 towards 1e-4: 1, 0.8551, 0.505, 0.155 of it.
    expected = [1e-4 + (1e-2 - 1e-4) * f for f in (1.0, 0.853553, 0.5, 0.146447)]
    # The group that is logged is the one with most parameters: the backbone's, at a tenth.
    assert history == pytest.approx([x * 0.1 for x in expected], rel=1e-4)
    rates = {id(p): g["lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
    for name, parameter in trainer.model.named_parameters():
        factor = 0.1 if name.startswith("backbone.") else 1.0
        assert rates[id(parameter)] == pytest.approx(1e-4 * factor), name


def test_seed_of_the_config_wins_over_the_checkpoint(
    toy_cfg: MakeCfg, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = toy_cfg("SOLVER.MAX_ITER", 1)
    train(cfg)
    cfg.SEED = 8
    trainer = Trainer(cfg)
    trainer.resume_or_load()
    assert trainer.seed == 8
    assert "began with SEED 7 and continues with 8" in caplog.text


def test_weights_of_a_config_start_a_new_run(toy_cfg: MakeCfg) -> None:
    cfg = toy_cfg("SOLVER.MAX_ITER", 1)
    train(cfg)
    weights = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    fine = toy_cfg("MODEL.WEIGHTS", weights, output="fine")
    trainer = Trainer(fine)
    trainer.resume_or_load(resume=False)
    assert trainer.start_iter == 0 and trainer.completed == 0
    assert_same(dict(trainer.model.state_dict()), dict(saved(cfg)["model"]))
