"""Which images a run is about, and what its outputs are called."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from .outputs import FORMATS
from .sources import SUFFIXES

logger = logging.getLogger(__name__)

RESERVED = ("counts", "report")
"""Names that files of the whole run begin with."""

LONGEST_NAME = 200
"""Bytes of an image's name in the names of its outputs."""

_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")


@dataclass(frozen=True)
class Input:
    """One image file.

    Attributes:
        path: as the user named it, or found in a folder.
        name: what its outputs are called, below the output folder, without suffix; unique in a run.
        root: the folder that names are relative to.
    """

    path: Path
    name: str
    root: Path

    @property
    def shown(self) -> str:
        """For people: the file's name, with the folders below the one that was given."""
        return self.path.absolute().relative_to(self.root.absolute()).as_posix()


def find_inputs(
    given: Sequence[str],
    output: Path,
    recursive: bool = False,
    owner: Callable[[str], Path | None] = lambda name: None,
) -> list[Input]:
    """The images of files, folders and patterns, each once, in their order.

    Outputs are called as the image, with the folders between it and the folder that was given. Two
    that would be called alike, or like another image's outputs from an earlier run, keep their
    suffixes too (``a.png``, ``a.tif``), and if need be further folders.

    Args:
        given: files, folders, and patterns such as ``scans/**/*.tif``.
        output: the folder of the outputs; what lies in it is not taken for an image.
        recursive: look in folders below those given.
        owner: the image that a name belongs to by an earlier run, if any.

    Raises:
        FileNotFoundError: something does not exist, or there is no image.
    """
    found: dict[Path, Input] = {}
    for text in given:
        for path, root in _expand(text, output, recursive):
            found.setdefault(path.resolve(), Input(path, "", root))
    if not found:
        raise FileNotFoundError(
            f"{', '.join(given)}: no image in it"
            + ("" if recursive else "; folders below are looked into with --recursive")
        )
    return _named(list(found.values()), owner)


def _expand(text: str, output: Path, recursive: bool) -> Iterator[tuple[Path, Path]]:
    """Files that a word of the command line means, each with the folder names are relative to."""
    path = Path(text).expanduser()
    if path.exists():
        matches = [path]
    else:
        matches = [Path(m) for m in sorted(glob.glob(str(path), recursive=True))]
        # Such a pattern lists the files of folders by itself, and the outputs of an earlier run.
        matches = [m for m in matches if not (m.is_dir() and "**" in text and not is_image(m))]
        matches = [m for m in matches if not _is_output(m, output, m.parent)]
    if not matches:
        magic = any(sign in text for sign in "*?[")
        raise FileNotFoundError(f"{text}: {'matches no file' if magic else 'does not exist'}")
    for match in matches:
        if match.is_dir() and not is_image(match):
            yield from ((p, match) for p in _images_in(match, output, recursive))
        else:
            yield match, match.parent


def _images_in(folder: Path, output: Path, recursive: bool) -> Iterator[Path]:
    """The images of a folder, and of those below it; hidden ones and outputs are left out."""
    try:
        inside = sorted(folder.iterdir())
    except PermissionError as error:
        logger.warning("%s: cannot be looked into (%s); the rest goes on", folder, error.strerror)
        return
    for path in inside:
        if path.name.startswith(".") or _is_output(path, output, folder):
            continue
        if is_image(path):
            yield path
        elif recursive and path.is_dir():
            yield from _images_in(path, output, recursive)


def is_image(path: Path) -> bool:
    """Whether a file's name says that it is an image, or a folder is one (Zarr)."""
    if path.is_dir():
        return path.suffix.lower() == ".zarr" or any((path / n).is_file() for n in _ZARR_FILES)
    return path.suffix.lower() in SUFFIXES


def _is_output(path: Path, output: Path, folder: Path) -> bool:
    """Whether a file in a folder was written by this command."""
    path, output, folder = path.resolve(), output.resolve(), folder.resolve()
    if output not in (path, *path.parents):
        return False
    # An output folder of its own holds nothing else; one that holds the images too holds both.
    inside = folder in output.parents
    return inside or path.name.endswith(tuple(f.suffix for f in FORMATS.values()))


def _named(files: list[Input], owner: Callable[[str], Path | None]) -> list[Input]:
    common = Path(os.path.commonpath([file.path.absolute().parent for file in files]))
    choices = [list(_names(file, common)) for file in files]
    level = [0] * len(files)
    while True:
        names = [choice[k] for choice, k in zip(choices, level, strict=True)]
        count = Counter(name.casefold() for name in names)  # on many disks A and a are one
        rising = [
            i
            for i, (name, file) in enumerate(zip(names, files, strict=True))
            if level[i] + 1 < len(choices[i])
            and (
                (count[name.casefold()] > 1 and not _belongs_to(name, file, owner))
                or _belongs_to_another(name, file, owner)
            )
        ]
        if not rising:
            return [replace(f, name=name) for f, name in zip(files, names, strict=True)]
        for i in rising:
            level[i] += 1


def _names(file: Input, common: Path) -> Iterator[str]:
    """What an image's outputs may be called, from the plainest name to one that is its own."""
    plain = file.path.relative_to(file.root)
    stem = plain.with_suffix("")
    numbered = stem.suffix[:2] == ".p" and stem.suffix[2:].isdigit()  # as planes of a stack are
    if stem.as_posix().casefold() not in RESERVED and not numbered:
        yield _fitting(stem)
    yield _fitting(plain)
    yield _fitting(file.path.absolute().relative_to(common))
    # The path from the root of the disk; a drive's letter and colon are none of a name.
    absolute = file.path.absolute()
    yield _fitting(absolute.relative_to(absolute.anchor))


def _fitting(path: Path) -> str:
    """A path whose last part leaves room for endings; file systems take 255 bytes."""
    name = path.name.encode("utf-8", "surrogateescape")
    if len(name) <= LONGEST_NAME:
        return path.as_posix()
    cut = name[: LONGEST_NAME - 9].decode("utf-8", "ignore")
    return path.with_name(f"{cut}~{sha256(name).hexdigest()[:8]}").as_posix()


def _belongs_to(name: str, file: Input, owner: Callable[[str], Path | None]) -> bool:
    other = owner(name)
    return other is not None and other.resolve() == file.path.resolve()


def _belongs_to_another(name: str, file: Input, owner: Callable[[str], Path | None]) -> bool:
    other = owner(name)
    return other is not None and other.exists() and other.resolve() != file.path.resolve()
