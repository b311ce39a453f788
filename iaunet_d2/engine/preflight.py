"""What can be found out before the first iteration: wrong keys and values, no room to write."""

import difflib
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from .._seam import uses_standin
from ..config import config_path, prepare_imports
from ..config.former import former_problems, leaves, merge_former_dump, take_at_their_word
from ..config.imports import with_asked
from ..data.mixing import mix_problem
from ..data.unlabeled import is_unlabeled
from .errors import ConfigError, OutputError

logger = logging.getLogger(__name__)

STOCK_MODELS = (
    "GeneralizedRCNN",
    "ProposalNetwork",
    "RetinaNet",
    "FCOS",
    "SemanticSegmentor",
    "PanopticFPN",
)


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
        PartImportError: something that ``MODEL.IMPORTS`` names cannot be imported.
    """
    path = config_path(config_file) if config_file else ""
    imports = _merge_file(cfg, path) if path else tuple(cfg.MODEL.IMPORTS)
    misplaced = [name for name in opts[0::2] if name.startswith("--")]
    if misplaced:
        raise ConfigError(f"{misplaced[0]} must stand in front of the KEY VALUE pairs")
    if len(opts) % 2:
        raise ConfigError(f"options come as KEY VALUE pairs; {' '.join(opts)!r} has an odd number")
    settings = dict(zip(opts[0::2], opts[1::2], strict=True))
    if "MODEL.IMPORTS" in settings:
        imports = prepare_imports(cfg, settings["MODEL.IMPORTS"])
    _require_known(cfg, settings, "the command line")
    try:
        cfg.merge_from_list(list(opts))
        take_at_their_word(cfg, settings)
    except (ValueError, AssertionError, KeyError) as error:
        raise ConfigError(f"the command line: {error}") from error
    cfg.MODEL.IMPORTS = with_asked(imports)
    return path


def _merge_file(cfg: CfgNode, path: str) -> tuple[str, ...]:
    """Merge a file, and return what it imports, files as absolute paths."""
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
    _require_detectron2(loaded.get("MODEL", {}), path)
    settings = dict(leaves(loaded))
    imports = prepare_imports(cfg, settings.get("MODEL.IMPORTS", ()), path)
    try:
        if merge_former_dump(cfg, settings, path):
            return imports
        _require_known(cfg, settings, path)
        cfg.merge_from_file(path, allow_unsafe=False)
        take_at_their_word(cfg, settings)
    except (ValueError, AssertionError, KeyError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return imports


def _require_detectron2(model: Any, path: str) -> None:
    """Raise for a config of Detectron2's own models where only the stand-in is at hand."""
    name = model.get("META_ARCHITECTURE") if isinstance(model, dict) else None
    if name in STOCK_MODELS and uses_standin():
        raise ConfigError(
            f"{path}: MODEL.META_ARCHITECTURE {name} is Detectron2's own, and Detectron2 is not "
            "installed here; install it, or take a baseline of this package (configs/baselines)"
        )


def _require_known(cfg: CfgNode, settings: Mapping[str, Any], source: str) -> None:
    """Raise for keys that ``cfg`` lacks, with near ones, and for what earlier versions wrote."""
    every = list(dict(leaves(cfg)))
    known = {*every, *(k.rsplit(".", n)[0] for k in every for n in range(1, k.count(".") + 1))}
    problems = former_problems(cfg, settings)
    for key in settings:
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
    problems += _data_set_problems(cfg)
    if problems:
        raise ConfigError("; ".join(problems))
    if 0 < solver.MAX_ITER <= solver.WARMUP_ITERS and not solver.RESCALE_INTERVAL:
        logger.warning(
            "SOLVER.WARMUP_ITERS %d is not below MAX_ITER %d: the learning rate never rises.",
            solver.WARMUP_ITERS,
            solver.MAX_ITER,
        )


def _data_set_problems(cfg: CfgNode) -> list[str]:
    """What is wrong with the mixture of ``DATASETS.TRAIN``, and with unlabelled images in it."""
    names = list(cfg.DATASETS.TRAIN)
    problem = mix_problem(cfg.DATASETS.MIX, names)
    problems = [problem] if problem else []
    unlabeled = [name for name in names if is_unlabeled(name)]
    model = cfg.MODEL.META_ARCHITECTURE
    # A name that is not registered is check_model's to tell.
    if unlabeled and model in META_ARCH_REGISTRY:
        # A model that is not of this package knows nothing of such images.
        ask = getattr(META_ARCH_REGISTRY.get(model), "unlabeled_problem", None)
        if reason := ask(cfg) if ask else "does not learn from unlabelled images":
            folder = unlabeled[0].partition(":")[2]
            below = " --recursive" if folder.endswith("/**") else ""
            folder = folder.removesuffix("/**")
            problems.append(
                f"DATASETS.TRAIN names {', '.join(unlabeled)}: MODEL.META_ARCHITECTURE {model} "
                f"{reason}; it would take them for images without cells. Make pseudo-labels with a "
                "trained model, iaunet pseudo-label <model> "
                f"{folder}{below} -o pseudo.json, and name coco:pseudo.json:{folder} instead"
            )
        elif len(unlabeled) == len(names):
            problems.append(
                f"DATASETS.TRAIN names unlabelled images alone ({', '.join(unlabeled)}); name a "
                "data set with ground truth besides"
            )
    return problems


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
        raise _not_writable(output_dir, error) from error


def _not_writable(folder: str, error: OSError) -> OutputError:
    return OutputError(
        f"OUTPUT_DIR {folder!r} cannot be written ({error.strerror}); choose another: "
        "OUTPUT_DIR <folder>"
    )


def check_model(cfg: CfgNode) -> None:
    """Check that ``MODEL.META_ARCHITECTURE`` and ``MODEL.DEVICE`` exist.

    And that the model can be evaluated on ``DATASETS.TEST``: not on unlabelled images.

    Raises:
        ConfigError: one of them does not, with what does; or ground truth is missing.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    known = sorted(known for known, _ in META_ARCH_REGISTRY)
    if name not in known:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {name!r} is unknown; there are: {', '.join(known)}. A model "
            "of your own is registered by the file or module that --import or MODEL.IMPORTS names"
        )
    if unlabeled := [name for name in cfg.DATASETS.TEST if is_unlabeled(name)]:
        raise ConfigError(
            f"DATASETS.TEST names {', '.join(unlabeled)}: unlabelled images have no ground truth "
            "to evaluate with. Take them out; iaunet predict finds the cells in them"
        )
    check_device(cfg.MODEL.DEVICE)


def check_device(name: str) -> None:
    """Check that a device can be used.

    Raises:
        ConfigError: it is unknown to torch, or this machine has no such GPU.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"MODEL.DEVICE {name!r} is unknown; use cuda or cpu") from error
    if device.type != "cuda":
        return
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= gpus:
        raise ConfigError(
            f"MODEL.DEVICE {name!r}: torch finds {gpus} usable GPUs on this machine; check the "
            "driver and torch's CUDA version, or set MODEL.DEVICE cpu"
        )


def check_free_space(cfg: CfgNode, model: nn.Module) -> None:
    """Make ``OUTPUT_DIR`` and check that its disk has room for the checkpoints of the run.

    These are the periodic ones that stay, one that is being written, the final one, and the best,
    which is weights alone. What a run that is resumed has written already counts as room.

    Raises:
        OutputError: with what is needed and what is there.
    """
    folder = cfg.OUTPUT_DIR
    try:
        os.makedirs(folder, exist_ok=True)
        free = shutil.disk_usage(folder).free
        present = sum(path.stat().st_size for path in Path(folder).glob("model_*.pth"))
    except OSError as error:
        raise _not_writable(folder, error) from error
    whole, weights = checkpoint_size(cfg, model)
    count = kept_checkpoints(cfg) + 2
    needed = max(count * whole + weights - present, whole)
    if free < needed:
        raise OutputError(
            f"OUTPUT_DIR {folder!r}: {free / 2**20:.0f} MiB are free, and {count} checkpoints of "
            f"{whole / 2**20:.0f} MiB and the best weights need {needed / 2**20:.0f} MiB; make "
            "room, lower SOLVER.MAX_TO_KEEP, or choose another: OUTPUT_DIR <folder>"
        )


def checkpoint_size(cfg: CfgNode, model: nn.Module) -> tuple[int, int]:
    """Bytes of a checkpoint and of the weights alone: AdamW adds two moments of each, SGD one."""
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return weights + (2 if cfg.SOLVER.GROUPED_OPTIMIZER == "AdamW" else 1) * trained, weights


def kept_checkpoints(cfg: CfgNode) -> int:
    """How many periodic checkpoints stay at most."""
    period, limit = cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.MAX_TO_KEEP
    written = (cfg.SOLVER.MAX_ITER - 1) // period if period > 0 else 0
    return min(written, limit) if limit else written


def resuming_command() -> str:
    """The command that continues this process's run, ready to be pasted into a shell."""
    arguments = [a for a in sys.argv[1:] if a != "--resume"]
    return shlex.join(["python", sys.argv[0], "--resume", *arguments])
