"""EVICAN2: cells and nuclei of 30 cell lines, in brightfield and phase contrast.

Schwendy et al., 2020: https://doi.org/10.1093/bioinformatics/btaa225; data:
https://doi.org/10.17617/3.AJBV1S

Splits: ``train``, ``val``, and the evaluation tiers ``easy``, ``medium`` and ``difficult`` with
cells only, as in the IAUNet paper; ``cell_nucleus_<split>`` with both categories, as published.

Peculiarities of the published files, and what is done:

* The images of train and val are annotated only in part: cells without an outline look like
  background to a training, and count as such in an evaluation on val. The three tiers are annotated
  in full.
* Images with ``Background`` in their name, of train and val, show no cell. They are left out, as
  the authors of IAUNet do.
* Annotations have neither ``area`` nor ``bbox``: both are computed from the mask, as the published
  evaluation does for the area. Outlines that reach out of their image are clipped by rasterisation.
* Image ids, and file names, may be the same in several files: nothing is looked up across splits.
* Copies may hold masks (``EVICAN_train_masks``) or images with blurred background
  (``..._BGblurred``) under the same file names: they are not taken for images.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import BadFileError
from .build import Build, Item, Sample
from .coco_source import CocoSource, bare_name, read_coco_source, require_images
from .recipe import Count, Recipe, Remote
from .source import SourceFiles

CATEGORIES = {1: "cell", 2: "nucleus"}
_FILES = {
    "train": "instances_train2019_EVICAN2.json",
    "val": "instances_val2019_EVICAN2.json",
    "easy": "instances_eval2019_easy_EVICAN2.json",
    "medium": "instances_eval2019_medium_EVICAN2.json",
    "difficult": "instances_eval2019_difficult_EVICAN2.json",
}
_PARTLY_ANNOTATED = ("train", "val")
_IMAGE_PATTERNS = ("*.jpg", "*.jpeg", "*.png", "*.tif", "*.tiff")
_NOT_IMAGES = re.compile(r"(train|val|eval)\w*_(mask|bgblurred)|^masks$", re.IGNORECASE)
_FOLDER = re.compile("(?<![a-z])(train|val|eval)(?![a-z])", re.IGNORECASE)
_EDMOND = "https://edmond.mpg.de/api/access/datafile"


def convert(files: SourceFiles, build: Build) -> None:
    """Convert the splits whose annotation files are given.

    Raises:
        BadFileError: there is none of them, one is damaged, or its images are missing.
    """
    given = {split: path for split, name in _FILES.items() if (path := files.find(name))}
    if not given:
        files.need(*_FILES.values())
    found = _images(files)
    for split, path in given.items():
        _convert_split(
            split, _without_background(split, read_coco_source(path), build), found, build
        )
    for split in given:
        build.subset(split, of=f"cell_nucleus_{split}", categories=(1,))


def _folder_of(split: str) -> str:
    """The three tiers share a folder."""
    return split if split in _PARTLY_ANNOTATED else "eval"


def _images(files: SourceFiles) -> dict[str, dict[str, Path]]:
    """Folder (train, val, eval, or "" for another) -> file name in lower case -> nearest file."""
    found: dict[str, dict[str, Path]] = {"train": {}, "val": {}, "eval": {}, "": {}}
    for pattern in _IMAGE_PATTERNS:
        for path in files.all(pattern):
            folders = _folders(path, files)
            if any(map(_NOT_IMAGES.search, folders)):
                continue
            named = [m[1].lower() for folder in folders if (m := _FOLDER.search(folder))]
            found[named[-1] if named else ""].setdefault(path.name.lower(), path)
    return found


def _folders(path: Path, files: SourceFiles) -> tuple[str, ...]:
    """Names of the folders from the given one down to the file; that of an archive is its name."""
    root = next(root for root in files.roots if path.is_relative_to(root))
    return (root.name, *path.relative_to(root).parts)[:-1]


def _without_background(split: str, source: CocoSource, build: Build) -> CocoSource:
    if split not in _PARTLY_ANNOTATED:
        return source
    kept = [image for image in source.images if "background" not in bare_name(image).lower()]
    if len(kept) < len(source.images):
        build.note(f"{split}: background images: left out", len(source.images) - len(kept))
    build.note(f"{split}: images that are annotated only in part", len(kept))
    return CocoSource(
        source.path, kept, source.annotations_by_image, source.categories, source.strays
    )


def _convert_split(
    split: str, source: CocoSource, found: Mapping[str, Mapping[str, Path]], build: Build
) -> None:
    folder = _folder_of(split)
    images = {**found[""], **found[folder]}
    require_images(source, images, f"EVICAN_{folder}2019.zip")
    numbers = _category_numbers(source)
    items = []
    for image in source.images:
        name = bare_name(image)
        make = partial(_sample, source, image, images[name.lower()], numbers)
        items.append(Item(f"{image['id']} {name}", f"{folder}/{name}", make))
    if source.strays:
        build.note(f"{split}: annotations of images that are not listed", source.strays)
    build.split(f"cell_nucleus_{split}", items)


def _category_numbers(source: CocoSource) -> dict[Any, int]:
    """The file's category id -> ours, by name; as published if the file lists no category."""
    if not source.categories:
        return {identity: identity for identity in CATEGORIES}
    ours = {name: identity for identity, name in CATEGORIES.items()}
    others = sorted({name for name in source.categories.values() if name.lower() not in ours})
    if others:
        raise BadFileError(
            f"{source.path}: has the categories {', '.join(others[:5])}; Cell and Nucleus are "
            "those of EVICAN2. Give the file as it was published."
        )
    return {identity: ours[name.lower()] for identity, name in source.categories.items()}


def _sample(
    source: CocoSource, image: dict[str, Any], path: Path, numbers: Mapping[Any, int]
) -> Sample:
    annotations = source.annotations_by_image[image["id"]]
    for annotation in annotations:
        if annotation.get("category_id") not in numbers:
            raise BadFileError(
                f"{source.path}: annotation {annotation.get('id')!r} has the category id "
                f"{annotation.get('category_id')!r}, which the file does not list. Fetch it again."
            )
    ours = [{**a, "category_id": numbers[a["category_id"]]} for a in annotations]
    return Sample(path, ours, {"source_id": image["id"]})


RECIPE = Recipe(
    name="evican2",
    title="EVICAN2: cells and nuclei of 30 cell lines in brightfield and phase contrast",
    homepage="https://doi.org/10.17617/3.AJBV1S",
    licence="CC BY 4.0",
    categories=CATEGORIES,
    obtain=(
        "EVICAN2 is EVICAN_{train,val,eval}2019.zip and instances_*_EVICAN2.json, about 3 GB, of "
        "https://doi.org/10.17617/3.AJBV1S."
    ),
    convert=convert,
    remotes=tuple(
        Remote(name, f"{_EDMOND}/{identity}")
        for name, identity in (
            ("EVICAN_train2019.zip", 102910),
            ("EVICAN_val2019.zip", 102911),
            ("EVICAN_eval2019.zip", 102912),
            (_FILES["train"], 102915),
            (_FILES["val"], 102916),
            (_FILES["easy"], 102918),
            (_FILES["medium"], 102919),
            (_FILES["difficult"], 102917),
        )
    ),
    expected={
        f"{prefix}{tier}": Count(images)
        for prefix in ("cell_nucleus_", "")
        for tier, images in (("easy", 33), ("medium", 33), ("difficult", 32))
    },
)
