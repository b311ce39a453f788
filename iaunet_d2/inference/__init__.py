"""Using a trained model: from images to cells to the files that people open next."""

import importlib
from typing import TYPE_CHECKING, Any

from .cells import Cells, no_cells

if TYPE_CHECKING:
    from .predictor import Predictor
    from .segmenter import Segmenter

__all__ = ["Cells", "Predictor", "Segmenter", "no_cells"]

# What needs the model is imported when it is used: to write a format needs none of it.
_LATER = {"Predictor": "predictor", "Segmenter": "segmenter"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
