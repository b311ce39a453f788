"""Published data sets by name: one table, from the name to the files that ``iaunet prepare`` makes.

``<root>/<folder>/images/`` and ``<root>/<folder>/annotations/<split>.json``, where the root is
``$DETECTRON2_DATASETS``, else ``./datasets``. The names are none of those that Detectron2 registers
itself.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .coco_json import CocoContent, load_coco
from .datasets_root import datasets_root
from .errors import BadFileError

LIVECELL_TYPES = ("a172", "bt474", "bv2", "huh7", "mcf7", "shsy5y", "skbr3", "skov3")

_THREE = ("train", "val", "test")
_TWO = ("train", "val")
_EVICAN = ("train", "val", "easy", "medium", "difficult")
_CELL = ("cell",)
_COCO = ("coco",)

# names begin with, folder, split files begin with, splits, classes by category id from 1,
# evaluators
_TABLE: tuple[tuple[str, str, str, tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    ("livecell", "livecell", "", _THREE, _CELL, ("livecell",)),
    *(
        (f"livecell_{kind}", "livecell", f"{kind}_", _THREE, _CELL, ("livecell",))
        for kind in LIVECELL_TYPES
    ),
    ("livecell_crop", "livecell", "crop_", _THREE, _CELL, _COCO),
    ("evican2", "evican2", "", _EVICAN, _CELL, _COCO),
    ("evican2_cell_nucleus", "evican2", "cell_nucleus_", _EVICAN, ("cell", "nucleus"), _COCO),
    ("isbi2014", "isbi2014", "", _THREE, ("nucleus", "cytoplasm"), ("isbi2014",)),
    ("revvity25", "revvity25", "", ("train", "test"), _CELL, _COCO),
    ("neurips22", "neurips22", "", _THREE, _CELL, ("neurips22",)),
    ("sartorius", "sartorius", "", (*_TWO, "all"), ("shsy5y", "astro", "cort"), ("sartorius",)),
    ("bbbc010", "bbbc010", "", _TWO, ("worm",), _COCO),
    ("dsb2018", "dsb2018", "", _THREE, ("nucleus",), ("coco", "label_map")),
)


@dataclass(frozen=True)
class Split:
    """A split of a published data set.

    Attributes:
        name: in Detectron2's catalogs.
        folder: below the data sets' root.
        file_stem: of the annotation file.
        classes: names of the categories 1, 2, ...
        evaluators: names in :data:`iaunet_d2.evaluation.EVALUATOR_REGISTRY`.
    """

    name: str
    folder: str
    file_stem: str
    classes: tuple[str, ...]
    evaluators: tuple[str, ...]

    def root(self) -> Path:
        """Where ``folder`` is looked for."""
        return datasets_root()

    def json_file(self) -> Path:
        """The annotation file, below the present root."""
        return self.root() / self.folder / "annotations" / f"{self.file_stem}.json"

    def image_root(self) -> Path:
        """The image folder, below the present root."""
        return self.root() / self.folder / "images"

    def contiguous_ids(self) -> dict[int, int]:
        """Category id to class number."""
        return {number + 1: number for number in range(len(self.classes))}

    def load(self, crowd: str = "instance", on_bad: str = "stop") -> CocoContent:
        """Read the split from below the present root; options as of :func:`load_coco`.

        Raises:
            BadFileError: it is not there (with the command that makes it), cannot be used, or has
                other categories than it should.
        """
        if problem := self.missing():
            raise BadFileError(problem)
        json_file, images = self.json_file(), self.image_root()
        content = load_coco(str(json_file), str(images), crowd, on_bad)
        found = {identity: content.class_names[k] for identity, k in content.contiguous_ids.items()}
        wanted = dict(enumerate(self.classes, 1))
        if found != wanted:
            raise BadFileError(
                f"{json_file}: has the categories {found}; those of data set {self.name!r} are "
                f"{wanted}. Name the file as it is: coco:{json_file}:{images}. {self.other_way()}"
            )
        return content

    def missing(self) -> str:
        """Say in one line what is not there and what to do; empty if all is."""
        json_file, images = self.json_file(), self.image_root()
        if not json_file.parent.parent.is_dir():
            return self._absent()
        if not json_file.is_file():
            return self._split_absent(json_file)
        if not images.is_dir():
            return (
                f"{images}: is not a folder (images of data set {self.name!r}). The data set is "
                f"incomplete; make it again: {self._command(' --force')}"
            )
        return ""

    def other_way(self) -> str:
        """How to get a data set that fits the name."""
        return f"Or make the data set again: {self._command(' --force')}"

    def _absent(self) -> str:
        root = datasets_root()
        if "DETECTRON2_DATASETS" in os.environ:
            where = f"{root}, which is $DETECTRON2_DATASETS"
        else:
            where = f"{root.absolute()}, because DETECTRON2_DATASETS is not set"
        return (
            f"{root / self.folder}: does not exist (data set {self.name!r}, looked for in {where})."
            f" Make it: {self._command()} If it is elsewhere, set DETECTRON2_DATASETS to the "
            f"folder that holds {self.folder}."
        )

    def _split_absent(self, json_file: Path) -> str:
        there = sorted(path.name for path in json_file.parent.glob("*.json"))
        return (
            f"{json_file}: does not exist (data set {self.name!r}). In {json_file.parent} there "
            f"{'are ' + ', '.join(there) if there else 'is no annotation file'}. The files of this "
            f"split were not given when {self.folder} was made; make it again with them: "
            f"{self._command(' --force')}"
        )

    def _command(self, option: str = "") -> str:
        """The command that makes the data set, and what it needs; ends in a full stop."""
        from .prepare import load_recipe  # needed for errors alone

        recipe = load_recipe(self.folder)
        command = f"iaunet prepare {self.folder}{option}"
        if recipe.remotes:
            return f"{command} --download (with its files at hand: --source <archive or folder>)."
        return f"{command} --source <archive or folder>. Its files: {recipe.obtain}"


def _splits() -> Iterator[Split]:
    for prefix, folder, stem, splits, classes, evaluators in _TABLE:
        for split in splits:
            yield Split(f"{prefix}_{split}", folder, f"{stem}{split}", classes, evaluators)


SPLITS: dict[str, Split] = {split.name: split for split in _splits()}
"""Every split of a published data set by its registered name."""
