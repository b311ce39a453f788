"""Packages that only some formats need, imported when such a file is opened."""

import importlib
from types import ModuleType

from ...data.errors import BadFileError


def optional_package(name: str, path: str, install: str) -> ModuleType:
    """Import a package.

    Args:
        name: of the package.
        path: of the file that needs it, for the error.
        install: what to install, as for pip.

    Raises:
        BadFileError: it is not installed, with the line that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name:
            raise
        raise BadFileError(
            f"{path}: reading it needs the package {name}. Install it: pip install {install}"
        ) from error
