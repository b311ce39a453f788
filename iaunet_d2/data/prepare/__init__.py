"""Published data sets as COCO files of one layout: ``iaunet prepare <name>``."""

from importlib import import_module

from .build import Build, Item, Sample
from .recipe import Count, Recipe, Remote
from .run import Prepared, prepare
from .source import SourceFiles

__all__ = [
    "NAMES",
    "Build",
    "Count",
    "Item",
    "Prepared",
    "Recipe",
    "Remote",
    "Sample",
    "SourceFiles",
    "load_recipe",
    "prepare",
]

NAMES = (
    "livecell",
    "evican2",
    "isbi2014",
    "revvity25",
    "neurips22",
    "sartorius",
    "bbbc010",
    "dsb2018",
)
"""The data sets that there is a recipe for: each a module of this package with a ``RECIPE``."""


def load_recipe(name: str) -> Recipe:
    """The recipe of a data set.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in NAMES:
        raise ValueError(f"data set {name!r} is not known. There are: {', '.join(NAMES)}")
    recipe: Recipe = import_module(f".{name}", __name__).RECIPE
    return recipe
