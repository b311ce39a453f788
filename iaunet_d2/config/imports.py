"""Import parts of a user's own, from a file or a module, so that they register themselves.

A file is one Python file, complete in itself: training keeps a copy beside the weights, and
prediction imports that. Several files make a package, which is installed and named as a module.
"""

import hashlib
import importlib
import importlib.util
import logging
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from detectron2.config import CfgNode as CN

from ..files import atomic_write

logger = logging.getLogger(__name__)

KEPT_IN = "imports"
"""Folder of ``OUTPUT_DIR`` that holds a copy of each imported file."""

_imported: dict[str, ModuleType] = {}
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


def import_parts(names: Iterable[str], folder: Path | None = None) -> tuple[str, ...]:
    """Import files (``my_parts.py``) or modules (``my_package.parts``), each once.

    A file that was imported already, perhaps as a copy in another folder, is not run again.

    Args:
        names: of the files or modules.
        folder: where files are looked for first; then in the working directory.

    Returns:
        the absolute paths of the files, and the names of the modules.

    Raises:
        PartImportError: one does not exist or fails; the message names it.
    """
    found = []
    for name in names:
        try:
            found.append(_import_one(name, folder))
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
    """Add the keys of imported parts: call each one's ``add_config(cfg)``, if it has one."""
    for module in _imported.values():
        if hasattr(module, "add_config"):
            module.add_config(cfg)


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
    kept: dict[str, str] = {}
    names = []
    for name in cfg.MODEL.IMPORTS:
        if not name.endswith(".py"):
            names.append(name)
            continue
        text = Path(name).read_text(encoding="utf-8")
        copy = f"{KEPT_IN}/{Path(name).name}"
        if kept.get(copy, text) != text:
            copy = f"{KEPT_IN}/{Path(name).stem}_{_digest(text)}.py"
        kept[copy] = text
        names.append(copy)
    cfg.MODEL.IMPORTS = tuple(names)
    for copy, text in kept.items() if write else ():
        target = Path(cfg.OUTPUT_DIR, copy)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as stream:
            stream.write(text.encode())


def without_places(names: Iterable[str]) -> tuple[str, ...]:
    """Describe imports by name and content, wherever the files lie."""
    return tuple(
        f"{Path(name).stem}:{_digest(Path(name).read_text(encoding='utf-8'))}"
        if name.endswith(".py")
        else name
        for name in names
    )


def _import_one(name: str, folder: Path | None) -> str:
    if not name.endswith(".py"):
        if name not in _imported:
            _imported[name] = _run(name, lambda: importlib.import_module(name))
        return name
    path = _existing(name, folder)
    key = f"{path.stem}_{_digest(path.read_text(encoding='utf-8'))}"
    if key not in _imported:
        _imported[key] = _run(str(path), lambda: _execute(path, f"_iaunet_d2_import_{key}"))
        logger.info("Imported %s.", path)
    return str(path)


def _existing(name: str, folder: Path | None) -> Path:
    places = [Path(name)] if folder is None else [folder / name, Path(name)]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise MissingPartError(
        f"{name}, which MODEL.IMPORTS or --import names, does not exist (looked for: "
        f"{', '.join(map(str, places))}); give its place by --import <file>.py"
    )


def _execute(path: Path, module_name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # what it defines can be pickled
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _run(name: str, load: Any) -> ModuleType:
    try:
        return load()
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise PartImportError(
                f"MODEL.IMPORTS: {name} needs {error.name}: install it"
            ) from error
        raise PartImportError(
            f"MODEL.IMPORTS names the module {name}, which is not installed; install its package, "
            "or name a file: <file>.py"
        ) from error
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
        line = f", line {frames[-1].lineno}" if frames else ""
        raise PartImportError(
            f"MODEL.IMPORTS: {name}{line} failed: {type(error).__name__}: {error}"
        ) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
