"""The stand-in trains like Detectron2: the same rates, groups, losses, weights and checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RATES = """
from detectron2.config import get_cfg
from detectron2.solver import build_lr_scheduler
all_rates = []
for values in cases:
    cfg = get_cfg()
    for key, value in {"BASE_LR": 0.02, "MAX_ITER": 40, "STEPS": (20, 30), **values}.items():
        cfg.SOLVER[key] = value
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(39):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    all_rates.append(rates)
"""

GROUPS = """
from detectron2.config import get_cfg
from detectron2.solver import build_optimizer, get_default_optimizer_params
norm, shared = torch.nn.GroupNorm(1, 4), torch.nn.Conv2d(4, 4, 1)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), shared, shared, norm,
    torch.nn.Embedding(5, 4), torch.nn.InstanceNorm2d(4, affine=True), torch.nn.LayerNorm(4),
)
model[0].weight.requires_grad_(False)
names = {p: n for n, p in model.named_parameters()}
def named(groups):
    return [{**g, "params": [names[p] for p in g["params"]]} for g in groups]
cfg = get_cfg()
cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.3
cfg.SOLVER.BIAS_LR_FACTOR = 2.0
cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
optimizer = build_optimizer(cfg, model)
result = {
    "rates": all_rates,
    "built": named(optimizer.param_groups),
    "type": type(optimizer).__name__,
    "wished": named(get_default_optimizer_params(
        model, base_lr=0.1, weight_decay=0.05, weight_decay_norm=0.0,
        lr_factor_func=lambda name: 0.1 if name.startswith("2.") else 1.0,
        overrides={"bias": {"lr": 0.7}, "weight": {"weight_decay": 0.01}},
    )),
    "free": named(get_default_optimizer_params(model, weight_decay_norm=0.0)),
}
"""

TRAIN = """
import json
import shutil
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.modeling import META_ARCH_REGISTRY

@META_ARCH_REGISTRY.register()
class Toy(torch.nn.Module):
    def __init__(self, cfg):
        super().__init__()
        torch.manual_seed(1)
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
            torch.nn.Conv2d(4, 1, 1),
        )
    def forward(self, batch):
        out = self.net(torch.stack([item["image"] for item in batch]))
        return {"loss_square": out.square().mean(), "loss_abs": out.abs().mean()}

class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        generator = torch.Generator().manual_seed(2)
        batch = [{"image": torch.randn(3, 8, 8, generator=generator)} for _ in range(2)]
        while True:
            yield batch

out = folder / run
if take_from is not None:
    import detectron2
    source = take_from["genuine" if "standin" in detectron2.__name__ else "standin"]
    out.mkdir()
    shutil.copy(Path(source) / "model_0000004.pth", out)
    (out / "last_checkpoint").write_text("model_0000004.pth")
cfg = get_cfg()
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.META_ARCHITECTURE = "Toy"
cfg.MODEL.WEIGHTS = ""
cfg.OUTPUT_DIR = str(out)
cfg.DATASETS.TEST = ()
cfg.TEST.EVAL_PERIOD = 0
cfg.SOLVER.merge_from_list([
    "BASE_LR", 0.05, "MAX_ITER", 10, "LR_SCHEDULER_NAME", "WarmupCosineLR", "WARMUP_ITERS", 3,
    "CHECKPOINT_PERIOD", 5, "CLIP_GRADIENTS.ENABLED", True, "CLIP_GRADIENTS.CLIP_TYPE", "norm",
    "CLIP_GRADIENTS.CLIP_VALUE", 0.05,
])
trainer = Trainer(cfg)
trainer.resume_or_load(resume=True)
start = trainer.start_iter
trainer.train()
names = ("total_loss", "loss_square", "loss_abs", "lr")
result = {
    "start": start,
    "history": {n: trainer.storage.history(n).values() for n in names},
    "model": trainer.model.state_dict(),
    "momentum": trainer.optimizer.state_dict()["state"],
    "file": torch.load(out / "model_final.pth", weights_only=True),
    "metrics": [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()],
    "files": sorted(p.name for p in out.glob("*") if "tfevents" not in p.name),
    "last": (out / "last_checkpoint").read_text(),
}
"""

RunBoth = Callable[..., tuple[Any, Any]]


def assert_same(one: Any, other: Any) -> None:
    """Equal structure, and numbers within 1e-6 (relative and absolute)."""
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_same_rates_and_groups(run_both: RunBoth) -> None:
    cases = [
        {"LR_SCHEDULER_NAME": name, "WARMUP_METHOD": method, "RESCALE_INTERVAL": rescale}
        | {"WARMUP_ITERS": warmup, "WARMUP_FACTOR": 0.1, "BASE_LR_END": 0.001, "NUM_DECAYS": 4}
        for name in ("WarmupCosineLR", "WarmupMultiStepLR", "WarmupStepWithFixedGammaLR")
        for method in ("linear", "constant")
        for rescale in (False, True)
        for warmup in (0, 7)
    ]
    standin, genuine = run_both(RATES + GROUPS, cases=cases)
    assert len(standin["rates"]) == len(cases)
    assert standin == genuine


def test_same_training_and_resuming_on_the_other(run_both: RunBoth, tmp_path: Path) -> None:
    whole = run_both(TRAIN, run="whole", take_from=None)
    standin, genuine = whole
    assert standin["files"] == genuine["files"] and standin["last"] == genuine["last"]
    for part in ("start", "history", "model", "momentum", "file"):
        assert_same(standin[part], genuine[part])
    assert_same(timeless(standin["metrics"]), timeless(genuine["metrics"]))

    folders = {side: str(tmp_path / side / "whole") for side in ("standin", "genuine")}
    resumed = run_both(TRAIN, run="resumed", take_from=folders)
    for straight, continued in zip(whole, resumed, strict=True):
        assert continued["start"] == 5
        for name, values in continued["history"].items():
            assert_same(values, straight["history"][name][5:])
        for part in ("model", "momentum", "file"):
            assert_same(continued[part], straight[part])


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of metrics.json; of durations only that they are there."""
    return [{k: 0 if "time" in k or "eta" in k else v for k, v in x.items()} for x in lines]
