"""What can be found out before the first iteration: wrong keys and values, no room to write."""

import difflib
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode
from torch import nn

from ..config import config_path
from .errors import ConfigError, OutputError

logger = logging.getLogger(__name__)

CHECKPOINTS_OF_ROOM = 3


def merge_config(cfg: CfgNode, config_file: str, opts: Sequence[str]) -> str:
    """Merge a YAML file and then ``KEY VALUE`` pairs into ``cfg``, in place.

    Args:
        cfg: has every known key.
        config_file: a path, or a name below the shipped ``configs/``; empty for none.
        opts: keys and values in turn.

    Returns:
        The path of the file that was read; empty for none.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: a key is unknown (the message offers near ones), a value has the wrong type, or
            the YAML is broken.
    """
    path = config_path(config_file) if config_file else ""
    if path:
        _merge_file(cfg, path)
    misplaced = [name for name in opts[0::2] if name.startswith("--")]
    if misplaced:
        raise ConfigError(f"{misplaced[0]} must stand in front of the KEY VALUE pairs")
    if len(opts) % 2:
        raise ConfigError(f"options come as KEY VALUE pairs; {' '.join(opts)!r} has an odd number")
    _require_known(cfg, opts[0::2], "the command line")
    try:
        cfg.merge_from_list(list(opts))
    except (ValueError, AssertionError, KeyError) as error:
        raise ConfigError(f"the command line: {error}") from error
    return path


def _merge_file(cfg: CfgNode, path: str) -> None:
    try:
        loaded = CfgNode.load_yaml_with_base(path)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} builds on a file (_BASE_) that does not exist: {error.filename}"
        ) from error
    except TypeError as error:  # fvcore looks for a key in what an empty file gives: None
        raise ConfigError(f"{path}, or a file it builds on, is empty") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} holds no keys")
    _require_known(cfg, list(_leaves(loaded)), path)
    try:
        cfg.merge_from_file(path, allow_unsafe=False)
    except (ValueError, AssertionError, KeyError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _leaves(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, name + ".")
        else:
            yield name


def _require_known(cfg: CfgNode, keys: Sequence[str], source: str) -> None:
    """Raise for keys that ``cfg`` lacks, each with known ones that look or end like it."""
    every = list(_leaves(cfg))
    known = {*every, *(k.rsplit(".", n)[0] for k in every for n in range(1, k.count(".") + 1))}
    problems = []
    for key in keys:
        if key in known or _is_in_dict(cfg, key):
            continue
        last = key.rpartition(".")[2]
        same_name = [k for k in every if k.rpartition(".")[2] == last]
        near = [*same_name, *difflib.get_close_matches(key, every, n=3, cutoff=0.75)]
        hint = f"; did you mean {' or '.join(dict.fromkeys(near[:3]))}?" if near else ""
        problems.append(f"unknown config key {key}{hint}")
    if problems:
        raise ConfigError(f"{source}: " + "; ".join(problems))


def _is_in_dict(cfg: CfgNode, key: str) -> bool:
    """Whether a key lies in a node that takes any key, or was renamed or dropped with notice."""
    node: Any = cfg
    if cfg.key_is_deprecated(key) or cfg.key_is_renamed(key):
        return True
    for part in key.split("."):
        if not isinstance(node, CfgNode):
            return False
        if part not in node:
            return node.is_new_allowed()
        node = node[part]
    return True


def check_config(cfg: CfgNode, processes: int) -> None:
    """Check values that would fail later, or in silence.

    Raises:
        ConfigError: naming the key, its value, and what would do.
    """
    solver = cfg.SOLVER
    batch = solver.IMS_PER_BATCH
    rules = (
        (len(cfg.DATASETS.TRAIN) > 0, "DATASETS.TRAIN is empty; name at least one data set"),
        (solver.MAX_ITER > 0, f"SOLVER.MAX_ITER {solver.MAX_ITER} must be at least 1"),
        (
            batch > 0 and batch % processes == 0,
            f"SOLVER.IMS_PER_BATCH {batch} must be a multiple of the {processes} processes",
        ),
        (
            solver.ACCUMULATE_STEPS > 0,
            f"SOLVER.ACCUMULATE_STEPS {solver.ACCUMULATE_STEPS} must be at least 1",
        ),
        (
            0 <= solver.BASE_LR_END <= solver.BASE_LR,
            f"SOLVER.BASE_LR_END {solver.BASE_LR_END} must lie between 0 and BASE_LR "
            f"{solver.BASE_LR}",
        ),
        (
            not cfg.TEST.PRECISE_BN.ENABLED,
            "TEST.PRECISE_BN is not supported by this trainer; set TEST.PRECISE_BN.ENABLED False",
        ),
    )
    problems = [message for fine, message in rules if not fine]
    if problems:
        raise ConfigError("; ".join(problems))
    if 0 < solver.MAX_ITER <= solver.WARMUP_ITERS and not solver.RESCALE_INTERVAL:
        logger.warning(
            "SOLVER.WARMUP_ITERS %d is not below MAX_ITER %d: the learning rate never rises.",
            solver.WARMUP_ITERS,
            solver.MAX_ITER,
        )


def check_writable(output_dir: str) -> None:
    """Make the folder, and a file in it for a moment.

    Raises:
        OutputError: one of both cannot be done.
    """
    probe = os.path.join(output_dir, f".writable.{os.getpid()}")
    try:
        os.makedirs(output_dir, exist_ok=True)
        with open(probe, "wb") as stream:
            stream.write(b"x" * 4096)
        os.remove(probe)
    except OSError as error:
        raise OutputError(
            f"OUTPUT_DIR {output_dir!r} cannot be written ({error.strerror}); choose another: "
            "OUTPUT_DIR <folder>"
        ) from error


def check_free_space(output_dir: str, model: nn.Module) -> None:
    """Check that the disk has room for a few checkpoints.

    A checkpoint holds the weights and two moments of each (AdamW).

    Raises:
        OutputError: with what is needed and what is there.
    """
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    needed = CHECKPOINTS_OF_ROOM * 3 * weights
    free = shutil.disk_usage(output_dir).free
    if free < needed:
        raise OutputError(
            f"OUTPUT_DIR {output_dir!r}: {free / 2**20:.0f} MiB are free, and "
            f"{CHECKPOINTS_OF_ROOM} checkpoints of "
            f"this model need {needed / 2**20:.0f} MiB; make room or choose another: OUTPUT_DIR "
            "<folder>"
        )


def resuming_command() -> str:
    """The command that continues this process's run, ready to be pasted into a shell."""
    arguments = [a for a in sys.argv[1:] if a != "--resume"]
    return shlex.join(["python", sys.argv[0], "--resume", *arguments])
