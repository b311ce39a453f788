"""Data sets by name: published, ``coco:<json>:<image folder>``, unlabelled, synthetic cells."""

import difflib
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
from .datasets_root import datasets_root
from .errors import BadFileError
from .packs import PACKS
from .registered import SPLITS, Split
from .synthetic import PRESETS, SyntheticCells, ensure_synthetic, synthetic_preset
from .unlabeled import is_unlabeled, parse_unlabeled_name, unlabeled_records

logger = logging.getLogger(__name__)

# "coco:" json ":" folder; the json's name ends at ".json:", so that a drive letter does not split
# it.
_COCO_NAME = re.compile(r"^coco:(?P<json>.+?\.json):(?P<images>.+)$", re.IGNORECASE)
NAMED: dict[str, Split] = {**SPLITS, **PACKS}
Loader = Callable[[], list[dict[str, Any]]]
# What was registered here, by name: the loader, and what it was read with (None: not read yet).
_REGISTERED: dict[str, tuple[Loader, tuple[str, ...] | None]] = {}


def register_splits() -> None:
    """Register the published data sets, the packs and the synthetic cells of the configs.

    No path is touched: their files are read when they are loaded. A name that is registered already
    stays as it is.
    """
    metadata = {name: _split_metadata(split) for name, split in NAMED.items()}
    metadata |= {name: _synthetic_metadata(name, preset) for name, preset in PRESETS.items()}
    for name, entry in metadata.items():
        if name not in DatasetCatalog.list():
            _register(name, functools.partial(_read_now, name), None, entry)


def ensure_registered(
    names: Sequence[str], crowd: str = "instance", on_bad_file: str = "stop"
) -> None:
    """Make every name known to Detectron2's ``DatasetCatalog`` and ``MetadataCatalog``.

    A name that the user's code has registered stays as it is. The published data sets
    (``livecell_train``, ...; :data:`~iaunet_d2.data.registered.SPLITS`), the packs
    (``worms_pack_train``, ...; :data:`~iaunet_d2.data.packs.PACKS`) and
    ``coco:<json>:<image folder>`` are read at once, so that a file that cannot be used is told at
    the start; in the latter, paths may be relative to the working folder, and ``~`` and
    ``$VARIABLES`` are understood. So are ``unlabeled:<folder>``, images without annotations
    (:mod:`~iaunet_d2.data.unlabeled`). ``synthetic_cells_train``, ``synthetic_cells_val`` and
    ``synthetic:<images>:<size>:<difficulty>:<seed>`` are made the first time they are loaded.
    Published and synthetic data sets lie under ``$DETECTRON2_DATASETS`` (else ``./datasets``), the
    packs under ``$IAUNET_D2_PACKS`` (else ``../shared/data``), as these are at this moment.

    Where a COCO file is not fit for pycocotools' evaluation (``iscrowd=1`` instances, missing
    areas, annotation ids from 0, ...), a completed copy is written to the user's cache folder and
    named in ``MetadataCatalog``.

    Args:
        names: of ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        crowd: ``INPUT.CROWD``.
        on_bad_file: ``INPUT.ON_BAD_FILE``.

    Raises:
        BadFileError: the file or the folder cannot be used, or is not there.
        ValueError: the name is unknown or malformed.
    """
    for name in names:
        read_with = (crowd, on_bad_file, _root(name))
        known = name in DatasetCatalog.list()
        if known and (not is_registered_here(name) or _REGISTERED[name][1] == read_with):
            continue
        _register_name(name, crowd, on_bad_file, read_with)


def _root(name: str) -> str:
    """The folder below which a name is looked for; empty for one that tells its path."""
    if name.lower().startswith("coco:") or is_unlabeled(name):
        return ""
    return str(NAMED[name].root() if name in NAMED else datasets_root())


def _register_name(name: str, crowd: str, on_bad_file: str, read_with: tuple[str, ...]) -> None:
    preset = synthetic_preset(name)
    if preset is not None:
        _register_synthetic(name, preset, read_with)
    elif is_unlabeled(name):
        # No classes: what is in these images is not known.
        metadata = {"image_root": str(parse_unlabeled_name(name)[0])}
        _register(name, unlabeled_records(name).copy, read_with, metadata)
    elif name.lower().startswith("coco:"):
        json_file, folder = parse_coco_name(name)
        content = load_coco(json_file, folder, crowd, on_bad_file)
        metadata = _metadata(content.class_names, content.contiguous_ids, json_file, folder)
        _register_content(name, content, read_with, metadata)
    elif name in NAMED:
        split = NAMED[name]
        content = split.load(crowd, on_bad_file)
        _register_content(name, content, read_with, _split_metadata(split))
    else:
        raise ValueError(_unknown(name))


def is_registered_here(name: str) -> bool:
    """Whether this module registered a name, not the user's own code."""
    return (
        name in _REGISTERED
        and name in DatasetCatalog.list()
        and DatasetCatalog[name] is _REGISTERED[name][0]
    )


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


def _relative_to(path: str) -> str:
    return "an absolute path" if os.path.isabs(path) else f"looked for in {os.getcwd()}"


def _unknown(name: str) -> str:
    listed = {known.lower(): known for known in DatasetCatalog.list()}
    near = [listed[k] for k in difflib.get_close_matches(name.lower(), listed, n=3, cutoff=0.6)]
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return (
        f"data set {name!r} is not known.{hint} Write the name of a published data set, "
        "coco:<json>:<image folder>, unlabeled:<folder>, synthetic_cells_train, "
        "synthetic_cells_val, or register it with "
        "detectron2.data.datasets.register_coco_instances."
    )


def _read_now(name: str) -> list[dict[str, Any]]:
    """Loader of what is not read yet: also where Detectron2's own code loads it."""
    ensure_registered([name])
    return DatasetCatalog.get(name)


def _register_content(
    name: str, content: CocoContent, read_with: tuple[str, ...], metadata: dict[str, Any]
) -> None:
    json_file = metadata["json_file"]
    if content.evaluation is not None:
        metadata["json_file"] = _write_evaluation_copy(json_file, content.evaluation)
        logger.info("%s: a copy fit for evaluation is %s", json_file, metadata["json_file"])
    _register(name, content.dicts.copy, read_with, metadata)


def _register_synthetic(name: str, preset: SyntheticCells, read_with: tuple[str, ...]) -> None:
    folder = datasets_root() / preset.folder_name(name)
    load = functools.cache(functools.partial(_load_synthetic, folder, preset))
    _register(name, load, read_with, _synthetic_metadata(name, preset))


def _synthetic_metadata(name: str, preset: SyntheticCells) -> dict[str, Any]:
    folder = datasets_root() / preset.folder_name(name)
    files = (str(folder / "annotations.json"), str(folder / "images"))
    return _metadata(["cell"], {1: 0}, *files)


def _load_synthetic(folder: Path, preset: SyntheticCells) -> list[dict[str, Any]]:
    ensure_synthetic(folder, preset)
    return load_coco(str(folder / "annotations.json"), str(folder / "images")).dicts


def _split_metadata(split: Split) -> dict[str, Any]:
    files = (str(split.json_file()), str(split.image_root()))
    metadata = _metadata(list(split.classes), split.contiguous_ids(), *files)
    return {**metadata, "evaluators": split.evaluators}


def _metadata(
    class_names: list[str], contiguous_ids: dict[int, int], json_file: str, image_root: str
) -> dict[str, Any]:
    return {
        "json_file": json_file,
        "image_root": image_root,
        # For whoever chooses Detectron2's evaluators by it; ours are named in "evaluators".
        "evaluator_type": "coco",
        "thing_classes": class_names,
        "thing_dataset_id_to_contiguous_id": contiguous_ids,
    }


def _register(
    name: str, load: Loader, read_with: tuple[str, ...] | None, metadata: dict[str, Any]
) -> None:
    """Register a name, in place of what was registered here before."""
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    DatasetCatalog.register(name, load)
    entry = MetadataCatalog.get(name)
    if any(entry.get(key, value) != value for key, value in metadata.items()):
        # What is set cannot be changed; what others have added stays.
        others = {k: v for k, v in entry.as_dict().items() if k not in {"name", *metadata}}
        MetadataCatalog.remove(name)
        entry = MetadataCatalog.get(name).set(**others)
    entry.set(**metadata)
    _REGISTERED[name] = (load, read_with)


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
