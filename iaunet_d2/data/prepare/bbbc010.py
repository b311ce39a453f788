"""BBBC010 (Broad Bioimage Benchmark Collection): C. elegans, a live/dead assay; worms cross.

100 wells (A01 to D24 and E01 to E04) of 696x520 pixels (width x height) in two channels, 16-bit
grey TIFF, from https://bbbc.broadinstitute.org/BBBC010:

* ``BBBC010_v2_images.zip``: ``1649_1109_0003_Amp5-1_B_20070424_<well>_<w1 or w2>_<GUID>.tif``.
  ``w2`` is taken, the brightfield image: seen in the files, and used so by several scripts, though
  some loaders' docstrings say that it is w1 (which shows bright worms on black: SYTOX or GFP).
* ``BBBC010_v1_foreground_eachworm.zip``: ``<well>_<number>_ground_truth.png``, a full frame for
  each worm, 0 and 255. Masks of crossing worms share pixels; each is an instance of its own.
* ``BBBC010_v1_foreground.zip``, not necessary: ``<well>_binary.png``, the foreground of the well.
  If it is given, wells whose foreground shows a worm without a mask of its own are told, and the
  images' entries count them (``unmasked_worms``). In the snapshot: A09, B11, C02 and C05.

Images are copied byte for byte. There is no official split; as in one published use, row D is
``val`` and the other rows are ``train``. The counts (1,407 masks, 330 of them in row D, none empty)
were taken from a public snapshot of version 1 of the masks, not from the archives named above.

Citation: image set BBBC010v1 [Waehlby et al., Nature Methods 2012; Moy et al., ACS Chem. Biol.
2009], available from the Broad Bioimage Benchmark Collection [Ljosa et al., Nature Methods 2012].
"""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..errors import BadFileError
from .build import Build, Item, Sample
from .coco_pack import convert_coco_pack
from .mask_files import mask_annotations, read_mask
from .recipe import Count, Recipe, Remote
from .source import SourceFiles

CATEGORIES = {1: "worm"}
VAL_ROW = "D"
_IMAGE = re.compile(r"_([A-P]\d\d)_w2_[^_]*$", re.IGNORECASE)
_MASK = re.compile(r"^([A-P]\d\d)_(\d+)_ground_truth$", re.IGNORECASE)
_FOREGROUND = re.compile(r"^([A-P]\d\d)_binary$", re.IGNORECASE)
# Worms have about 1,000 pixels. Outlines of the two archives differ by specks of up to 90 pixels;
# the worms without a mask of their own show as 460 and more.
_LEAST_WORM = 200


def unmasked_worms(foreground: np.ndarray, masks: Sequence[np.ndarray]) -> int:
    """How many connected parts of the size of a worm no mask covers.

    Args:
        foreground: (H, W), bool, all worms.
        masks: (H, W), bool, one worm each.
    """
    rest = foreground.copy()
    for mask in masks:
        rest &= ~mask
    parts, _ = ndimage.label(rest)
    return int((np.bincount(parts.ravel())[1:] >= _LEAST_WORM).sum())


def convert(source: SourceFiles, build: Build) -> None:
    """Convert the published archives, or a COCO pack made of them.

    Raises:
        BadFileError: a file is missing or damaged.
    """
    if convert_coco_pack(source, build, CATEGORIES):
        return
    images = _by_well([*source.all("*.tif"), *source.all("*.tiff")], _IMAGE)
    masks = _masks(source)
    if not images or not masks:
        raise BadFileError(
            f"{', '.join(map(str, source.roots))}: holds no file "
            f"{'*_<well>_w2_*.tif' if not images else '<well>_<number>_ground_truth.png'}. "
            f"{source.obtain}"
        )
    _note_wells(build, "without masks: image left out", images.keys() - masks.keys())
    _note_wells(build, "without a brightfield image: masks left out", masks.keys() - images.keys())
    foregrounds = _by_well(source.all("*_binary.png"), _FOREGROUND)
    for split, is_val in (("train", False), ("val", True)):
        wells = [w for w in sorted(images.keys() & masks.keys()) if w.startswith(VAL_ROW) == is_val]
        if wells:
            build.split(
                split,
                [_item(build, w, images[w], masks[w], foregrounds.get(w)) for w in wells],
            )


def _item(
    build: Build, well: str, image: Path, masks: Sequence[Path], foreground: Path | None
) -> Item:
    def make() -> Sample:
        extra: dict[str, str | int] = {
            "well": well,
            "treatment": "ampicillin" if int(well[1:]) <= 12 else "none",
        }
        if foreground:
            extra["unmasked_worms"] = _count_unmasked(foreground, masks)
        if extra.get("unmasked_worms"):
            build.note("wells that show a worm without a mask of its own: kept")
        return Sample(image, mask_annotations(image, masks, build.note), extra)

    return Item(well, image.name, make)


def _by_well(paths: Iterable[Path], pattern: re.Pattern[str]) -> dict[str, Path]:
    """Well -> file; nearer files come first."""
    found: dict[str, Path] = {}
    for path in paths:
        match = pattern.search(path.stem)
        if match:
            found.setdefault(match[1].upper(), path)
    return found


def _masks(source: SourceFiles) -> dict[str, list[Path]]:
    """Well -> its masks by their number; of copies the nearest."""
    numbered: dict[tuple[str, int], Path] = {}
    for path in source.all("*_ground_truth.png"):
        match = _MASK.match(path.stem)
        if match:
            numbered.setdefault((match[1].upper(), int(match[2])), path)
    masks: dict[str, list[Path]] = {}
    for (well, _), path in sorted(numbered.items()):
        masks.setdefault(well, []).append(path)
    return masks


def _count_unmasked(foreground: Path, masks: Sequence[Path]) -> int:
    whole, own = read_mask(foreground), [read_mask(path) for path in masks]
    if any(mask.shape != whole.shape for mask in own):
        raise BadFileError(
            f"{foreground}: has the height and width {whole.shape}, and a mask of the same well "
            "has others. Give both as they were published."
        )
    return unmasked_worms(whole, own)


def _note_wells(build: Build, what: str, wells: Collection[str]) -> None:
    if wells:
        build.note(f"wells {what} ({', '.join(sorted(wells))})", len(wells))


def _remote(name: str) -> Remote:
    return Remote(name, f"https://data.broadinstitute.org/bbbc/BBBC010/{name}")


RECIPE = Recipe(
    name="bbbc010",
    title="BBBC010: C. elegans live/dead assay, brightfield, crossing worms",
    homepage="https://bbbc.broadinstitute.org/BBBC010",
    licence=(
        "stated as CC0 by some who redistribute it and as CC BY 3.0 by others; see the Copyright "
        "paragraph of the homepage"
    ),
    categories=CATEGORIES,
    obtain=(
        "BBBC010_v2_images.zip and BBBC010_v1_foreground_eachworm.zip (and, for a check, "
        "BBBC010_v1_foreground.zip) are at https://data.broadinstitute.org/bbbc/BBBC010/; a COCO "
        "pack of them (train.json, val.json, images/) is taken too."
    ),
    convert=convert,
    remotes=tuple(
        map(
            _remote,
            (
                "BBBC010_v2_images.zip",
                "BBBC010_v1_foreground_eachworm.zip",
                "BBBC010_v1_foreground.zip",
            ),
        )
    ),
    expected={"train": Count(76, 1077), "val": Count(24, 330)},
)
