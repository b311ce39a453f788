"""Records from COCO's JSON format, and back."""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from iopath.common.file_io import file_lock

from ...structures import BoxMode, PolygonMasks
from ...utils.file_io import PathManager
from ..catalog import DatasetCatalog, MetadataCatalog

__all__ = [
    "convert_to_coco_dict",
    "convert_to_coco_json",
    "load_coco_json",
    "register_coco_instances",
]

logger = logging.getLogger(__name__)

Record = dict[str, Any]
_ANNOTATION_KEYS = ("iscrowd", "bbox", "keypoints", "category_id")
_MIN_POLYGON_LENGTH = 6


def load_coco_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[Record]:
    """Records of a COCO instance file, ordered by image id. No image is opened.

    Args:
        json_file: the file.
        image_root: folder to which its file names are relative.
        dataset_name: a data set whose metadata shall learn the class names and the mapping of
            category ids to 0, 1, …; None leaves metadata and ids alone.
        extra_annotation_keys: of the annotations, to be kept beside the usual ones.

    Returns:
        dicts with file_name, height, width, image_id and annotations, each with bbox, bbox_mode
        (XYWH_ABS), category_id, and iscrowd, segmentation and keypoints where the file has them.
        Polygons of fewer than three points are dropped, and instances of which none remains.

    Raises:
        ValueError: the file is not COCO's format, in parts or as a whole.
        KeyError: an annotation's category is not among the file's categories.
    """
    content = _read(PathManager.get_local_path(os.fspath(json_file)), json_file)
    class_ids = None
    if dataset_name is not None:
        class_ids = _note_categories(content["categories"], dataset_name)
    # By id, so that an image named twice is one record.
    images = {image["id"]: image for image in content["images"]}
    by_image: dict[Any, list[Record]] = defaultdict(list)
    for annotation in content.get("annotations", []):
        by_image[annotation["image_id"]].append(annotation)
    _check_annotations(by_image, images, json_file)

    keys = (*_ANNOTATION_KEYS, *(extra_annotation_keys or ()))
    records, dropped = [], 0
    for image_id in sorted(images):
        image = images[image_id]
        found = [_convert_annotation(item, keys, class_ids) for item in by_image[image_id]]
        kept = [annotation for annotation in found if annotation is not None]
        dropped += len(found) - len(kept)
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image_id,
                "annotations": kept,
            }
        )
    logger.info("%d images in %s", len(records), json_file)
    if dropped:
        logger.warning("%s: dropped %d instances without a valid polygon", json_file, dropped)
    return records


def _read(path: str, json_file: Any) -> dict[str, Any]:
    with open(path, encoding="utf-8") as stream:
        content = json.load(stream)
    missing = {"images", "categories"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise ValueError(f"{json_file} is not a COCO file: it has no {', '.join(sorted(missing))}")
    return content


def _note_categories(categories: list[dict[str, Any]], dataset_name: str) -> dict[int, int]:
    """Class names and the mapping of ids into the metadata; the mapping is given back."""
    names = {category["id"]: category["name"] for category in categories}
    ids = sorted(names)
    if ids != list(range(1, len(ids) + 1)) and "coco" not in dataset_name:
        logger.warning("%s: category ids %s are mapped to 0, 1, ...", dataset_name, ids)
    mapping = {category_id: index for index, category_id in enumerate(ids)}
    MetadataCatalog.get(dataset_name).set(
        thing_classes=[names[category_id] for category_id in ids],
        thing_dataset_id_to_contiguous_id=mapping,
    )
    return mapping


def _check_annotations(
    by_image: dict[Any, list[Record]], images: dict[Any, Any], json_file: Any
) -> None:
    """Warn of annotations of no image; refuse ids used twice."""
    strays = sum(len(items) for image_id, items in by_image.items() if image_id not in images)
    if strays:
        logger.warning("%s: %d annotations belong to no image of the file", json_file, strays)
    ids = [item["id"] for image_id in images for item in by_image.get(image_id, ())]
    # COCO's own minival files have ids twice, harmlessly.
    if len(set(ids)) < len(ids) and "minival" not in os.fspath(json_file):
        raise ValueError(f"{json_file}: {len(ids) - len(set(ids))} annotation ids are used twice")


def _convert_annotation(
    item: Record, keys: Sequence[str], class_ids: dict[int, int] | None
) -> Record | None:
    """One annotation in the form of a record, or None where its segmentation is of no use."""
    where = f"annotation {item.get('id')} of image {item['image_id']}"
    if item.get("ignore", 0):
        raise ValueError(f'{where}: "ignore" is not supported; use iscrowd, or leave it out')
    annotation = {key: item[key] for key in keys if key in item}
    if "bbox" in annotation and not annotation["bbox"]:
        raise ValueError(f"{where}: bbox is empty; it should be [x, y, width, height]")
    if item.get("segmentation"):
        segmentation = _convert_segmentation(item["segmentation"])
        if not segmentation:
            return None
        annotation["segmentation"] = segmentation
    if item.get("keypoints"):
        # COCO counts pixels, records measure from the corner: x and y move to the pixel's centre.
        annotation["keypoints"] = [
            value if position % 3 == 2 else value + 0.5
            for position, value in enumerate(item["keypoints"])
        ]
    annotation["bbox_mode"] = BoxMode.XYWH_ABS
    if class_ids is not None:
        category = annotation["category_id"]
        if category not in class_ids:
            raise KeyError(f"{where}: category_id {category} is not in the file's categories")
        annotation["category_id"] = class_ids[category]
    return annotation


def _convert_segmentation(segmentation: Any) -> Any:
    """Polygons of at least three points, or an RLE in compressed form."""
    if not isinstance(segmentation, dict):
        return [p for p in segmentation if len(p) % 2 == 0 and len(p) >= _MIN_POLYGON_LENGTH]
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def register_coco_instances(
    name: str, metadata: dict[str, Any], json_file: str | os.PathLike, image_root: str | os.PathLike
) -> None:
    """Give a COCO instance file a name under which it is trained on and evaluated.

    Args:
        name: the name.
        metadata: more to be known about it; may be empty.
        json_file: the file; it is read when the data set is first used.
        image_root: folder of its images.

    Raises:
        TypeError: name or paths are of another type.
        ValueError: the name has other metadata already.
    """
    for value, types in (
        (name, str),
        (json_file, (str, os.PathLike)),
        (image_root, (str, os.PathLike)),
    ):
        if not isinstance(value, types):
            raise TypeError(
                f"register_coco_instances: expected a name and two paths, got {value!r}"
            )
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """A registered data set, with "thing_classes" in its metadata, as the content of a COCO file.

    Raises:
        TypeError: a segmentation that is neither polygons nor RLE.
    """
    metadata = MetadataCatalog.get(dataset_name)
    mapping = metadata.get("thing_dataset_id_to_contiguous_id", {})
    category_ids = {index: category_id for category_id, index in mapping.items()}
    images: list[Record] = []
    annotations: list[Record] = []
    for position, record in enumerate(DatasetCatalog.get(dataset_name)):
        image_id = record.get("image_id", position)
        size = {"width": int(record["width"]), "height": int(record["height"])}
        images.append({"id": image_id, **size, "file_name": str(record["file_name"])})
        for annotation in record.get("annotations", []):
            category = annotation["category_id"]
            head = {"id": len(annotations) + 1, "image_id": image_id}
            head["category_id"] = int(category_ids.get(category, category))
            annotations.append({**head, **_describe(annotation)})
    logger.info("%s: %d images, %d annotations", dataset_name, len(images), len(annotations))
    names = enumerate(metadata.thing_classes)
    content: dict[str, Any] = {
        "info": {"description": f"{dataset_name}, converted from Detectron2's format"},
        "images": images,
        "categories": [{"id": category_ids.get(i, i), "name": name} for i, name in names],
        "licenses": None,
    }
    # A file without the key is a test set, whose annotations nobody knows.
    return {**content, "annotations": annotations} if annotations else content


def _describe(annotation: Record) -> Record:
    """Box (x, y, width, height), area, crowd flag and segmentation of one annotation, as JSON knows
    them.
    """
    box = np.asarray(annotation["bbox"], dtype=float).tolist()
    box = BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYWH_ABS)
    described: Record = {
        "bbox": [round(float(value), 3) for value in box],
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "area": float(box[2] * box[3]),
    }
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        described["area"] = float(PolygonMasks([segmentation]).area()[0])
        segmentation = [np.asarray(polygon).tolist() for polygon in segmentation]
    elif isinstance(segmentation, dict):
        described["area"] = float(mask_util.area(segmentation))
        if isinstance(segmentation["counts"], bytes):
            segmentation = {**segmentation, "counts": segmentation["counts"].decode("ascii")}
    elif segmentation is not None:
        raise TypeError(f"a segmentation is polygons or RLE, got {type(segmentation).__name__}")
    if segmentation is not None:
        described["segmentation"] = segmentation
    return described


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Write a registered data set as a COCO file.

    Args:
        dataset_name: a registered name.
        output_file: path of the file.
        allow_cached: leave a file that is already there.
    """
    path = Path(output_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Every process evaluates, one converts.
    with file_lock(output_file):
        if path.exists() and allow_cached:
            logger.warning("%s is used as it is; delete it if %s changed", path, dataset_name)
            return
        partial = path.with_name(path.name + ".tmp")
        partial.write_text(json.dumps(convert_to_coco_dict(dataset_name)), encoding="utf-8")
        partial.replace(path)
