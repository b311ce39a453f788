"""Revvity-25: brightfield images of cells whose outlines overlap (IAUNet, arXiv 2508.01928).

The files are single ones, no archive: ``annotations/{train,valid}.json`` and ``images/*.png`` of
both. Decisions:

- ``valid.json`` is the paper's test set (there is no third file), so it becomes the split ``test``.
- Every category becomes category 1, "cell": the paper has one class, whose id and name in the files
  are not documented.
- Outlines are whole cells, also where others cover them. What else an annotation holds (such as
  visible or occluded parts) is kept as it is. So are outlines that stand twice in an image: the
  published results count them; how many there are is told.
"""

import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import BadFileError
from .build import Build, Item, Sample
from .coco_source import CocoSource, bare_name, read_coco_source, require_images
from .disk import parts_below
from .recipe import Count, Recipe, Remote
from .source import SourceFiles

logger = logging.getLogger(__name__)

CELL = 1
INSTANCES = 2937
"""Cells in both splits together, by the paper."""

_SPLITS = {"train": "train.json", "test": "valid.json"}
_HOME = "https://huggingface.co/datasets/YaroslavPrytula/Revvity-25"
_REVISION = "ef6234dfe19905cb7c71fa12e61712a9090836d4"


def convert(files: SourceFiles, build: Build) -> None:
    """Convert both splits.

    Raises:
        BadFileError: a file is missing or damaged, or an image has another size than stated.
    """
    found: dict[str, Path] = {}
    for path in files.all("images/*") + files.all("*"):
        found.setdefault(path.name.lower(), path)
    sources = {
        split: read_coco_source(files.need(f"annotations/{name}", name))
        for split, name in _SPLITS.items()
    }
    for source in sources.values():
        require_images(source, found, "the folder images/ of the published data set")
        _remark(source, build)
    for split, source in sources.items():
        build.split(split, [_item(image, source, found) for image in source.images])
    count = sum(len(a) for s in sources.values() for a in s.annotations_by_image.values())
    if count != INSTANCES:
        logger.warning(
            "train.json and valid.json hold %d annotations together, published are %d",
            count,
            INSTANCES,
        )
        build.note(f"annotations in both files together; the paper states {INSTANCES}", count)


def more_remotes(folder: Path) -> tuple[Remote, ...]:
    """The images that the annotation files below a folder list.

    Raises:
        BadFileError: an annotation file cannot be read, or lists a file outside ``images/``.
    """
    remotes = {}
    for name in _SPLITS.values():
        source = read_coco_source(folder / "annotations" / name)
        for image in source.images:
            path = _published_path(image["file_name"], source.path)
            remotes[path] = _remote(path)
    return tuple(remotes.values())


def _published_path(file_name: str, listed_in: Path) -> str:
    """Where an image is among the published files: ``images/<file_name>``."""
    parts = parts_below(file_name)
    if not parts or not parts[-1].lower().endswith(".png"):
        raise BadFileError(
            f"{listed_in}: lists the image {file_name!r}, which is no PNG file below images/. It "
            "is not fetched. Compare the file with the published one."
        )
    return "/".join(parts if parts[0] == "images" else ("images", *parts))


def _remote(path: str) -> Remote:
    return Remote(path, f"{_HOME}/resolve/{_REVISION}/{quote(path)}")


def _item(image: dict[str, Any], source: CocoSource, found: dict[str, Path]) -> Item:
    name = bare_name(image)
    path = found[name.lower()]
    make = partial(_sample, path, source, image["id"])
    return Item(f"{image['id']} {name}", path.name, make)


def _sample(path: Path, source: CocoSource, image_id: Any) -> Sample:
    annotations = source.annotations_by_image[image_id]
    return Sample(path, [{**a, "category_id": CELL} for a in annotations])


def _remark(source: CocoSource, build: Build) -> None:
    """Count what is unlike what was to be expected."""
    name = source.path.name
    if len(source.categories) > 1:
        build.note(f"categories in {name}: all taken as one, cell", len(source.categories))
    if source.strays:
        build.note(
            f"annotations in {name} of images that it does not list: left out", source.strays
        )
    doubled = sum(1 for _ in _doubled(source))
    if doubled:
        build.note(f"annotations in {name} have the outline of another: kept", doubled)


def _doubled(source: CocoSource) -> Iterator[dict[str, Any]]:
    """Annotations that have the very outline of an earlier one of their image."""
    for annotations in source.annotations_by_image.values():
        seen = set()
        for annotation in annotations:
            outline = json.dumps(annotation.get("segmentation"), sort_keys=True)
            if outline in seen:
                yield annotation
            seen.add(outline)


RECIPE = Recipe(
    name="revvity25",
    title="Revvity-25: overlapping cells in brightfield images (55 + 55)",
    homepage=_HOME,
    licence="CC BY-NC 4.0",
    categories={CELL: "cell"},
    obtain=f"Fetch the folders images and annotations from {_HOME}.",
    convert=convert,
    remotes=tuple(_remote(f"annotations/{name}") for name in _SPLITS.values()),
    more_remotes=more_remotes,
    expected={"train": Count(55), "test": Count(55)},
)
