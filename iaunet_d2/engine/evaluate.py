"""Metrics and losses of a model on the data sets of ``DATASETS.TEST``."""

import logging
import zlib
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context, inference_on_dataset
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..data import build_test_loader, build_val_loss_loader
from ..evaluation import build_evaluator, inference_folder, results_table
from .random_state import seed_by_counter
from .results import Results

logger = logging.getLogger(__name__)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without its wrapper for several processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def evaluate(cfg: CfgNode, model: nn.Module, report: bool = False) -> Results:
    """Run the model over every data set of ``DATASETS.TEST``, shared by the processes.

    Args:
        cfg: the run's config.
        model: the model.
        report: also write a row per image, curves and pictures into the folders of the predictions.

    Returns:
        data set -> task -> metric (0–100), the same on every process.
    """
    results: Results = {}
    for name in cfg.DATASETS.TEST:
        evaluator = build_evaluator(cfg, name, inference_folder(cfg, name), report)
        found = inference_on_dataset(unwrapped(model), build_test_loader(cfg, name), evaluator)
        results[name] = {
            task: {metric: float(value) for metric, value in metrics.items()}
            for task, metrics in (found or {}).items()
        }
    if comm.is_main_process() and any(results.values()):
        logger.info("Evaluation:\n%s", results_table(results))
    return comm.all_gather(results)[0]  # evaluators answer on the main process only


def validation_losses(cfg: CfgNode, model: nn.Module, seed: int) -> dict[str, float]:
    """The training loss on ``DATASETS.TEST``, without augmentation and without gradients.

    The random points of the losses are drawn from ``seed`` and the image's file name, so that two
    evaluations differ by their weights alone.

    Returns:
        ``val/<loss>`` and ``val/total_loss``, means over the images of all processes; empty for a
        model without a ``losses`` method, such as a stock Mask R-CNN.
    """
    model = unwrapped(model)
    compute_losses = getattr(model, "losses", None)
    if compute_losses is None:
        logger.info(
            "%s has no losses() for evaluation mode: no validation loss.", type(model).__name__
        )
        return {}
    sums: dict[str, float] = {}
    images = 0
    with inference_context(model), torch.no_grad():
        for name in cfg.DATASETS.TEST:
            for batch, weight in _same_number_everywhere(build_val_loss_loader(cfg, name)):
                seed_by_counter(seed, zlib.crc32(str(batch[0].get("file_name", "")).encode()))
                for key, value in compute_losses(batch).items():
                    sums[key] = sums.get(key, 0.0) + weight * float(value)
                images += weight
    gathered = comm.all_gather((sums, images))
    total = sum(count for _, count in gathered)
    if total == 0:
        return {}
    names = sorted({name for own, _ in gathered for name in own})
    means = {n: sum(own.get(n, 0.0) for own, _ in gathered) / total for n in names}
    return {"val/total_loss": sum(means.values()), **{f"val/{n}": v for n, v in means.items()}}


def _same_number_everywhere(loader: Any) -> Iterable[tuple[list[dict[str, Any]], int]]:
    """The batches with their number of images, padded by repetitions that weigh 0.

    Losses may talk between the processes (Mask2Former's normaliser does), so each must call them
    equally often.
    """
    batches = iter(loader)
    batch: list[dict[str, Any]] = next(batches, [])
    told = comm.all_gather((len(loader), bool(batch)))
    if not any(has_one for _, has_one in told):
        logger.warning("No validation image can be used: no validation loss.")
        return
    weight = len(batch)
    if not all(has_one for _, has_one in told):  # a process without any repeats another's
        batch = next(other for other in comm.all_gather(batch) if other)
    yield batch, weight
    given = 1
    for batch in batches:  # fewer than its length where bad files are left out
        yield batch, len(batch)
        given += 1
    for _ in range(max(length for length, _ in told) - given):
        yield batch, 0
