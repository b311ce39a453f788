"""How a COCO file of pseudo-labels says what it is: a block in its ``info``.

``iaunet pseudo-label`` writes the block; a training that uses the file keeps it with the model.
"""

import mmap
import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .coco_json import read_json_object

KEY = "pseudo_labels"
"""Of the block in a COCO file's ``info``."""

_PROVENANCE = ".provenance.json"


def provenance_file(json_file: str | os.PathLike[str]) -> Path:
    """Where the block of a file of pseudo-labels stands beside it: ``a.provenance.json``."""
    return Path(json_file).with_suffix(_PROVENANCE)


def pseudo_label_info(json_file: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The block of a COCO file; None where it holds no pseudo-labels, or there is no such file.

    A file without the word is not parsed: large ones take minutes.

    Raises:
        BadFileError: the file has the word, and is no JSON.
        OSError: it cannot be opened.
    """
    path = Path(json_file)
    if not path.is_file() or path.stat().st_size == 0:
        return None
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if content.find(f'"{KEY}"'.encode()) < 0:
            return None
    info = read_json_object(path).get("info")
    block = info.get(KEY) if isinstance(info, dict) else None
    return block if isinstance(block, dict) else None


def pseudo_labels_of(name: str) -> dict[str, Any] | None:
    """The block of a registered data set, by the annotation file that its metadata names."""
    if name not in DatasetCatalog.list():
        return None
    json_file = MetadataCatalog.get(name).get("json_file", None)
    return pseudo_label_info(json_file) if json_file else None
