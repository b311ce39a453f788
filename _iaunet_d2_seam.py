"""Lets ``import detectron2`` find the bundled stand-in before anything has imported ``iaunet_d2``.

``iaunet_d2_seam.pth``, which setup.py installs beside this module, calls :func:`install` whenever
Python starts. Hence a module of its own, which imports nothing then: ``iaunet_d2`` imports PyTorch.
"""

import sys

# ``typing`` would be the one import at the start of Python; type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

NAME = "detectron2"
# Tells :mod:`iaunet_d2._seam` this answer from an installed Detectron2's.
ORIGIN = "iaunet_d2.standin"


class StandinImporter:
    """Finds and loads ``detectron2`` where nothing else does."""

    @classmethod
    def find_spec(
        cls, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Find ``detectron2``; ``None`` for any other name.

        A finder that came later, as one of an editable install may, is asked first: an installed
        Detectron2 always wins.
        """
        if name != NAME:
            return None
        finders = sys.meta_path
        for finder in finders[finders.index(cls) + 1 :] if cls in finders else []:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        from importlib.machinery import ModuleSpec

        # A loader by its methods; the base class would be another import.
        return ModuleSpec(name, cls, origin=ORIGIN, is_package=True)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: "ModuleSpec") -> None:
        """Leave it to Python to make an empty module, for :meth:`exec_module` to replace."""

    @staticmethod
    def exec_module(module: "ModuleType") -> None:
        """Put the stand-in in the place of ``module``, by importing ``iaunet_d2``.

        The stand-in is no namesake's copy: it keeps its own name and spec, and Python returns what
        is in ``sys.modules`` afterwards.
        """
        from importlib import import_module

        # Else ``iaunet_d2`` would take the empty module for an imported Detectron2.
        del sys.modules[NAME]
        # The package first: a submodule first can deadlock with another thread's import of it.
        import_module("iaunet_d2")
        # Does nothing, unless ``iaunet_d2`` was there before and ``detectron2`` taken out since.
        import_module("iaunet_d2._seam").ensure_detectron2()


def install() -> None:
    """Ask :class:`StandinImporter` after every finder there is. A second call does nothing."""
    if StandinImporter not in sys.meta_path:
        sys.meta_path.append(StandinImporter)
