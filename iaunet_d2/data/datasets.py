"""Data sets by name: ``coco:<json>:<image folder>``, and synthetic cells made on first use."""

import functools
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .coco_json import CocoContent, load_coco
from .errors import BadFileError
from .synthetic import SyntheticCells, ensure_synthetic, synthetic_preset

logger = logging.getLogger(__name__)

# "coco:" json ":" folder; the json's name ends at ".json:", so that a drive letter does not split
# it.
_COCO_NAME = re.compile(r"^coco:(?P<json>.+?\.json):(?P<images>.+)$", re.IGNORECASE)
# What was registered here, by name, with the options it was read with.
_REGISTERED: dict[str, tuple[str, str]] = {}


def ensure_registered(
    names: Sequence[str], crowd: str = "instance", on_bad_file: str = "stop"
) -> None:
    """Make every name known to Detectron2's ``DatasetCatalog`` and ``MetadataCatalog``.

    A name that is registered already (by any means) stays as it is. ``coco:<json>:<image folder>``
    is read at once, so that a file that cannot be used is told at the start; paths may be relative
    to the working folder, and ``~`` and ``$VARIABLES`` are understood. ``synthetic_cells_train``,
    ``synthetic_cells_val`` and ``synthetic:<images>:<size>:<difficulty>:<seed>`` are made under
    ``$DETECTRON2_DATASETS`` (else ``./datasets``) the first time they are loaded.

    Where a COCO file is not fit for pycocotools' evaluation (``iscrowd=1`` instances, missing
    areas, annotation ids from 0, ...), a completed copy is written to the user's cache folder and
    named in ``MetadataCatalog``.

    Args:
        names: of ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        crowd: ``INPUT.CROWD``.
        on_bad_file: ``INPUT.ON_BAD_FILE``.

    Raises:
        BadFileError: the file or the folder cannot be used.
        ValueError: the name is unknown or malformed.
    """
    for name in names:
        options = (crowd, on_bad_file)
        if name in _REGISTERED and name in DatasetCatalog.list() and _REGISTERED[name] != options:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        if name in DatasetCatalog.list():
            continue
        preset = synthetic_preset(name)
        if preset is not None:
            _register_synthetic(name, preset)
        elif name.lower().startswith("coco:"):
            _register_coco(name, crowd, on_bad_file)
        else:
            raise ValueError(
                f"data set {name!r} is not known. Write coco:<json>:<image folder>, "
                "synthetic_cells_train, synthetic_cells_val, or register it with "
                "detectron2.data.datasets.register_coco_instances."
            )
        _REGISTERED[name] = options


def is_registered_here(name: str) -> bool:
    """Whether :func:`ensure_registered` registered a name, not the user's own code."""
    return name in _REGISTERED


def parse_coco_name(name: str) -> tuple[str, str]:
    """The annotation file and the image folder of a name ``coco:<json>:<image folder>``.

    Raises:
        ValueError: the name is malformed.
        BadFileError: the file or the folder does not exist.
    """
    match = _COCO_NAME.match(name)
    if match is None:
        raise ValueError(
            f"data set {name!r} is malformed: coco:<json>:<image folder> is needed, such as "
            "coco:data/train.json:data/images"
        )
    json_file, folder = (
        os.path.expanduser(os.path.expandvars(match[k])) for k in ("json", "images")
    )
    if not os.path.isfile(json_file):
        raise BadFileError(
            f"{json_file}: does not exist (data set {name!r}, {_relative_to(json_file)})."
        )
    if not os.path.isdir(folder):
        raise BadFileError(
            f"{folder}: is not a folder (images of data set {name!r}, {_relative_to(folder)})."
        )
    return json_file, folder


def datasets_root() -> Path:
    """``$DETECTRON2_DATASETS``, else ``./datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def _relative_to(path: str) -> str:
    return "an absolute path" if os.path.isabs(path) else f"looked for in {os.getcwd()}"


def _register_coco(name: str, crowd: str, on_bad_file: str) -> None:
    json_file, folder = parse_coco_name(name)
    content = load_coco(json_file, folder, crowd, on_bad_file)
    evaluated = json_file
    if content.evaluation is not None:
        evaluated = _write_evaluation_copy(json_file, content.evaluation)
        logger.info("%s: a copy fit for evaluation is %s", json_file, evaluated)
    _register(name, content.dicts.copy, content, evaluated, folder)


def _register_synthetic(name: str, preset: SyntheticCells) -> None:
    folder = datasets_root() / preset.folder_name(name)
    load = functools.cache(functools.partial(_load_synthetic, folder, preset))
    content = CocoContent([], ["cell"], {1: 0}, {}, None)
    _register(name, load, content, str(folder / "annotations.json"), str(folder / "images"))


def _load_synthetic(folder: Path, preset: SyntheticCells) -> list[dict[str, Any]]:
    ensure_synthetic(folder, preset)
    return load_coco(str(folder / "annotations.json"), str(folder / "images")).dicts


def _register(
    name: str,
    load: Callable[[], list[dict[str, Any]]],
    content: CocoContent,
    json_file: str,
    image_root: str,
) -> None:
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        thing_classes=content.class_names,
        thing_dataset_id_to_contiguous_id=content.contiguous_ids,
    )


def _write_evaluation_copy(json_file: str, content: dict[str, Any]) -> str:
    """Write to the cache folder, under a name that depends on the content; whole or not at all."""
    text = json.dumps(content)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = f"{Path(json_file).stem}-{digest}.json"
    for folder in _cache_folders():
        target = folder / name
        if target.is_file():
            return str(target)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=folder, suffix=".part", delete=False, encoding="utf-8"
            ) as file:
                file.write(text)
            os.replace(file.name, target)
        except OSError as error:
            logger.warning("%s: cannot be written to (%s); the next place is tried", folder, error)
            continue
        return str(target)
    raise BadFileError(
        f"{json_file}: needs a completed copy for the evaluation, and no folder for it can be "
        "written to. Set XDG_CACHE_HOME to one that can."
    )


def _cache_folders() -> list[Path]:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return [Path(cache) / "iaunet_d2", Path(tempfile.gettempdir()) / "iaunet_d2"]
