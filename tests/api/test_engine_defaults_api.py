"""Default trainer and predictor, command line, launcher: alike on either implementation."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import (
    DefaultPredictor,
    DefaultTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    launch,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import Tensor, nn


class Weight(nn.Module):
    """One weight, 1 at first; the loss of batch x is w * x, so the gradient is x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": self.w * x}


def test_argument_parser() -> None:
    args = default_argument_parser().parse_args(
        ["--config-file", "c.yaml", "--resume", "--num-gpus", "2", "SOLVER.MAX_ITER", "5"]
    )
    assert (args.config_file, args.resume, args.eval_only) == ("c.yaml", True, False)
    assert (args.num_gpus, args.num_machines, args.machine_rank) == (2, 1, 0)
    assert args.opts == ["SOLVER.MAX_ITER", "5"]
    port = 2**15 + 2**14 + os.getuid() % 2**14
    assert args.dist_url == f"tcp://127.0.0.1:{port}"
    assert default_argument_parser("end").epilog == "end"


def toy_cfg(folder: Path, iterations: int = 4) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "EngineApiModel"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.OUTPUT_DIR = str(folder)
    cfg.DATASETS.TEST = ("engine_api",)
    cfg.SEED = 3
    cfg.SOLVER.MAX_ITER = iterations
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.STEPS = ()
    cfg.SOLVER.MOMENTUM = 0.0
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.TEST.EVAL_PERIOD = 2
    return cfg


@META_ARCH_REGISTRY.register()
class EngineApiModel(Weight):
    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return super().forward(x) if self.training else [{"got": item} for item in x]


class Mean(DatasetEvaluator):
    def reset(self) -> None:
        self.seen: list[float] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        self.seen += [out["got"]["value"] for out in outputs]

    def evaluate(self) -> dict[str, Any]:
        return {"segm": {"AP": float(np.mean(self.seen))}}


class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return [torch.tensor(1.0)] * cfg.SOLVER.MAX_ITER

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return [[{"value": float(k)}] for k in range(9)]

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return Mean()


class Silent(Trainer):
    """For trainers that are not run, which would leave their writers' files open."""

    def build_writers(self) -> list[EventWriter]:
        return []


def test_default_trainer_trains_evaluates_writes_and_resumes(tmp_path: Path) -> None:
    trainer = Trainer(toy_cfg(tmp_path))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 0
    assert trainer.train() is None
    assert trainer.model.w.item() == pytest.approx(0.6)
    assert trainer.storage.history("segm/AP").latest() == 4.0  # the mean of 0..8
    names = {p.name for p in tmp_path.iterdir()}
    assert {"model_0000001.pth", "model_final.pth", "last_checkpoint", "metrics.json"} <= names
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines[-1]["segm/AP"] == 4.0
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert set(saved) == {"model", "trainer", "iteration"} and saved["iteration"] == 3
    assert set(saved["trainer"]) == {"iteration", "hooks", "_trainer"}

    longer = Trainer(toy_cfg(tmp_path, iterations=6))
    longer.resume_or_load(resume=True)
    assert longer.start_iter == 4
    longer.train()
    assert longer.model.w.item() == pytest.approx(0.4)

    weights_only = Silent(toy_cfg(tmp_path))
    weights_only.cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    weights_only.resume_or_load(resume=False)
    assert weights_only.start_iter == 0 and weights_only.model.w.item() == pytest.approx(0.4)


def test_default_trainer_gives_access_to_its_parts(tmp_path: Path) -> None:
    trainer = Silent(toy_cfg(tmp_path))
    assert isinstance(trainer.optimizer, torch.optim.SGD) and len(trainer.data_loader) == 4
    trainer.data_loader = "another"
    assert trainer._trainer.data_loader == "another"


def test_several_test_sets(tmp_path: Path) -> None:
    cfg = toy_cfg(tmp_path)
    cfg.DATASETS.TEST = ("one", "two")
    model = EngineApiModel(cfg)
    results = Trainer.test(cfg, model, [Mean(), Mean()])
    assert results == {"one": {"segm": {"AP": 4.0}}, "two": {"segm": {"AP": 4.0}}}
    with pytest.raises((AssertionError, ValueError)):
        Trainer.test(cfg, model, [Mean()])
    cfg.DATASETS.TEST = ("one",)
    assert Trainer.test(cfg, model, Mean()) == {"segm": {"AP": 4.0}}
    with pytest.raises(NotImplementedError):
        DefaultTrainer.build_evaluator(cfg, "one")


def test_expected_results_are_verified(tmp_path: Path) -> None:
    cfg = toy_cfg(tmp_path)
    cfg.TEST.EXPECTED_RESULTS = [["segm", "AP", 4.0, 0.1]]
    assert Trainer(cfg).train() == {"segm": {"AP": 4.0}}
    cfg.TEST.EXPECTED_RESULTS = [["segm", "AP", 5.0, 0.1]]
    with pytest.raises(SystemExit):
        Trainer(cfg).train()


def test_auto_scale_workers() -> None:
    cfg = get_cfg()
    solver = cfg.SOLVER
    assert DefaultTrainer.auto_scale_workers(cfg, 16) is cfg
    solver.IMS_PER_BATCH, solver.BASE_LR, solver.REFERENCE_WORLD_SIZE = 16, 0.1, 8
    solver.MAX_ITER, solver.STEPS, solver.CHECKPOINT_PERIOD = 5000, (4000,), 1000
    solver.WARMUP_ITERS, cfg.TEST.EVAL_PERIOD = 100, 500
    cfg.freeze()
    assert DefaultTrainer.auto_scale_workers(cfg, 8) is cfg
    scaled = DefaultTrainer.auto_scale_workers(cfg, 16)
    assert scaled.is_frozen() and cfg.SOLVER.IMS_PER_BATCH == 16
    new = scaled.SOLVER
    assert (new.IMS_PER_BATCH, new.BASE_LR, new.REFERENCE_WORLD_SIZE) == (32, 0.2, 16)
    assert (new.MAX_ITER, new.STEPS, new.CHECKPOINT_PERIOD) == (2500, (2000,), 500)
    assert (new.WARMUP_ITERS, scaled.TEST.EVAL_PERIOD) == (50, 250)
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH = 9
    with pytest.raises((AssertionError, ValueError), match="REFERENCE_WORLD_SIZE"):
        DefaultTrainer.auto_scale_workers(cfg, 16)


def test_default_setup_saves_the_config_and_seeds(tmp_path: Path) -> None:
    cfg = toy_cfg(tmp_path / "new")
    drawn = []
    for _ in range(2):
        default_setup(cfg, default_argument_parser().parse_args([]))
        drawn.append((torch.rand(1).item(), float(np.random.rand())))
    assert drawn[0] == drawn[1]
    loaded = get_cfg()
    loaded.merge_from_file(str(tmp_path / "new" / "config.yaml"))
    assert loaded.OUTPUT_DIR == cfg.OUTPUT_DIR and loaded.SOLVER == cfg.SOLVER
    assert "Command line arguments" in (tmp_path / "new" / "log.txt").read_text()


@META_ARCH_REGISTRY.register()
class EngineApiEcho(nn.Module):
    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**item, "training": self.training, "w": self.w} for item in batch]


def test_default_predictor(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(1)}}, tmp_path / "w.pth")
    cfg = toy_cfg(tmp_path)
    cfg.MODEL.META_ARCHITECTURE = "EngineApiEcho"
    cfg.MODEL.WEIGHTS = str(tmp_path / "w.pth")
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 20, 30
    image = np.zeros((10, 40, 3), np.uint8)
    image[..., 0] = 7  # blue
    predictor = DefaultPredictor(cfg)
    out = predictor(image)
    # The shortest side would go to 20, but then the longest would be 80: 30 it is.
    assert out["image"].shape == (3, 8, 30) and out["image"].dtype == torch.float32
    assert out["image"][2].eq(7).all() and out["image"][:2].eq(0).all()
    assert (out["height"], out["width"]) == (10, 40)
    assert not out["training"] and out["w"].item() == 1 and not out["w"].is_inference()
    assert predictor.metadata.name == "engine_api"
    cfg.INPUT.FORMAT = "BGR"
    assert DefaultPredictor(cfg)(image)["image"][0].eq(7).all()
    cfg.INPUT.FORMAT = "L"
    with pytest.raises((AssertionError, ValueError)):
        DefaultPredictor(cfg)


def work(folder: str) -> None:
    """One training step on each of two processes, with different data."""
    rank, size = comm.get_rank(), comm.get_world_size()
    model = Weight()
    ddp = create_ddp_model(model, device_ids=None)
    trainer = SimpleTrainer(
        ddp, [torch.tensor(float(rank + 1))], torch.optim.SGD(ddp.parameters(), lr=0.1)
    )
    trainer.train(0, 1)
    # Gradients 1 and 2 are averaged, and so are the losses.
    loss = trainer.storage.history("total_loss").latest() if comm.is_main_process() else None
    result = {"rank": rank, "local": comm.get_local_rank(), "w": model.w.item(), "loss": loss}
    Path(folder, f"{rank}_of_{size}.json").write_text(json.dumps(result))


@pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would need two GPUs")
def test_launch_two_processes(tmp_path: Path) -> None:
    launch(work, 2, dist_url="auto", args=(str(tmp_path),))
    first, second = (json.loads((tmp_path / f"{k}_of_2.json").read_text()) for k in (0, 1))
    assert (first["rank"], first["local"], second["rank"], second["local"]) == (0, 0, 1, 1)
    assert first["w"] == second["w"] == pytest.approx(1 - 0.1 * 1.5)
    assert first["loss"] == pytest.approx(1.5) and second["loss"] is None


def test_launch_of_one_is_a_call() -> None:
    seen: list[int] = []
    launch(seen.append, 1, args=(4,))
    assert seen == [4]
    with pytest.raises((AssertionError, ValueError)):
        launch(seen.append, 2, num_machines=2, dist_url="auto", args=(4,))


def test_one_process_needs_no_ddp() -> None:
    model = Weight()
    assert create_ddp_model(model) is model
