"""Data sets as COCO packs: ``train.json``, ``val.json``, ``test.json`` and ``images/``."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import BadFileError
from .build import Build, Item, Sample
from .coco_source import CocoSource, bare_name, read_coco_source, require_images
from .source import SourceFiles

SPLITS = ("train", "val", "test")
# Computed anew, or, as "license", the number of an entry that the annotation files do not have.
_NOT_EXTRA = ("id", "file_name", "height", "width", "license")


def convert_coco_pack(source: SourceFiles, build: Build, categories: Mapping[int, str]) -> bool:
    """Convert a pack's splits, if the files are one.

    Images are copied byte for byte; polygons, run lengths and further keys of images and
    annotations stay as they are. Categories are matched by their names.

    Args:
        source: the files.
        build: what they are handed to.
        categories: the data set's category id -> name.

    Returns:
        Whether there was an annotation file; if not, nothing was done.

    Raises:
        BadFileError: an annotation file or image cannot be used.
    """
    found = {name: path for name in SPLITS if (path := source.find(f"{name}.json"))}
    if not found:
        return False
    # Nearer files come first, so they are entered last.
    images = {path.name.lower(): path for path in reversed(source.all("images/*"))}
    for name, path in found.items():
        pack = read_coco_source(path)
        require_images(pack, images, "the folder images/ of the pack")
        if pack.strays:
            build.note("annotations of images that the file does not list: left out", pack.strays)
        build.split(name, _items(pack, images, _category_ids(pack, categories)))
    return True


def _items(pack: CocoSource, images: Mapping[str, Path], ids: Mapping[Any, int]) -> list[Item]:
    return [
        Item(
            key=bare_name(image),
            file_name=bare_name(image),
            make=partial(_sample, pack, image, images[bare_name(image).lower()], ids),
        )
        for image in pack.images
    ]


def _sample(pack: CocoSource, image: dict[str, Any], path: Path, ids: Mapping[Any, int]) -> Sample:
    annotations = []
    for annotation in pack.annotations_by_image[image["id"]]:
        if annotation.get("category_id") not in ids:
            raise BadFileError(
                f"{pack.path}: annotation {annotation.get('id')!r} has the category_id "
                f"{annotation.get('category_id')!r}; {', '.join(map(str, ids))} are known. Correct "
                "it."
            )
        kept = {k: v for k, v in annotation.items() if k not in ("id", "image_id")}
        annotations.append({**kept, "category_id": ids[annotation["category_id"]]})
    extra = {k: v for k, v in image.items() if k not in _NOT_EXTRA}
    return Sample(path, annotations, extra)


def _category_ids(pack: CocoSource, categories: Mapping[int, str]) -> dict[Any, int]:
    """The pack's category id -> the data set's."""
    if not pack.categories:
        return {identity: identity for identity in categories}
    by_name = {name.lower(): identity for identity, name in categories.items()}
    unknown = [name for name in pack.categories.values() if name.lower() not in by_name]
    if unknown:
        raise BadFileError(
            f"{pack.path}: has the categories {', '.join(unknown)}; this data set has "
            f"{', '.join(categories.values())}. It is a pack of another data set."
        )
    return {identity: by_name[name.lower()] for identity, name in pack.categories.items()}
