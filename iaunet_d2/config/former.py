"""Read configs of earlier versions, or say what to write in their place.

Their keys and values stood in the way of Detectron2's own trainer and mapper. A key of
Detectron2's that a config names without ours means what Detectron2 means by it.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)

_KEYS = {"SOLVER.OPTIMIZER": "SOLVER.GROUPED_OPTIMIZER"}

_VALUES = {
    ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"): "norm, with "
    "SOLVER.CLIP_GRADIENTS.FULL_MODEL True",
    ("INPUT.RANDOM_FLIP", "both"): "horizontal, with INPUT.FLIP_BOTH True",
}

# What only a whole config of an earlier version holds.
_OF_A_DUMP = {*_KEYS, *(key for key, _ in _VALUES), "MODEL.BACKBONE.NAME", "VIS_PERIOD"}

# Detectron2's keys, and ours that say what our mapper and trainer do beyond them.
_EXTENDED = {
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "SOLVER.CLIP_GRADIENTS.FULL_MODEL",
    "INPUT.RANDOM_FLIP": "INPUT.FLIP_BOTH",
}


def register_former_keys(cfg: CfgNode) -> None:
    """Have ``cfg`` tell the new name where a file or a list names a former key."""
    for old, new in _KEYS.items():
        # A name that Detectron2 has come to use is Detectron2's.
        if not (cfg.key_is_renamed(old) or has_key(cfg, old)):
            cfg.register_renamed_key(old, new)


def merge_former_dump(cfg: CfgNode, settings: Mapping[str, Any], source: str) -> bool:
    """Merge a whole config that training wrote with an earlier version, as it was meant.

    Args:
        cfg: the config, in place.
        settings: keys and values of the file.
        source: the file, for the warning.

    Returns:
        whether it was such a file; any other is not merged.
    """
    if not _OF_A_DUMP <= set(settings):
        return False
    now = dict(settings)
    now["SOLVER.GROUPED_OPTIMIZER"] = now.pop("SOLVER.OPTIMIZER")
    for key, ours in _EXTENDED.items():
        now[ours] = bool(instead_of(key, now[key]))
        if now[ours]:
            now[key] = instead_of(key, now[key]).partition(",")[0]
    if now.get("MODEL.BACKBONE.NAME") == "build_resnet_backbone":  # which no model of ours read
        own = "csp_darknet" if now.get("MODEL.META_ARCHITECTURE") == "VSM" else "timm"
        now["MODEL.BACKBONE.NAME"] = f"build_{own}_backbone"
    cfg.merge_from_other_cfg(type(cfg)(_nested(now)))
    logger.warning("%s is a config of an earlier version, and is read as it was meant.", source)
    return True


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys with dots as nested dicts."""
    root: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, last = key.split(".")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return root


def former_problems(cfg: CfgNode, settings: Mapping[str, Any]) -> list[str]:
    """Say what is out of date in keys and values to be merged into ``cfg``, and the remedy."""
    problems = [
        f"{old} is now {new}; write {new} {settings[old]}"
        for old, new in _KEYS.items()
        if old in settings and not has_key(cfg, old)
    ]
    for key, value in settings.items():
        if now := instead_of(key, value):
            problems.append(f"{key} {value} is now {now}")
    return problems


def instead_of(key: str, value: Any) -> str:
    """Return what to write instead of a value of earlier versions; empty for any other."""
    return _VALUES.get((key, value), "") if isinstance(value, str) else ""


def take_at_their_word(cfg: CfgNode, settings: Mapping[str, Any]) -> None:
    """Turn off, in place, what ours would add to a key of Detectron2's that is named alone.

    A config that says ``RANDOM_FLIP: vertical`` and nothing of ``FLIP_BOTH`` flips one way, as it
    always did.
    """
    for theirs, ours in _EXTENDED.items():
        if theirs in settings and ours not in settings:
            cfg.merge_from_list([ours, False])


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of a nested dict, with dots between their parts, and their values."""
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from leaves(value, name + ".")
        else:
            yield name, value


def has_key(cfg: CfgNode, name: str) -> bool:
    """Whether ``cfg`` has a key, whose parts have dots between."""
    node: Any = cfg
    for part in name.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            return False
        node = node[part]
    return True
