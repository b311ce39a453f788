"""Two process-wide tables: how to load a data set of a given name, and what is known about it."""

import types
from collections import UserDict
from collections.abc import Callable
from typing import Any

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog"]


class _Catalog(UserDict):
    """What both catalogs share: names can be listed and removed."""

    def list(self) -> list[str]:
        """The registered names, in the order of their registration."""
        return [*self]

    def remove(self, name: str) -> None:
        """Forget ``name``.

        Raises:
            KeyError: it is not registered.
        """
        del self[name]

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}({', '.join(self)})"

    __str__ = __repr__


class _DatasetCatalog(_Catalog):
    """Data-set names and the functions that load them, each giving one dict per image."""

    def register(self, name: str, func: Callable[[], Any]) -> None:
        """Make ``func`` the loader of ``name``; it must give the same records whenever it is
        called.

        Raises:
            TypeError: ``func`` cannot be called.
            ValueError: the name is taken.
        """
        if not callable(func):
            raise TypeError(
                f"data set {name!r}: expected a function that loads it, got {type(func).__name__}"
            )
        if name in self:
            raise ValueError(f"data set {name!r} is registered already; remove it first")
        self[name] = func

    def get(self, name: str) -> Any:  # type: ignore[override]
        """Load the data set: its records, as its loader gives them.

        Raises:
            KeyError: it is not registered.
        """
        if name not in self:
            known = ", ".join(self) or "none"
            raise KeyError(f"data set {name!r} is not registered; registered are: {known}")
        return self[name]()


class Metadata(types.SimpleNamespace):
    """What is known of one data set: class names, annotation file. Once set, it stays as it is."""

    # Also what a Metadata made without a name reports, so that errors can always tell it.
    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        known = ", ".join(self.__dict__) or "nothing"
        raise AttributeError(f"metadata of data set {self.name!r} has no {key!r}; it has {known}")

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self.__dict__ and self.__dict__[key] != value:
            raise ValueError(
                f"metadata of data set {self.name!r}: {key} is {self.__dict__[key]!r} and cannot "
                f"become {value!r}; use another name, or remove this one from MetadataCatalog"
            )
        super().__setattr__(key, value)

    def as_dict(self) -> dict[str, Any]:
        """A shallow copy of all attributes."""
        return dict(self.__dict__)

    def set(self, **attributes: Any) -> "Metadata":
        """Set several attributes, and give the object back."""
        for key, value in attributes.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute, or ``default`` where it is absent."""
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog):
    """Data-set names and their :class:`Metadata`, made empty when first asked for."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        """The metadata of ``name``: always the same object for the same name."""
        if not name:
            raise ValueError("a data set's name cannot be empty")
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
