# Copyright the iaunet-d2 authors. Apache-2.0.
"""IAUNet, query-based instance segmentation of overlapping cells, as a Detectron2 extension.

Importing the package makes ``detectron2`` importable (the installed one, else the bundled stand-in)
and registers every component. It touches no data path and reads no file.
"""

from typing import TYPE_CHECKING, Any

from ._seam import ensure_detectron2

ensure_detectron2()

from . import data, evaluation, meta_arch  # noqa: E402  (registration needs detectron2)
from ._version import __version__  # noqa: E402
from .config import add_iaunet_config, config_path, get_iaunet_cfg  # noqa: E402

if TYPE_CHECKING:
    from .engine import build_optimizer
    from .inference import Segmenter

get_cfg = get_iaunet_cfg
"""In the place of ``detectron2.config.get_cfg``: Detectron2's keys and those of this package."""

__all__ = [
    "Segmenter",
    "__version__",
    "add_iaunet_config",
    "build_optimizer",
    "config_path",
    "data",
    "evaluation",
    "get_cfg",
    "get_iaunet_cfg",
    "meta_arch",
]


def __getattr__(name: str) -> Any:
    # Imported when they are used: they bring much that a config or a data set does not need.
    if name == "Segmenter":
        from .inference import Segmenter

        return Segmenter
    if name == "build_optimizer":
        from .engine import build_optimizer

        return build_optimizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
