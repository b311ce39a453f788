"""The images of a data set, looked at before training starts."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from .errors import BadFileError
from .readers import image_size, read_image

logger = logging.getLogger(__name__)

CHECK_MODES = ("header", "full", "none")
_SHOWN = 10
_THREADS = 8
# Data sets whose crowd regions were told.
_TOLD: set[str] = set()


def check_files(
    dataset_dicts: Sequence[dict[str, Any]],
    mode: str = "header",
    on_bad: str = "stop",
    reader: Callable[[str], Any] = read_image,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Check that every image exists, opens, and has the size that the annotation file states.

    Args:
        dataset_dicts: Detectron2's standard dicts.
        mode: ``"header"`` reads the first bytes of each file; ``"full"`` decodes it too; ``"none"``
            checks nothing.
        on_bad: ``"stop"`` raises; ``"skip"`` leaves bad images out and reports them.
        reader: decodes one file, in mode ``"full"``.
        progress: show a progress bar when it takes more than two seconds.

    Returns:
        The dicts of the good images, in their order.

    Raises:
        BadFileError: bad images with ``"stop"``, naming the first ten; or none is left with
            ``"skip"``.
        ValueError: unknown ``mode`` or ``on_bad``.
    """
    if mode not in CHECK_MODES or on_bad not in ("stop", "skip"):
        raise ValueError(
            f"INPUT.CHECK_FILES {mode!r} must be one of {CHECK_MODES}, INPUT.ON_BAD_FILE "
            f"{on_bad!r} 'stop' or 'skip'"
        )
    if mode == "none":
        return list(dataset_dicts)
    decode = reader if mode == "full" else None
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda record: _problem(record, decode), dataset_dicts)
        total, name = len(dataset_dicts), "checking images"
        bar = tqdm(found, name, total, unit="image", delay=2, disable=not progress)
        problems = list(bar)
    bad = [p for p in problems if p]
    if bad and (on_bad == "stop" or len(bad) == len(problems)):
        raise BadFileError(_summary(bad, len(problems)) + _remedy(on_bad))
    if bad:
        summary = _summary(bad, len(problems))
        logger.warning("%s\nThey are left out (INPUT.ON_BAD_FILE skip).", summary)
    return [record for record, p in zip(dataset_dicts, problems, strict=True) if not p]


def _problem(record: dict[str, Any], decode: Callable[[str], Any] | None) -> str:
    """What is wrong with an image; empty if nothing is."""
    try:
        check_size(record, image_size(record["file_name"]))
        if decode is not None:
            decode(record["file_name"])
    except BadFileError as error:
        return str(error)
    return ""


def check_size(record: dict[str, Any], size: tuple[int, int]) -> None:
    """Compare an image's size (height, width) with what its data-set dict states, if it does.

    Raises:
        BadFileError: they differ.
    """
    stated = (record.get("height", size[0]), record.get("width", size[1]))
    if stated != tuple(size):
        hint = " Width and height are exchanged in the file." if stated == size[::-1] else ""
        raise BadFileError(
            f"{record['file_name']}: is {size[1]}x{size[0]} (width x height), the annotation file "
            f"says {stated[1]}x{stated[0]}.{hint} The masks would not fit: correct the file, or "
            "use the image that was annotated."
        )


def warn_if_crowded(
    dataset_dicts: Sequence[dict[str, Any]],
    num_queries: int,
    dataset_name: str,
    key: str = "MODEL.IAUNET.NUM_QUERIES",
) -> None:
    """Tell if images have more instances than the model has queries, set by the config's ``key``.

    The surplus of one image can never be found."""
    counts = [(len(d.get("annotations", ())), d["file_name"]) for d in dataset_dicts]
    over = [c for c in counts if c[0] > num_queries]
    if over:
        most, file_name = max(over)
        logger.warning(
            "%s: %d of %d images have more instances than %s %d (the most: %d in %s). What exceeds "
            "it within one crop cannot be learnt or found: raise %s and TEST.DETECTIONS_PER_IMAGE, "
            "or use smaller crops.",
            dataset_name,
            len(over),
            len(counts),
            key,
            num_queries,
            most,
            file_name,
            key,
        )


def warn_of_crowd_regions(dataset_dicts: Sequence[dict[str, Any]], dataset_name: str) -> None:
    """Tell once of annotations with ``iscrowd=1`` in a data set that the user's code registered.

    Its annotation file is evaluated as it is, where they are crowd regions, while ``INPUT.CROWD
    instance`` trains them as instances.
    """
    counts = [
        sum(bool(a.get("iscrowd", 0)) for a in d.get("annotations", ())) for d in dataset_dicts
    ]
    if not any(counts) or dataset_name in _TOLD:
        return
    _TOLD.add(dataset_name)
    logger.warning(
        "%s: %d annotations in %d of %d images have iscrowd=1. INPUT.CROWD instance trains them as "
        "instances, but the evaluation takes them as crowd regions, whose instances do not count. "
        "Name the data set coco:<json>:<image folder>, which does alike in both, or set "
        "INPUT.CROWD ignore.",
        dataset_name,
        sum(counts),
        sum(map(bool, counts)),
        len(counts),
    )


def _summary(bad: list[str], total: int) -> str:
    more = f"\n  ... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"{len(bad)} of {total} images cannot be used:\n  " + "\n  ".join(bad[:_SHOWN]) + more


def _remedy(on_bad: str) -> str:
    if on_bad == "skip":
        return "\nNo image is left. Check the image folder in the data set's name."
    return "\nMend or remove them, or set INPUT.ON_BAD_FILE skip to train without them."
