"""Prepare a data set: fetch or find its files, unpack, convert, check the counts."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...files import atomic_write
from ...lock import only_one
from ..datasets_root import datasets_root
from ..errors import BadFileError
from .archive import is_archive, unpack
from .build import Build
from .download import download
from .recipe import Count, Recipe
from .source import SourceFiles, visible_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A data set on disk.

    Attributes:
        folder: where it is.
        counts: split -> number of images, number of instances.
        expected: split -> the published counts.
        notes: what was left out, mended or changed -> how often.
        made: whether this run made it; False if it was there.
    """

    folder: Path
    counts: Mapping[str, tuple[int, int]]
    expected: Mapping[str, Count]
    notes: Mapping[str, int]
    made: bool


def prepare(
    recipe: Recipe,
    root: Path | None = None,
    sources: Sequence[Path] = (),
    fetch: bool = False,
    force: bool = False,
) -> Prepared:
    """Make ``<root>/<recipe.name>`` from published files, unless it is there.

    An interrupted run leaves ``<root>/.<name>.partial``, which the next one continues: files that
    were downloaded, unpacked or converted are not done again. Downloaded files stay in
    ``<root>/downloads/<name>``.

    Args:
        recipe: the data set.
        root: by default ``$DETECTRON2_DATASETS``, else ``./datasets``.
        sources: archives, or folders that hold the files or the archives.
        fetch: download what the recipe lists.
        force: make it anew; what is there is replaced once its successor is complete.

    Raises:
        BadFileError: files are missing, damaged, or contradict themselves; the disk is full; or
            another process is at work on it.
    """
    root = (root or datasets_root()).expanduser()
    target = root / recipe.name
    try:
        root.mkdir(parents=True, exist_ok=True)
        with only_one(root / f".{recipe.name}.lock", recipe.name):
            made = _make(recipe, root, [Path(s).expanduser() for s in sources], fetch, force)
            return _told(recipe, target, made)
    except BadFileError:
        raise
    except OSError as error:
        raise BadFileError(
            f"{target}: cannot be made ({error}). Give --root a folder that can be written to and "
            "has room; what was done so far is used by the next run."
        ) from error


def _make(recipe: Recipe, root: Path, sources: Sequence[Path], fetch: bool, force: bool) -> bool:
    """Whether there was something to make."""
    target, staging = root / recipe.name, root / f".{recipe.name}.partial"
    _settle(staging, target)
    if target.exists():
        _read_prepared(target)  # never replaces what something else has made
        if not force:
            return False
    given = [*sources, *(_fetched(recipe, root) if fetch else ())]
    if not given:
        raise BadFileError(
            f"{target}: {'made anew' if target.exists() else 'is not there yet'}: the source files "
            f"are needed. {recipe.obtain} Then: iaunet prepare {recipe.name} "
            "--source <archive or folder>"
            + (f", or: iaunet prepare {recipe.name} --download" if recipe.remotes else "")
        )
    for source in given:
        _check_source(source, target)
    _continue_or_restart(staging, _fingerprint(recipe, given))
    roots = [
        folder
        for number, source in enumerate(given)
        for folder in _roots(source, staging / "unpacked" / f"{number:02d}")
    ]
    build = Build(staging, dict(recipe.categories))
    recipe.convert(SourceFiles(roots, recipe.obtain), build)
    about = {
        "description": recipe.title,
        "url": recipe.homepage,
        "licence": recipe.licence,
        "prepared_by": f"iaunet-d2 {__version__}",
    }
    build.finish(target, about)
    return True


def _settle(staging: Path, target: Path) -> None:
    """Complete what a kill during the last renames has left."""
    replaced = staging / "replaced"
    if replaced.exists() and not target.exists():
        os.rename(replaced, target)
    if target.exists() and staging.exists() and not (staging / "result").exists():
        shutil.rmtree(staging)


def _fetched(recipe: Recipe, root: Path) -> list[Path]:
    if not recipe.remotes:
        raise BadFileError(f"{recipe.name}: cannot be downloaded without a login. {recipe.obtain}")
    folder = root / "downloads" / recipe.name
    for remote in recipe.remotes:
        download(remote, folder)
    for remote in recipe.more_remotes(folder) if recipe.more_remotes else ():
        download(remote, folder)
    return [folder]


def _check_source(source: Path, target: Path) -> None:
    if not source.exists():
        raise BadFileError(f"{source}: does not exist. Give --source an archive or a folder.")
    if target.resolve() in (source.resolve(), *source.resolve().parents):
        raise BadFileError(
            f"{source}: lies in the folder that is to be made, {target}. Move it elsewhere, or "
            "give another --root."
        )


def _roots(source: Path, unpacked: Path) -> list[Path]:
    """Where to search: a folder and the archives that lie in it, unpacked; or the file itself.

    Archives in an archive are unpacked too, as Kaggle hands out several files in one.
    """
    if source.is_dir():
        roots = [source]
        for archive in _archives(source):
            roots += _roots(archive, unpacked)
        return roots
    if not is_archive(source):
        return [source]
    folder = unpack(source, unpacked / source.name)
    inner = unpacked / f"{source.name}.inner"
    return [folder, *(unpack(archive, inner / archive.name) for archive in _archives(folder))]


def _archives(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and is_archive(path))


def _fingerprint(recipe: Recipe, sources: Sequence[Path]) -> str:
    """Changes with the files that are converted, and with how they are."""
    digest = hashlib.sha256(f"{recipe.name} {recipe.version}\n".encode())
    for source in sources:
        for path, _ in sorted(visible_files(source.resolve())):
            known = path.stat()
            digest.update(f"{path} {known.st_size} {known.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _continue_or_restart(staging: Path, fingerprint: str) -> None:
    """Keep what an earlier run has done with the same files; else begin anew."""
    marker = staging / "sources.sha256"
    if marker.is_file() and marker.read_text(encoding="utf-8") == fingerprint:
        logger.info("%s: an earlier run is continued", staging)
        return
    if staging.exists():
        logger.info("%s: of other source files; begun anew", staging)
        shutil.rmtree(staging)
    (staging / "result").mkdir(parents=True)  # gone again only once it has been put in its place
    with atomic_write(marker) as stream:
        stream.write(fingerprint.encode())


def _read_prepared(target: Path) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """Counts by split, and the notes, of a folder that :func:`prepare` made."""
    try:
        content: dict[str, Any] = json.loads((target / "prepared.json").read_text("utf-8"))
        counts = {
            name: (int(split["images"]), int(split["instances"]))
            for name, split in content["splits"].items()
        }
        return counts, {**content["notes"], **content["mended"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFileError(
            f"{target}: exists, but iaunet prepare did not make it (no usable prepared.json: "
            f"{error}). Move it away, or give another --root."
        ) from error


def _told(recipe: Recipe, target: Path, made: bool) -> Prepared:
    """Read back what was made, and warn where its counts differ from the published ones."""
    counts, notes = _read_prepared(target)
    for name, expected in recipe.expected.items():
        if name not in counts:
            logger.warning("%s: split %r could not be made: its files were not given", target, name)
            continue
        for found, published, what in zip(
            counts[name],
            (expected.images, expected.instances),
            ("images", "instances"),
            strict=True,
        ):
            if published is not None and found != published:
                logger.warning(
                    "%s: %s has %d %s, published are %d", target, name, found, what, published
                )
    return Prepared(target, counts, recipe.expected, notes, made)
