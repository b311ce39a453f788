"""Import parts of a user's own, from a file or a module, so that they register themselves.

A file is one Python file, complete in itself: training keeps a copy beside the weights, and
prediction imports that. Several files make a package, which is installed and named as a module.
"""

import functools
import hashlib
import importlib
import logging
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from detectron2.config import CfgNode as CN

from ..files import atomic_write

logger = logging.getLogger(__name__)

T = TypeVar("T")

KEPT_IN = "imports"
"""Folder of ``OUTPUT_DIR`` that holds a copy of each imported file."""

_imported: dict[str, ModuleType] = {}  # by the digest of a file, or by a module's name
_asked: list[str] = []  # by --import of the command that runs in this process


class PartImportError(ValueError):
    """A file or module that a config or ``--import`` names cannot be imported."""


class MissingPartError(PartImportError):
    """A file that a config or ``--import`` names does not exist."""


def add_import_argument(parser: ArgumentParser) -> None:
    """Add ``--import``, which may be given several times, to a command's arguments."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE|MODULE",
        help="import a Python file or module that registers parts of your own (models, backbones, "
        "decoders, data sets), as MODEL.IMPORTS does",
    )


def import_parts(names: Iterable[str], folders: Sequence[Path] = ()) -> tuple[str, ...]:
    """Import files (``my_parts.py``) or modules (``my_package.parts``), each once.

    A file that was imported already, perhaps as a copy with another place or name, is not run
    again.

    Args:
        names: of the files or modules.
        folders: where files are looked for first, in turn; then in the working directory.

    Returns:
        the absolute paths of the files, and the names of the modules.

    Raises:
        PartImportError: one does not exist or fails; the message names it.
    """
    found = []
    for name in names:
        try:
            found.append(_import_one(name, folders))
        except MissingPartError as error:
            if not _asked:
                raise
            logger.warning("%s. Left out: --import gives %s.", error, ", ".join(_asked))
    return tuple(found)


def import_asked(names: Iterable[str]) -> None:
    """Import what ``--import`` names; every config that is read from now on names it too.

    Raises:
        PartImportError: one does not exist or fails.
    """
    _asked[:] = []
    _asked[:] = import_parts(names)


def with_asked(names: Iterable[str]) -> tuple[str, ...]:
    """Return imported names, and those of ``--import`` behind them."""
    return tuple(dict.fromkeys((*names, *_asked)))


def add_imported_config(cfg: CN) -> None:
    """Add the keys of imported parts: call each one's ``add_config(cfg)``, if it has one.

    Raises:
        PartImportError: one of these functions fails; the message names it.
    """
    for module in _imported.values():
        if hasattr(module, "add_config"):
            _run(str(module.__file__), functools.partial(module.add_config, cfg), "add_config of ")


def add_missing_keys(cfg: CN, complete: CN) -> None:
    """Give ``cfg``, in place, the keys of a complete config that it lacks."""
    for key, value in complete.items():
        if key not in cfg:
            cfg[key] = value
        elif isinstance(value, CN) and isinstance(cfg[key], CN):
            add_missing_keys(cfg[key], value)


def keep_imports(cfg: CN, write: bool = True) -> None:
    """Copy imported files into ``OUTPUT_DIR``, and name the copies in ``MODEL.IMPORTS``.

    Args:
        cfg: the config, in place; its files are absolute paths.
        write: copy; else only name the copies, as every process but one does.
    """
    kept: dict[str, bytes] = {}
    names = []
    for name in cfg.MODEL.IMPORTS:
        if not name.endswith(".py"):
            names.append(name)
            continue
        source = Path(name).read_bytes()
        copy = f"{KEPT_IN}/{Path(name).name}"
        if kept.get(copy, source) != source:
            copy = f"{KEPT_IN}/{Path(name).stem}_{_digest(source)}.py"
        kept[copy] = source
        names.append(copy)
    cfg.MODEL.IMPORTS = tuple(dict.fromkeys(names))
    for copy, source in kept.items() if write else ():
        target = Path(cfg.OUTPUT_DIR, copy)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as stream:
            stream.write(source)


def without_places(names: Iterable[str]) -> tuple[str, ...]:
    """Describe files by their content, wherever they lie, and modules by their names."""
    return tuple(
        _digest(Path(name).read_bytes()) if name.endswith(".py") else name for name in names
    )


def _import_one(name: str, folders: Sequence[Path]) -> str:
    if not name.endswith(".py"):
        if name not in _imported:
            _imported[name] = _run(name, lambda: importlib.import_module(name))
        return name
    path = _existing(name, folders)
    source = path.read_bytes()
    digest = _digest(source)
    if digest not in _imported:
        module_name = f"_iaunet_d2_import_{path.stem}_{digest}"
        _imported[digest] = _run(str(path), lambda: _execute(path, source, module_name))
        logger.info("Imported %s.", path)
    return str(path)


def _existing(name: str, folders: Sequence[Path]) -> Path:
    places = list(dict.fromkeys([*(folder / name for folder in folders), Path(name)]))
    for place in places:
        if place.is_file():
            return place.resolve()
    raise MissingPartError(
        f"{name}, which MODEL.IMPORTS or --import names, does not exist (looked for: "
        f"{', '.join(map(str, places))}); give its place by --import <file>.py"
    )


def _execute(path: Path, source: bytes, module_name: str) -> ModuleType:
    """Run a file's source; no bytecode is left beside the file or read from there."""
    module = ModuleType(module_name)
    module.__file__ = str(path)
    sys.modules[module_name] = module  # what it defines can be pickled
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _run(name: str, call: Callable[[], T], what: str = "") -> T:
    """Call a function of a file or module of that name, and say what fails in it, and where."""
    try:
        return call()
    except ModuleNotFoundError as error:
        if error.name in (name, name.partition(".")[0]):
            raise PartImportError(
                f"the module {name}, which MODEL.IMPORTS or --import names, is not installed; "
                "install its package, or name a file: <file>.py"
            ) from error
        raise PartImportError(
            f"{name}, which MODEL.IMPORTS or --import names, needs {error.name}: install it. A "
            "file is complete in itself; several make a package, to be installed and named as a "
            "module"
        ) from error
    except (Exception, SystemExit) as error:
        message = " ".join(str(error).split())
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
        place = f"{what}{name}, line {frames[-1].lineno}" if frames else f"{what}{name}"
        if isinstance(error, AssertionError) and "already registered" in message:
            raise PartImportError(
                f"{place}: a part of that name is registered already ({message}). Give yours "
                "another name; of one file, two versions cannot be imported together: "
                f"{', '.join(sorted(_files()))}"
            ) from error
        raise PartImportError(
            f"{place}, which MODEL.IMPORTS or --import names, failed: "
            f"{type(error).__name__}: {message}"
        ) from error


def _files() -> set[str]:
    """Return the files that were imported."""
    return {str(module.__file__) for module in _imported.values()}


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:12]
