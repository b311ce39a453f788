"""The command line of training: Detectron2's own, with errors that say what to do."""

import logging
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import get_iaunet_cfg, without_part_weights
from ..config.imports import add_import_argument, import_asked, keep_imports
from ..data import ensure_registered
from .checkpointer import AtomicCheckpointer
from .errors import ConfigError, NonFiniteLossError
from .evaluate import evaluate
from .launch import first_to_tell, start
from .pixel_statistics import fill_pixel_statistics
from .preflight import check_writable, merge_config, resuming_command
from .results import detectron2_results, write_results
from .trainer import Trainer
from .training_data import write_training_data

logger = logging.getLogger(__name__)

USER_ERROR = 2
NOT_FINITE = 3
INTERRUPTED = 130

PACKAGE = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Train, resume or evaluate as the command line says.

    Args:
        argv: arguments after the program's name; None takes those of this process.

    Returns:
        The exit code: 0; 2 for an error of the user's, told in one line; 3 when the loss was not
        finite; 130 after Ctrl-C. Other errors are raised.
    """
    parser = argument_parser()
    args = parser.parse_args(argv)
    try:
        # Before any process starts, so that an error comes at once and only once.
        cfg = load_config(args)
        check_writable(cfg.OUTPUT_DIR)
        return start(run_guarded, args, cfg.MODEL.DEVICE, parser.get_default("dist_url"))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError) as error:
        if not is_users(error):
            raise
        logger.error("%s", one_message(error))
        return USER_ERROR


def argument_parser() -> ArgumentParser:
    """Detectron2's: ``--config-file``, ``--resume``, ``--eval-only``, ``--num-gpus``, …; and
    ``--import``.
    """
    parser = default_argument_parser()
    add_import_argument(parser)
    return parser


def load_config(args: Namespace) -> CfgNode:
    """The config: defaults, then ``--config-file``, then ``KEY VALUE`` pairs; not yet frozen.

    ``args.config_file`` becomes the path that was found.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: a key or a value is wrong, or ``--eval-only`` has no weights to evaluate.
    """
    import_asked(args.imports)
    cfg = get_iaunet_cfg()
    args.config_file = merge_config(cfg, args.config_file, args.opts or [])
    if args.eval_only and not (cfg.MODEL.WEIGHTS or args.resume):
        raise ConfigError(
            "--eval-only needs weights: MODEL.WEIGHTS <file>, or --resume for the last checkpoint "
            "of OUTPUT_DIR"
        )
    if _weights_are_replaced(cfg, args):
        without_part_weights(cfg)
    return cfg


def _weights_are_replaced(cfg: CfgNode, args: Namespace) -> bool:
    """Whether a checkpoint replaces the backbone's weights: they then need not be fetched."""
    if args.resume and Path(cfg.OUTPUT_DIR, "last_checkpoint").is_file():
        return True
    return bool(cfg.MODEL.WEIGHTS) and cfg.MODEL.WEIGHTS_STRICT


def setup(args: Namespace) -> CfgNode:
    """Everything before the model: config, folder, logs, seeds, data sets.

    Returns:
        The frozen config.
    """
    cfg = load_config(args)
    if not (args.eval_only or _weights_are_replaced(cfg, args)):
        fill_pixel_statistics(cfg)
    keep_imports(cfg, write=comm.is_main_process())
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="iaunet_d2")
    # To evaluate, the training images need not be at hand.
    names = [*(() if args.eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST]
    ensure_registered(names, cfg.INPUT.CROWD, cfg.INPUT.ON_BAD_FILE)
    return cfg


def run(args: Namespace) -> None:
    """Train or evaluate in this process, one of several or the only one."""
    cfg = setup(args)
    # What a network has learnt leaves gradients of 1e-40, which take a CPU many times as long.
    torch.set_flush_denormal(True)
    try:
        if args.eval_only:
            evaluate_only(cfg, args.resume)
            return
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        if comm.is_main_process():
            write_training_data(cfg)
        trainer.train()
    finally:
        torch.set_flush_denormal(False)


def evaluate_only(cfg: CfgNode, resume: bool) -> None:
    """Evaluate ``MODEL.WEIGHTS`` or the last checkpoint, and write ``results.json``.

    Raises:
        ConfigError: there is neither.
    """
    model = Trainer.build_model(cfg)
    checkpointer = AtomicCheckpointer(model, cfg.OUTPUT_DIR, strict=cfg.MODEL.WEIGHTS_STRICT)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise ConfigError(
            f"--eval-only: OUTPUT_DIR {cfg.OUTPUT_DIR!r} has no checkpoint, and MODEL.WEIGHTS is "
            "empty; give one of them: MODEL.WEIGHTS <file>, or OUTPUT_DIR <folder of a run>"
        )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = evaluate(cfg, model, report=True)
    if comm.is_main_process():
        logger.info("Results: %s", write_results(results, cfg.OUTPUT_DIR))
        verify_results(cfg, detectron2_results(results))


def run_guarded(args: Namespace) -> int:
    """:func:`run`, with errors of the user's told in one line, and in full in ``log.txt``.

    Returns:
        The exit code; see :func:`main`.
    """
    try:
        run(args)
    except KeyboardInterrupt:
        if comm.is_main_process():
            logger.warning("Interrupted. Continue from the last checkpoint: %s", resuming_command())
        return INTERRUPTED
    except NonFiniteLossError as error:
        _tell(error)
        return NOT_FINITE
    except (ValueError, OSError, RuntimeError) as error:
        if not is_users(error):
            raise
        _tell(error)
        return USER_ERROR
    return 0


def is_users(error: BaseException) -> bool:
    """Whether this package raised an error on purpose, and so has said what to do.

    An error that came up inside a library is a defect, and keeps its traceback.
    """
    if type(error).__module__.startswith("iaunet_d2"):
        return True
    if isinstance(error, RuntimeError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and PACKAGE in Path(frames[-1].filename).resolve().parents


def one_message(error: BaseException) -> str:
    """The error's own words; what a data-loading process wrapped around them is left out."""
    text = str(error).strip()
    if "Original Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2] or text
    return text


def _tell(error: BaseException) -> None:
    """Show the message once, from whichever process; put it into every log file with its traceback.

    Only the main process logs to the console. Another one's message goes to stderr.
    """
    message = one_message(error)
    handlers = logging.getLogger("iaunet_d2").handlers
    files = [h for h in handlers if not _is_console(h)]
    if first_to_tell(message):
        if handlers and len(files) == len(handlers):
            sys.stderr.write(f"process {comm.get_rank()}: {message}\n")
            sys.stderr.flush()
        logger.error("%s", message)
    else:
        _log_to(files, message)
    _log_to(files, "Details:", error)


def _is_console(handler: logging.Handler) -> bool:
    return getattr(handler, "stream", None) in (sys.stdout, sys.stderr)


def _log_to(
    handlers: Sequence[logging.Handler], message: str, error: BaseException | None = None
) -> None:
    cause = (type(error), error, error.__traceback__) if error is not None else None
    record = logger.makeRecord(
        logger.name, logging.ERROR, __file__, 0, "%s", (message,), cause, "_tell"
    )
    for handler in handlers:
        handler.handle(record)
