"""The beginning of a job: command line, output folder, loggers, seeds, writers, processes."""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..config import CfgNode
from ..utils import comm
from ..utils.collect_env import collect_env_info
from ..utils.env import seed_all_rng
from ..utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ..utils.file_io import PathManager
from ..utils.logger import setup_logger

EPILOG = """
Examples:

One machine, 8 GPUs:
    $ {program} --num-gpus 8 --config-file cfg.yaml

Other values than the file's:
    $ {program} --config-file cfg.yaml MODEL.WEIGHTS weights.pth SOLVER.BASE_LR 0.001

Two machines:
    (machine0)$ {program} --machine-rank 0 --num-machines 2 --dist-url <URL> [...]
    (machine1)$ {program} --machine-rank 1 --num-machines 2 --dist-url <URL> [...]
"""


def create_ddp_model(
    model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any
) -> nn.Module:
    """Wrap the model in DistributedDataParallel where there are several processes.

    Args:
        model: on the device of this process.
        fp16_compression: send gradients as float16.
        kwargs: for DistributedDataParallel.
    """
    if comm.get_world_size() == 1:
        return model
    # torch allows device_ids for a model on one GPU only, not for one on the CPU.
    if next(model.parameters()).is_cuda:
        kwargs.setdefault("device_ids", [comm.get_local_rank()])
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        # Imported here: torch may be built without it.
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        ddp.register_comm_hook(state=None, hook=default_hooks.fp16_compress_hook)
    return ddp


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The command line of Detectron2's training scripts.

    Args:
        epilog: text below the options, instead of the examples.
    """
    parser = argparse.ArgumentParser(
        epilog=epilog or EPILOG.format(program=sys.argv[0]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="YAML file with the configuration")
    add("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, do not train")
    add("--num-gpus", type=int, default=1, help="processes (GPUs) on each machine")
    add("--num-machines", type=int, default=1, help="machines in all")
    add("--machine-rank", type=int, default=0, help="which machine this is, from 0")
    # One fixed port per user: a process left over from another run is noticed by its port.
    user = os.getuid() if sys.platform != "win32" else 1
    url = f"tcp://127.0.0.1:{49152 + user % 16384}"
    add("--dist-url", default=url, help="where the processes meet, or 'auto'; default %(default)s")
    add("opts", nargs=argparse.REMAINDER, help="config keys and values: KEY VALUE KEY VALUE ...")
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Begin a job: make OUTPUT_DIR, log the surroundings, save the config there, seed everything.

    Args:
        cfg: the whole config. ``SEED`` below 0 draws a seed; else rank r gets ``SEED + r``.
        args: the parsed command line.
    """
    rank, folder = comm.get_rank(), cfg.OUTPUT_DIR
    if comm.is_main_process() and folder:
        PathManager.mkdirs(folder)
    setup_logger(folder, distributed_rank=rank, name="fvcore")
    logger = setup_logger(folder, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    config_file = getattr(args, "config_file", "")
    if config_file:
        text = Path(config_file).read_text(encoding="utf-8")
        logger.info("Contents of args.config_file=%s:\n%s", config_file, text)
    if comm.is_main_process() and folder:
        _save_config(cfg, logger)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):
        # Choosing the fastest kernels takes time, which a validation set does not win back.
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    _set_float32_precision(cfg.get("FLOAT32_PRECISION", ""))


def _save_config(cfg: CfgNode, logger: logging.Logger) -> None:
    text, path = cfg.dump(), os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    logger.info("Running with full config:\n%s", text)
    with PathManager.open(path, "w") as file:
        file.write(text)
    logger.info("Full config saved to %s", path)


def _set_float32_precision(precision: str) -> None:
    """Precision of float32 products on CUDA: "highest", "high" or "medium"; "" leaves it alone."""
    if precision and torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the console, to ``metrics.json`` and to TensorBoard.

    Args:
        output_dir: folder of the files; made where it is absent.
        max_iter: length of the training, for the ETA.
    """
    PathManager.mkdirs(output_dir)
    metrics = os.path.join(output_dir, "metrics.json")
    return [CommonMetricPrinter(max_iter), JSONWriter(metrics), TensorboardXWriter(output_dir)]
