"""A data set in the making: image by image, so that an interrupted conversion goes on where it was.

Layout of what is made, the same for every data set::

    <root>/<name>/images/...                 image files
    <root>/<name>/annotations/<split>.json   COCO instances; file_name is relative to images/
    <root>/<name>/prepared.json              licence, counts per split, and what was mended

It grows in ``result/`` of a staging folder, and is moved to its place once it is complete.
"""

import filecmp
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ...files import atomic_write
from ..coco_mend import CONTRADICTIONS, REMARKS, Findings, Unusable, mend_annotation
from ..errors import BadFileError
from ..readers import image_size
from ..segmentation import encode_mask
from .disk import parts_below
from .shards import Shard, read_shard, write_coco, write_shard


@dataclass
class Sample:
    """One converted image.

    Attributes:
        image: a file that is copied byte for byte; or pixels (H, W) or (H, W, 3), RGB, uint8 or
            uint16, that are written as PNG.
        annotations: COCO annotations without id and image_id: ``category_id`` and ``segmentation``
            (polygons or run lengths) or ``mask`` (H, W), bool. Area, bbox and iscrowd are added
            where they are missing; other keys stay.
        extra: further keys of the image's entry.
    """

    image: Path | np.ndarray
    annotations: Sequence[dict[str, Any]]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One image to convert.

    Attributes:
        key: tells it from the others of its split, and stays the same from run to run.
        file_name: where it goes below ``images/``; items of the same image may share a file.
        make: reads and converts it; called only if an earlier run has not done so. What it notes
            is kept with the image.
    """

    key: str
    file_name: str
    make: Callable[[], Sample]


@dataclass(frozen=True)
class _Split:
    """What a split consists of: its images, and the ids of its categories."""

    shards: list[Shard]
    categories: tuple[int, ...]


class Build:
    """Collects a data set's splits below a staging folder.

    Args:
        staging: the folder; what an earlier run has finished in it is used.
        categories: category id -> name.
    """

    def __init__(self, staging: Path, categories: dict[int, str]) -> None:
        self.staging = staging
        self.categories = dict(categories)
        self.notes: Counter[str] = Counter()
        self._result = staging / "result"
        self._written: set[str] = set()
        self._splits: dict[str, _Split] = {}

    def note(self, what: str, count: int = 1) -> None:
        """Count something that was left out or changed; it is told at the end."""
        if count:
            self.notes[what] += count

    def split(self, name: str, items: Sequence[Item]) -> None:
        """Convert the images of a split that are not converted yet, with a progress bar.

        Raises:
            BadFileError: there are none, a key stands twice, different images would go to one
                file, or an annotation contradicts its image or the categories.
        """
        self._require_new(name)
        if not items:
            raise BadFileError(f"split {name!r} has no image: the files given hold none of it")
        repeated = [key for key, n in Counter(item.key for item in items).items() if n > 1]
        if repeated:
            raise BadFileError(f"split {name!r} lists {repeated[:3]} more than once")
        folder = self.staging / "shards" / name
        folder.mkdir(parents=True, exist_ok=True)
        shards = []
        for index, item in enumerate(tqdm(items, desc=f"converting {name}", unit="image")):
            path = folder / f"{index:06d}.jsonl"
            shard = self._finished(item, path)
            if shard is None:
                shard = self._convert(item, path)
            else:
                self.notes.update(shard.notes)
            self._written.add(item.file_name)
            shards.append(shard)
        self._splits[name] = _Split(shards, tuple(self.categories))

    def subset(
        self,
        name: str,
        of: str,
        keep: Callable[[dict[str, Any]], bool] | None = None,
        categories: Sequence[int] | None = None,
    ) -> None:
        """A split made of another one; one without images is not written.

        Args:
            name: of the new split.
            of: the split that it is taken from.
            keep: says which images, by their entry; None takes all.
            categories: ids of those that it has; None takes all of the other split.
        """
        self._require_new(name)
        if of not in self._splits:
            raise ValueError(
                f"split {name!r} is made of {of!r}, which is not there; there are "
                f"{list(self._splits)}"
            )
        whole = self._splits[of]
        shards = [shard for shard in whole.shards if keep is None or keep(dict(shard.image))]
        chosen = whole.categories if categories is None else tuple(categories)
        self._splits[name] = _Split(shards, chosen)

    def finish(self, target: Path, about: dict[str, Any]) -> dict[str, tuple[int, int]]:
        """Write the annotation files and ``prepared.json``, and move the whole to ``target``.

        What is at ``target`` is put aside until its successor is there, and removed then, together
        with the staging folder.

        Args:
            target: the data set's folder, on the disk of the staging folder.
            about: goes into ``prepared.json`` and the annotation files' ``info``.

        Returns:
            split -> number of images, number of instances.
        """
        splits = {name: split for name, split in self._splits.items() if split.shards}
        if not splits:
            raise BadFileError(f"{target}: the files given hold no split of the data set")
        shutil.rmtree(self._result / "annotations", ignore_errors=True)
        (self._result / "annotations").mkdir(parents=True)
        counts = {}
        for name, split in tqdm(splits.items(), desc="writing", unit="split"):
            path = self._result / "annotations" / f"{name}.json"
            named = {k: self.categories[k] for k in split.categories}
            with open(path, "w", encoding="utf-8", newline="\n") as stream:
                counts[name] = write_coco(stream, split.shards, named, about)
                stream.flush()
                os.fsync(stream.fileno())
        content = {
            **about,
            "splits": {n: {"images": i, "instances": k} for n, (i, k) in counts.items()},
            "notes": dict(sorted(self.notes.items())),
            "mended": _mended(splits.values()),
        }
        with atomic_write(self._result / "prepared.json") as binary:
            binary.write(json.dumps(content, indent=2).encode())
        put_in_place(self.staging, target)
        return counts

    def _require_new(self, name: str) -> None:
        if name in self._splits:
            raise ValueError(f"split {name!r} is made twice")

    def _finished(self, item: Item, path: Path) -> Shard | None:
        """What an earlier run has made of an item, if all of it is there."""
        shard = read_shard(path)
        if shard is None or (shard.key, shard.image["file_name"]) != (item.key, item.file_name):
            return None
        image = self._result / "images" / item.file_name
        is_whole = image.is_file() and image.stat().st_size == shard.image_bytes
        return shard if is_whole else None

    def _convert(self, item: Item, path: Path) -> Shard:
        before = self.notes.copy()
        sample = item.make()
        image = self._image_path(item.file_name)
        _write_image(sample.image, image, item.file_name in self._written)
        height, width = image_size(image)
        findings = Findings()
        annotations = []
        for number, annotation in enumerate(sample.annotations, 1):
            try:
                annotations.append(self._complete(annotation, height, width, findings, number))
            except Unusable as unusable:
                if unusable.kind in CONTRADICTIONS:
                    raise BadFileError(
                        f"{item.file_name} ({item.key}): instance {number} cannot be used: "
                        f"annotations must not {CONTRADICTIONS[unusable.kind]} (the image has "
                        f"{height}x{width}, height x width). Fetch the source files again."
                    ) from unusable
                findings.add(unusable.kind, number)
        entry = {"file_name": item.file_name, "height": height, "width": width, **sample.extra}
        shard = Shard(
            path=path,
            key=item.key,
            image=entry,
            image_bytes=image.stat().st_size,
            categories=[annotation["category_id"] for annotation in annotations],
            findings=dict(findings.counts),
            notes=dict(self.notes - before),
        )
        write_shard(shard, annotations)
        return shard

    def _image_path(self, file_name: str) -> Path:
        parts = parts_below(file_name)
        if not parts or "/".join(parts) != file_name:
            raise BadFileError(
                f"{file_name!r}: is not a relative path of an image with plain slashes. The "
                "annotation file is damaged, or not the published one."
            )
        path = self._result / "images" / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _complete(
        self,
        annotation: dict[str, Any],
        height: int,
        width: int,
        findings: Findings,
        number: int,
    ) -> dict[str, Any]:
        """The annotation with all that COCO asks for; its outline from its mask, if it has one."""
        if annotation.get("category_id") not in self.categories:
            raise Unusable("category")
        given = {"iscrowd": 0, **annotation, "id": number}
        mask = given.pop("mask", None)
        if mask is not None:
            if mask.shape != (height, width):
                raise Unusable("size")
            given["segmentation"] = encode_mask(mask)
        # What a format never has needs no remark: it is computed for every instance alike.
        quiet = Findings()
        mended = mend_annotation(given, height, width, "ignore", quiet)
        for kind in quiet.counts.keys() - {"box", "area", "ignored"}:
            findings.add(kind, number)
        mended["bbox"] = [round(float(v), 3) for v in mended["bbox"]]
        return {k: v for k, v in mended.items() if k not in ("id", "image_id")}


def put_in_place(staging: Path, target: Path) -> None:
    """Move ``staging/result`` to ``target``, put what is there aside before, and clean up."""
    aside = staging / "replaced"
    if target.exists():
        os.rename(target, aside)
    os.rename(staging / "result", target)
    shutil.rmtree(staging)


def _mended(splits: Any) -> dict[str, int]:
    """What was found in all images, each counted once however many splits it is in."""
    shards = {shard.path: shard for split in splits for shard in split.shards}
    total: Counter[str] = Counter()
    for shard in shards.values():
        total.update(shard.findings)
    return {REMARKS[kind]: total[kind] for kind in REMARKS if total[kind]}


def _write_image(image: Path | np.ndarray, path: Path, shared: bool) -> None:
    """Copy or write an image; one that this data set has already must be the same."""
    if isinstance(image, np.ndarray):
        encoded = _encode_png(image, path)
        if shared:
            _require_same(path.read_bytes() == encoded, path, "pixels")
            return
        with atomic_write(path) as stream:
            stream.write(encoded)
    elif shared:
        _require_same(filecmp.cmp(image, path, shallow=False), path, str(image))
    else:
        with open(image, "rb") as source, atomic_write(path) as stream:
            shutil.copyfileobj(source, stream, 1 << 20)


def _require_same(is_same: bool, path: Path, what: str) -> None:
    if not is_same:
        raise BadFileError(
            f"{path.name}: two different images of the data set would have this name (the second: "
            f"{what}). Give the files of one copy only."
        )


def _encode_png(image: np.ndarray, path: Path) -> bytes:
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: pixels are written as PNG; give the file that suffix")
    is_rgb = image.ndim == 3 and image.shape[2] == 3
    if (
        image.dtype not in (np.uint8, np.uint16)
        or not image.size
        or not (image.ndim == 2 or is_rgb)
    ):
        raise ValueError(
            f"{path}: pixels are {image.dtype} of shape {image.shape}; uint8 or uint16 of (H, W) "
            "or (H, W, 3) can be written"
        )
    # OpenCV's order is blue, green, red.
    done, encoded = cv2.imencode(
        ".png", np.ascontiguousarray(image[..., ::-1]) if is_rgb else image
    )
    if not done:
        raise BadFileError(f"{path}: pixels of shape {image.shape} cannot be written as PNG")
    return encoded.tobytes()
