"""Images without annotations as a data set: ``unlabeled:<folder>``.

Models with consistency regularisation learn from them beside images with ground truth (MAUNet,
section 2.2.4); for all others ``iaunet pseudo-label`` makes ground truth of them.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .errors import BadFileError
from .importers.pairing import IMAGE_SUFFIXES, files_below
from .readers import image_size

PREFIX = "unlabeled:"
KEY = "unlabeled"
"""True in data-set dicts and batch entries of such images: "no instances" does not mean "empty"."""

_DEEP = "**"
_THREADS = 8


def is_unlabeled(name: str) -> bool:
    """Whether the name of a data set is one of images without annotations."""
    return name.lower().startswith(PREFIX)


def parse_unlabeled_name(name: str) -> tuple[Path, bool]:
    """The folder of a name ``unlabeled:<folder>``, and whether folders below it count.

    As in ``iaunet predict`` they do not, unless they are asked for: ``unlabeled:<folder>/**``.
    ``~`` and ``$VARIABLES`` are understood.

    Raises:
        ValueError: no folder is named.
        BadFileError: it is not a folder.
    """
    text = os.path.expanduser(os.path.expandvars(name[len(PREFIX) :]))
    if not text:
        raise ValueError(
            f"data set {name!r} is malformed: unlabeled:<folder> is needed, such as "
            "unlabeled:data/more_images; unlabeled:<folder>/** takes the folders below it too"
        )
    path = Path(text)
    deep = path.name == _DEEP
    folder = path.parent if deep else path
    if not folder.is_dir():
        where = "an absolute path" if folder.is_absolute() else f"looked for in {os.getcwd()}"
        raise BadFileError(f"{folder}: is not a folder (data set {name!r}, {where}).")
    return folder, deep


def unlabeled_records(name: str) -> list[dict[str, Any]]:
    """Detectron2's data-set dicts of a name ``unlabeled:<folder>``, in the order of their paths.

    Each has :data:`KEY`, no ``annotations``, the path below the folder as ``image_id`` (so that
    another image beside it changes none), and ``height`` and ``width`` where the file's header can
    be read; the check of the files (``INPUT.CHECK_FILES``) tells of the others.

    Raises:
        ValueError: the name is malformed.
        BadFileError: the folder does not exist, or holds no image.
    """
    folder, deep = parse_unlabeled_name(name)
    files = files_below(folder, IMAGE_SUFFIXES, deep)
    if not files:
        hint = "" if deep else f" For the folders below it write {PREFIX}{folder}/{_DEEP}."
        raise BadFileError(f"{folder}: holds no image ({', '.join(IMAGE_SUFFIXES)}).{hint}")
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(_size, files))
    return [
        {
            "file_name": str(file),
            "image_id": file.relative_to(folder).as_posix(),
            KEY: True,
            **size,
        }
        for file, size in zip(files, sizes, strict=True)
    ]


def _size(file: Path) -> dict[str, int]:
    try:
        height, width = image_size(file)
    except BadFileError:  # told by the check of the files, as INPUT.ON_BAD_FILE says
        return {}
    return {"height": height, "width": width}
