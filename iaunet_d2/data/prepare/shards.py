"""One file per converted image, from which COCO files are put together without parsing outlines.

The first line of a shard is a JSON object: the image's entry, the category of every annotation, and
what was found. Each further line is an annotation without ``id`` and ``image_id``.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ...files import atomic_write


@dataclass(frozen=True)
class Shard:
    """What the first line says.

    Attributes:
        path: of the shard.
        key: of the item that it was made of.
        image: the image's entry, without ``id``.
        image_bytes: size of the image file.
        categories: category id of each annotation.
        findings: kind of finding -> number of annotations.
        notes: what the conversion of this image noted -> how often.
    """

    path: Path
    key: str
    image: dict[str, Any]
    image_bytes: int
    categories: list[int]
    findings: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)


def write_shard(shard: Shard, annotations: Sequence[dict[str, Any]]) -> None:
    """Write a shard; whole or not at all."""
    head = {name: value for name, value in vars(shard).items() if name != "path"}
    with atomic_write(shard.path) as stream:
        stream.write(json.dumps(head).encode())
        for annotation in annotations:
            stream.write(b"\n" + json.dumps(annotation).encode())


def read_shard(path: Path) -> Shard | None:
    """The first line; None if the file is missing, or not a shard as this version writes it."""
    try:
        with open(path, encoding="utf-8") as stream:
            return Shard(path=path, **json.loads(stream.readline()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return None  # what a power failure or an older version left is made anew


def write_coco(
    stream: TextIO, shards: Iterable[Shard], categories: dict[int, str], about: dict[str, Any]
) -> tuple[int, int]:
    """Write COCO's file of a split, an image at a time: LIVECell's has over a million outlines.

    Ids count from 1: pycocotools takes a match with the id 0 for none.

    Args:
        stream: where it goes.
        shards: the images.
        categories: id -> name; annotations of others are left out.
        about: goes into ``info``.

    Returns:
        Number of images, number of annotations.
    """
    shards = list(shards)
    listed = [{"id": identity, "name": name} for identity, name in sorted(categories.items())]
    stream.write(f'{{"info": {json.dumps(about)}, "licenses": [],\n')
    stream.write(f'"categories": {json.dumps(listed)},\n"images": [\n')
    entries = (json.dumps({"id": k, **shard.image}) for k, shard in enumerate(shards, 1))
    stream.write(",\n".join(entries))
    stream.write('\n],\n"annotations": [')
    count = 0
    for image_id, shard in enumerate(shards, 1):
        with open(shard.path, encoding="utf-8") as lines:
            next(lines)
            for category, line in zip(shard.categories, lines, strict=True):
                if category in categories:
                    count += 1
                    start = f'\n{{"id": {count}, "image_id": {image_id}, '
                    # A line is an object that has at least its category: the brace goes.
                    stream.write(("," if count > 1 else "") + start + line.rstrip("\n")[1:])
    stream.write("\n]}\n")
    return len(shards), count
