"""Run by ``test_two_processes.py`` in a process of its own: trains the toy in two processes and records each one's part.

Usage: python two_processes.py FOLDER
"""

import json
import sys
from argparse import Namespace
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

import iaunet_d2
from iaunet_d2.engine import Trainer, results
from iaunet_d2.engine.launch import start

from toy_model import write_cells

FOLDER = Path(sys.argv[1])


def config() -> CfgNode:
    from conftest import toy_opts

    name = f"coco:{FOLDER / 'cells' / 'cells.json'}:{FOLDER / 'cells' / 'images'}"
    cfg = iaunet_d2.get_iaunet_cfg()
    cfg.merge_from_list(
        [
            *toy_opts(name, FOLDER / "out"),
            *("SOLVER.ACCUMULATE_STEPS", 2, "SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 2),
        ]
    )
    return cfg


def run(args: Namespace) -> int:
    cfg = config()
    iaunet_d2.data.ensure_registered(cfg.DATASETS.TRAIN)
    torch.manual_seed(comm.get_rank())  # as default_setup: the weights differ until they are shared
    trainer = Trainer(cfg)
    seen: list[str] = []
    evaluated: list[str] = []
    losses: list[float] = []
    toy = trainer.model.module
    inner = toy.losses

    def recorded(batch: list[dict]) -> dict[str, torch.Tensor]:
        found = inner(batch)
        if toy.training:
            seen.extend(Path(x["file_name"]).name for x in batch)
            losses.append(float(found["loss_mask"]))
            if args.nan and comm.get_rank() == 1 and trainer.iter == 2:
                found["loss_mask"] = found["loss_mask"] * torch.nan
        return found

    def instances(x: dict) -> dict:
        evaluated.append(Path(x["file_name"]).name)
        return inner_instances(x)

    inner_instances, toy._instances = toy._instances, instances
    toy.losses = recorded
    try:
        trainer.resume_or_load(resume=False)
        trainer.train()
    except FloatingPointError as error:
        (FOLDER / f"error{comm.get_rank()}.txt").write_text(str(error))
        return 3
    record = {
        "seen": seen,
        "evaluated": evaluated,
        "losses": losses,
        "logged": [v for v, _ in trainer.storage.history("loss_mask").values()],
        "results": results.flat_metrics(trainer.evaluation.latest.results),
        "val": trainer.evaluation.latest.metrics["val/total_loss"],
        "writers": len(list(h for h in trainer._hooks if type(h).__name__ == "ResultsWriter")),
    }
    (FOLDER / f"rank{comm.get_rank()}.json").write_text(json.dumps(record))
    torch.save(toy.state_dict(), FOLDER / f"rank{comm.get_rank()}.pth")
    return 0


if __name__ == "__main__":
    if not (FOLDER / "cells").exists():
        write_cells(FOLDER / "cells")
    nan = sys.argv[2:] == ["nan"]
    options = Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="default", nan=nan)
    sys.exit(start(run, options, "cpu", "default"))
