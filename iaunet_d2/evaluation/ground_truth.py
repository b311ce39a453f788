"""The annotations that predictions are held against."""

import functools
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from pycocotools import mask as mask_util

from ..data.errors import BadFileError
from ..data.segmentation import segmentation_rle
from .coco_matches import CocoTruth


class GroundTruth:
    """A COCO file, indexed.

    Attributes:
        content: the file's content; what :func:`ground_truth` returns has compressed run lengths
            in place of polygons, which take many times the memory.
        annotated: whether the file has annotations at all; those of a test set may be kept back.
        coco: the content, indexed for COCO's metrics.
        images: image id -> its entry.
        annotations: image id -> its annotations; every image of the file has an entry.
        categories: contiguous class number -> category id of the file.
        names: class names by contiguous class number.
    """

    def __init__(
        self, content: dict[str, Any], contiguous_ids: dict[int, int], names: list[str]
    ) -> None:
        self.content = content
        self.annotated = "annotations" in content
        self.coco = CocoTruth({"annotations": [], **content})
        self.images = self.coco.images
        self.annotations = self.coco.annotations
        self.categories = {number: identity for identity, number in contiguous_ids.items()}
        self.names = names

    def instances(self, image_id: int, classes: tuple[int, ...] = ()) -> list[dict[str, Any]]:
        """Annotations of an image without crowd regions, of some contiguous classes or of all."""
        wanted = {self.categories[number] for number in classes}
        return [
            annotation
            for annotation in self.annotations[image_id]
            if not annotation.get("iscrowd") and (not wanted or annotation["category_id"] in wanted)
        ]

    def rles(self, annotations: list[dict[str, Any]], image_id: int) -> list[dict[str, Any]]:
        """Compressed run lengths of annotations of an image, of the file's or of others."""
        image = self.images[image_id]
        size = (image["height"], image["width"])
        return [segmentation_rle(a.get("segmentation"), *size) for a in annotations]

    def masks(self, image_id: int, classes: tuple[int, ...] = ()) -> np.ndarray:
        """Masks (N, H, W), bool, of :meth:`instances`. Only for a few images at a time."""
        found = self.rles(self.instances(image_id, classes), image_id)
        if not found:
            image = self.images[image_id]
            return np.zeros((0, image["height"], image["width"]), dtype=bool)
        return mask_util.decode(found).transpose(2, 0, 1).astype(bool)


def ground_truth(dataset_name: str) -> GroundTruth:
    """The ground truth of a registered data set; evaluators of one run share it.

    A data set that names no COCO file is converted to one in memory, as Detectron2 does.

    Raises:
        BadFileError: its annotation file is not there.
        ValueError: it names neither a file nor its classes.
    """
    metadata = MetadataCatalog.get(dataset_name)
    path = metadata.get("json_file")
    known = metadata.get("thing_dataset_id_to_contiguous_id")
    names = tuple(metadata.get("thing_classes") or ())
    ids = None if known is None else tuple(sorted(known.items()))
    if not path:
        if not names:
            raise ValueError(
                f"data set {dataset_name!r} names neither a COCO file nor its classes: set "
                "MetadataCatalog.get(name).thing_classes"
            )
        return _convert(dataset_name, DatasetCatalog[dataset_name], ids, names)
    if not os.path.isfile(path):
        raise BadFileError(
            f"{path}: does not exist, and is needed to evaluate {dataset_name!r}. Set "
            "MetadataCatalog.get(name).json_file to a COCO file."
        )
    return _load(str(path), os.stat(path).st_mtime_ns, ids, names)


_Ids = tuple[tuple[int, int], ...] | None


@functools.lru_cache(maxsize=2)
def _load(path: str, changed: int, ids: _Ids, names: tuple[str, ...]) -> GroundTruth:
    with open(path, encoding="utf-8") as stream:
        return _indexed(json.load(stream), ids, names)


@functools.lru_cache(maxsize=1)
def _convert(
    dataset_name: str, load: Callable[[], Any], ids: _Ids, names: tuple[str, ...]
) -> GroundTruth:
    """Convert a data set; ``load`` stands in the cache's key for what is registered by the name."""
    return _indexed(convert_to_coco_dict(dataset_name), ids, names)


def _indexed(content: dict[str, Any], ids: _Ids, names: tuple[str, ...]) -> GroundTruth:
    listed = sorted(category["id"] for category in content["categories"])
    contiguous = dict(ids) if ids is not None else {c: k for k, c in enumerate(listed)}
    if not names:
        by_id = {category["id"]: category["name"] for category in content["categories"]}
        names = tuple(by_id[identity] for identity in listed)
    truth = GroundTruth(content, contiguous, list(names))
    for image_id, annotations in truth.annotations.items():
        for annotation, rle in zip(annotations, truth.coco.rles(image_id), strict=True):
            if annotation.get("segmentation"):
                annotation["segmentation"] = rle
    return truth
