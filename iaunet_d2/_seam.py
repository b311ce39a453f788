"""The seam to Detectron2: the installed package, else the bundled stand-in under its names."""

import importlib
import importlib.util
import logging
import os
import pkgutil
import sys

logger = logging.getLogger(__name__)

STANDIN = "iaunet_d2.standin"
FORCE_VARIABLE = "IAUNET_D2_STANDIN"


def uses_standin() -> bool:
    """Whether ``detectron2`` in this process is the stand-in."""
    return getattr(sys.modules.get("detectron2"), "__name__", "") == STANDIN


def standin_forced() -> bool:
    """Whether the environment asks for the stand-in, whatever is installed."""
    return os.environ.get(FORCE_VARIABLE, "") not in ("", "0")


def ensure_detectron2() -> None:
    """Make ``import detectron2`` work.

    Detectron2 is looked for, not imported: where it is installed it is used, and an error inside it
    is shown when it is imported. Where it is absent, or ``IAUNET_D2_STANDIN=1`` is set, every
    module of :mod:`iaunet_d2.standin` takes its namesake's place in ``sys.modules``.

    Raises:
        ImportError: Detectron2 was imported before the stand-in was asked for.
    """
    if uses_standin():
        return
    forced = standin_forced()
    if not forced and importlib.util.find_spec("detectron2") is not None:
        return
    if "detectron2" in sys.modules:
        raise ImportError(
            f"{FORCE_VARIABLE} is set, but Detectron2 is imported already; import iaunet_d2 first."
        )
    package = importlib.import_module(STANDIN)
    names = [STANDIN] + [m.name for m in pkgutil.walk_packages(package.__path__, STANDIN + ".")]
    for name in names:
        sys.modules["detectron2" + name[len(STANDIN) :]] = importlib.import_module(name)
    logger.info(
        "Detectron2 is %s: using the bundled stand-in.", "set aside" if forced else "not installed"
    )
