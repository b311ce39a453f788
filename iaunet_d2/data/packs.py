"""Three small packs of real images by name, which ``configs/comparison`` trains and tests on.

``<root>/<folder>/images/`` and ``<root>/<folder>/<split>.json``, where the root is
``$IAUNET_D2_PACKS``, else ``../shared/data``. They are no part of the repository.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from .registered import Split

PACKS_VARIABLE = "IAUNET_D2_PACKS"

# names begin with, folder, class
_TABLE = (
    ("worms_pack", "bbbc010_worms", "worm"),
    ("nuclei_pack", "dsb2018_nuclei", "nucleus"),
    ("usiigaci_pack", "usiigaci_phase", "cell"),
)


@dataclass(frozen=True)
class PackSplit(Split):
    """A split of a pack."""

    def root(self) -> Path:
        """Return ``$IAUNET_D2_PACKS``, else ``../shared/data``."""
        return Path(os.environ.get(PACKS_VARIABLE, "../shared/data")).expanduser()

    def json_file(self) -> Path:
        """Return the annotation file, below the present root."""
        return self.root() / self.folder / f"{self.file_stem}.json"

    def missing(self) -> str:
        """Say in one line what is not there and what to do; empty if all is."""
        json_file, images = self.json_file(), self.image_root()
        if json_file.is_file() and images.is_dir():
            return ""
        absent = images if json_file.is_file() else json_file
        return f"{absent}: does not exist (data set {self.name!r}). {self.other_way()}"

    def other_way(self) -> str:
        """Say how to get at the data set, or at another."""
        return (
            f"The packs are no part of iaunet_d2: set {PACKS_VARIABLE} to the folder that holds "
            f"{self.folder} (now {os.path.abspath(self.root())}), or name your own files in "
            "DATASETS.TRAIN and TEST: coco:<json>:<image folder>."
        )


PACKS: dict[str, Split] = {
    f"{prefix}_{split}": PackSplit(f"{prefix}_{split}", folder, split, (name,), ("coco",))
    for prefix, folder, name in _TABLE
    for split in ("train", "val")
}
"""Every split of a pack by its registered name."""
