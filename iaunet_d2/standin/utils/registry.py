"""Names to objects: fvcore's registry, and look-up by import path."""

import pydoc
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """The object with the import path ``name``, such as ``"torch.nn.Linear"``.

    Raises:
        ImportError: there is none.
    """
    found = pydoc.locate(name)
    if found is None:
        raise ImportError(f"there is no object {name!r}")
    return found
