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

    ``import iaunet_d2`` calls it, and so does an ``import detectron2`` that comes first, where this
    project is installed (``_iaunet_d2_seam``). Where it is only on the path, without an install,
    ``import detectron2`` first is Python's own ``ModuleNotFoundError``.

    Raises:
        ImportError: Detectron2 was imported before the stand-in was asked for.
    """
    if uses_standin():
        return
    forced = standin_forced()
    if not forced and _is_installed():
        return
    if "detectron2" in sys.modules:
        raise ImportError(
            f"{FORCE_VARIABLE} is set, but Detectron2 is imported already; import iaunet_d2 first."
        )
    package = importlib.import_module(STANDIN)
    names = [STANDIN] + [m.name for m in pkgutil.walk_packages(package.__path__, STANDIN + ".")]
    # All at once: another thread never finds the package without its modules.
    sys.modules.update(
        {"detectron2" + name[len(STANDIN) :]: importlib.import_module(name) for name in names}
    )
    logger.info(
        "Detectron2 is %s: using the bundled stand-in.", "set aside" if forced else "not installed"
    )


def _is_installed() -> bool:
    """Whether there is a Detectron2 other than what our own finder offers."""
    spec = importlib.util.find_spec("detectron2")
    return spec is not None and spec.origin != STANDIN
