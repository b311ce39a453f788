"""Run by ``test_two_processes.py``: trains the toy in two processes and records each one's part.

Usage: python two_processes.py FOLDER
"""

import iaunet_d2  # first: it makes detectron2 importable

# isort: split
import json
import sys
from argparse import Namespace
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from toy_model import toy_opts, write_cells

from iaunet_d2.engine import NonFiniteLossError, Trainer
from iaunet_d2.engine.evaluate import _same_number_everywhere
from iaunet_d2.engine.launch import start

FOLDER = Path(sys.argv[1])


def config(output: str) -> CfgNode:
    name = f"coco:{FOLDER / 'cells' / 'cells.json'}:{FOLDER / 'cells' / 'images'}"
    iaunet_d2.data.ensure_registered([name])
    cfg = iaunet_d2.get_iaunet_cfg()
    cfg.merge_from_list(
        [
            *toy_opts(name, FOLDER / output),
            *("SOLVER.ACCUMULATE_STEPS", 2, "SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 2),
        ]
    )
    return cfg


def run(args: Namespace) -> int:
    train(comm.get_rank())
    train_into_nan(comm.get_rank())
    share_batches(comm.get_rank())
    return 4  # to see it arrive


def train(rank: int) -> None:
    torch.manual_seed(rank)  # as default_setup does: the weights differ until they are shared
    trainer = Trainer(config("out"))
    toy = trainer.model.module
    seen: list[str] = []
    evaluated: list[str] = []
    losses: list[float] = []
    compute_losses, find_instances = toy.losses, toy._instances

    def recorded_losses(batch: list[dict]) -> dict[str, torch.Tensor]:
        found = compute_losses(batch)
        if toy.training:
            seen.extend(Path(x["file_name"]).name for x in batch)
            losses.append(float(found["loss_mask"]))
        return found

    def recorded_instances(x: dict) -> dict:
        evaluated.append(Path(x["file_name"]).name)
        return find_instances(x)

    toy.losses, toy._instances = recorded_losses, recorded_instances
    trainer.resume_or_load(resume=False)
    trainer.train()
    latest = trainer.evaluation.latest
    record = {
        "seen": seen,
        "evaluated": evaluated,
        "losses": losses,
        "logged": [v for v, _ in trainer.storage.history("loss_mask").values()],
        "metrics": latest.metrics,
    }
    (FOLDER / f"rank{rank}.json").write_text(json.dumps(record))
    torch.save(toy.state_dict(), FOLDER / f"rank{rank}.pth")


def train_into_nan(rank: int) -> None:
    trainer = Trainer(config("nan"))
    toy = trainer.model.module
    compute_losses = toy.losses

    def poisoned(batch: list[dict]) -> dict[str, torch.Tensor]:
        found = compute_losses(batch)
        if rank == 1 and trainer.iter == 2:
            found["loss_mask"] = found["loss_mask"] * torch.nan
        return found

    toy.losses = poisoned
    try:
        trainer.train()
    except NonFiniteLossError as error:
        (FOLDER / f"error{rank}.txt").write_text(str(error))


class Given(list):
    """A loader that is shorter than it promises, as where bad files are left out."""

    def __len__(self) -> int:
        return 3


def share_batches(rank: int) -> None:
    """Of the images 0 to 2 of each process, the second has none that can be used."""
    loader = Given([] if rank else [[{"image_id": index}] for index in range(3)])
    pairs = [(b[0]["image_id"], weight) for b, weight in _same_number_everywhere(loader)]
    none = list(_same_number_everywhere(Given()))
    (FOLDER / f"shared{rank}.json").write_text(json.dumps([pairs, none]))


if __name__ == "__main__":
    write_cells(FOLDER / "cells")
    options = Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="default")
    sys.exit(start(run, options, "cpu", "default"))
