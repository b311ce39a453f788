"""Runs of configs under Detectron2's own trainer, mapper, loaders and evaluator, nothing of ours.

A run trains some iterations, evaluates and leaves a checkpoint; a line each says which Detectron2
was in use, how the loss went, and what ``COCOEvaluator`` found. Stock SGD clips each parameter by
itself, and ``DatasetMapper`` resizes and flips one way: the figures show that it works, not how
good a model can be.

Usage: ``python benchmarks/stock_runs.py [CONFIG ...] [--iterations 40]``
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import iaunet_d2  # makes detectron2 importable, and registers models and data sets

# isort: split
import detectron2
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator

CONFIGS = (
    "quickstart.yaml",
    "comparison/worms_iaunet.yaml",
    "baselines/mask_rcnn_small.yaml",
    "systems/vsm_small.yaml",
    "systems/maunet_small.yaml",
)


class Trainer(DefaultTrainer):
    """Detectron2's trainer, which evaluates by COCO's rules."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Return Detectron2's evaluator, without its compiled part."""
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR, use_fast_impl=False)


def run(config: str, iterations: int, folder: str) -> dict[str, Any]:
    """Train and evaluate one config; return the losses and the masks' AP and AP50."""
    cfg = iaunet_d2.get_cfg(config)
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", iterations, "DATALOADER.NUM_WORKERS", 0),
            *("SOLVER.IMS_PER_BATCH", 2, "TEST.EVAL_PERIOD", iterations, "OUTPUT_DIR", folder),
        ]
    )
    cfg.freeze()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    masks = trainer._last_eval_results.get("segm", {})
    if not Path(folder, "model_final.pth").is_file():
        raise RuntimeError(f"{config} left no model_final.pth")
    return {
        "optimizer": type(trainer.optimizer).__mro__[1].__name__,
        "first": sum(losses[:5]) / 5,
        "last": sum(losses[-5:]) / 5,
        "AP": masks.get("AP", float("nan")),
        "AP50": masks.get("AP50", float("nan")),
    }


def main() -> None:
    """Run the configs one after the other, and write a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", default=CONFIGS, metavar="CONFIG")
    parser.add_argument("--iterations", type=int, default=40, metavar="N")
    args = parser.parse_args()
    for config in args.configs:
        with tempfile.TemporaryDirectory() as folder:
            found = run(config, args.iterations, folder)
        sys.stdout.write(
            f"{config}: detectron2 {detectron2.__version__}, {args.iterations} iterations of "
            f"{found['optimizer']}, loss {found['first']:.2f} -> {found['last']:.2f} (means of 5), "
            f"AP {found['AP']:.2f}, AP50 {found['AP50']:.2f}, model_final.pth\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
