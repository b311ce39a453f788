"""The classes of the data sets, checked against the model's and against each other.

Neither disagreement shows in training: one class too many is the number that stands for "no
object", and classes in another order are evaluated under each other's names.
"""

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..meta_arch.lookup import reads_num_classes
from .errors import ClassesError

logger = logging.getLogger(__name__)

# Data sets that were told to have fewer classes than the model: (name, classes of the model).
_TOLD: set[tuple[str, int]] = set()


def class_names(name: str) -> list[str] | None:
    """``thing_classes`` of a data set's metadata; None where they are not known (yet)."""
    if name not in DatasetCatalog.list():
        return None
    classes = MetadataCatalog.get(name).get("thing_classes", None)
    return None if classes is None else list(classes)


def check_classes(cfg: CfgNode, name: str, records: list[dict[str, Any]]) -> None:
    """Check the classes of a data set that was loaded.

    Its classes must be no more than ``MODEL.NUM_CLASSES`` (fewer are told once), and, unless
    it is itself one of ``DATASETS.TRAIN``, the same as those of ``DATASETS.TRAIN``, as far as these
    are known: for evaluation alone they need not exist.

    Args:
        cfg: the config.
        name: of the data set.
        records: its data-set dicts.

    Raises:
        ClassesError: they disagree; the message names the data sets and their classes.
    """
    if reads_num_classes(cfg):
        _check_count(name, records, cfg.MODEL.NUM_CLASSES)
    if name not in cfg.DATASETS.TRAIN:
        for trained in cfg.DATASETS.TRAIN:
            _check_same(trained, name)


def check_same_training_classes(names: list[str]) -> None:
    """Check that data sets that are trained on together have the same classes.

    Raises:
        ClassesError: they have not.
    """
    classes = {_described(name): class_names(name) for name in names}
    if len({tuple(c) for c in classes.values() if c is not None}) > 1:
        raise ClassesError(
            f"the data sets of DATASETS.TRAIN have different classes: {classes}. Give their files "
            "the same categories, in the same order of ids."
        )


def _check_count(name: str, records: list[dict[str, Any]], num_classes: int) -> None:
    numbers = {a.get("category_id", 0) for r in records for a in r.get("annotations", ())}
    highest = max(numbers, default=-1) + 1
    known = class_names(name)
    count = max(len(known or ()), highest)
    # Metadata need not name the classes; then the annotations' numbers tell how many there are.
    found = known if known is not None and len(known) == count else f"numbers 0 to {count - 1}"
    if count > num_classes:
        raise ClassesError(
            f"{_described(name)}: has {count} classes ({_listed(found)}), the model has "
            f"MODEL.NUM_CLASSES {num_classes}. Set MODEL.NUM_CLASSES {count}, or "
            "leave the categories out that are not to be learnt."
        )
    if known is not None and count < num_classes and (name, num_classes) not in _TOLD:
        _TOLD.add((name, num_classes))
        logger.warning(
            "%s: has %d classes (%s), the model has MODEL.NUM_CLASSES %d: what exceeds them "
            "is never learnt. MODEL.NUM_CLASSES %d would do.",
            _described(name),
            count,
            _listed(found),
            num_classes,
            count,
        )


def _check_same(trained: str, tested: str) -> None:
    expected, found = class_names(trained), class_names(tested)
    if expected is None or found is None or expected == found:
        return
    if len(expected) == len(found) == 1:
        return  # one class under two names ("cell", "nucleus") cannot be confused
    raise ClassesError(
        f"{_described(tested)} (tested on): its classes are {_listed(found)}; those of "
        f"{_described(trained)} (DATASETS.TRAIN) are {_listed(expected)}. Results would stand "
        "under wrong names: give both files the same categories, in the same order of ids. To "
        "evaluate alone, name in DATASETS.TRAIN what the model was trained on, or nothing: ()."
    )


def _described(name: str) -> str:
    """A data set's name, and its annotation file unless that is part of the name."""
    json_file = MetadataCatalog.get(name).get("json_file", None)
    if not json_file or str(json_file) in name or name.lower().startswith("coco:"):
        return f"data set {name!r}"
    return f"data set {name!r} ({json_file})"


def _listed(found: list[str] | str, most: int = 20) -> str:
    if isinstance(found, str):
        return found
    more = f", and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(map(repr, found[:most])) + more
