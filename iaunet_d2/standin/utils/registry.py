"""Names to objects: fvcore's registry, and look-up by import path."""

import importlib
import pydoc
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """Find the object with the import path ``name``, such as ``"torch.nn.Linear"``.

    Raises:
        ImportError: there is none.
    """
    found = pydoc.locate(name)
    if found is not None:
        return found
    # pydoc goes by attributes; torch.optim.sgd is a module that torch.optim does not have as one.
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImportError(f"there is no object {name!r}") from error
