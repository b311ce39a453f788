"""COCO files as people have them: read tolerantly, told what was found, and checked entry by entry.

Detectron2's own loader trusts the file: an unknown category is a KeyError, a missing box another,
and its mapper drops ``iscrowd=1`` without a word, which is every brush mask that CVAT exports. Here
each entry is checked; what cannot be used stops with the annotation's number, and what can be
mended is mended, counted and told once.
"""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detectron2.structures import BoxMode
from tqdm import tqdm

from .coco_mend import CONTRADICTIONS, REMARKS, Findings, Unusable, mend_annotation
from .errors import BadFileError

logger = logging.getLogger(__name__)

CROWD_CHOICES = ("instance", "ignore")
# What pycocotools and Detectron2's evaluator take as it is.
_HARMLESS = ("ignored",)


@dataclass
class CocoContent:
    """What a COCO file holds, ready for Detectron2.

    Attributes:
        dicts: Detectron2's standard data-set dicts, in the file's order; every image, also those
            without annotations.
        class_names: names by contiguous class number.
        contiguous_ids: the file's category id to contiguous class number.
        findings: how many annotations were of each kind that had to be told (keys as in the log's
            summary).
        evaluation: COCO content fit for pycocotools; None where the file itself is.
    """

    dicts: list[dict[str, Any]]
    class_names: list[str]
    contiguous_ids: dict[int, int]
    findings: dict[str, int]
    evaluation: dict[str, Any] | None


def load_coco(
    json_file: str,
    image_root: str,
    crowd: str = "instance",
    on_bad: str = "stop",
    tell: bool = True,
) -> CocoContent:
    """Read a COCO instance file.

    Args:
        json_file: the annotation file.
        image_root: folder that the file's ``file_name`` entries are relative to.
        crowd: ``"instance"`` keeps annotations with ``iscrowd=1`` as instances; ``"ignore"`` leaves
            them as they are, for the mapper to leave out and the evaluator to treat as crowd
            regions.
        on_bad: ``"stop"`` raises at annotations that contradict the file; ``"skip"`` leaves them
            out and counts them.
        tell: log what was found; False leaves that to the caller (``findings``).

    Raises:
        BadFileError: the file is missing, no JSON, no COCO, or contradicts itself; the message
            names the entries.
        ValueError: ``crowd`` or ``on_bad`` is not one of its choices.
    """
    if crowd not in CROWD_CHOICES or on_bad not in ("stop", "skip"):
        raise ValueError(
            f"INPUT.CROWD {crowd!r} must be one of {CROWD_CHOICES}, INPUT.ON_BAD_FILE {on_bad!r} "
            "'stop' or 'skip'"
        )
    content = _read_json(json_file)
    findings = Findings()
    annotations = _annotation_list(content, json_file, findings)
    images = _images_by_id(content, json_file)
    categories = _categories_by_id(content, json_file)

    usable = _usable(annotations, images, categories, crowd, findings, json_file)
    _tell(json_file, len(annotations), usable, findings, on_bad, tell)

    contiguous = {identity: k for k, identity in enumerate(sorted(categories))}
    fit = "info" in content and not findings.counts.keys() - _HARMLESS
    return CocoContent(
        dicts=_dataset_dicts(images, usable, contiguous, image_root),
        class_names=[categories[identity] for identity in sorted(categories)],
        contiguous_ids=contiguous,
        findings=dict(findings.counts),
        evaluation=None if fit else _evaluation_content(content, usable),
    )


def read_json_object(
    path: str | os.PathLike[str], object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: of the file.
        object_hook: applied to every object as it is read; see :func:`json.load`.

    Raises:
        BadFileError: it cannot be opened, is no JSON, or holds something else.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=object_hook)
    except FileNotFoundError as error:
        raise BadFileError(f"{path}: does not exist. Check the data set's name.") from error
    except OSError as error:
        raise BadFileError(f"{path}: cannot be opened ({error}).") from error
    except ValueError as error:
        raise BadFileError(
            f"{path}: is not JSON ({error}). It is damaged, or not an annotation file; export or "
            "fetch it again."
        ) from error
    if not isinstance(content, dict):
        raise BadFileError(
            f"{path}: is not a COCO file: it holds a {type(content).__name__}, not an object "
            "with 'images', 'annotations' and 'categories'. Export it as COCO instances."
        )
    return content


def _read_json(json_file: str) -> dict[str, Any]:
    content = read_json_object(json_file)
    needed: dict[str, tuple[type, ...]] = {
        "images": (list,),
        "annotations": (list, dict),
        "categories": (list,),
    }
    wrong = [k for k, kind in needed.items() if not isinstance(content.get(k), kind)]
    if wrong:
        raise BadFileError(
            f"{json_file}: is not a COCO instance file: {', '.join(map(repr, wrong))} missing or "
            f"not a list (found: {', '.join(list(content)[:8]) or 'nothing'}). Export it as COCO "
            "instances."
        )
    return content


def _annotation_list(
    content: dict[str, Any], json_file: str, findings: Findings
) -> list[dict[str, Any]]:
    annotations = content["annotations"]
    if isinstance(annotations, dict):  # older copies of LIVECell
        findings.add("dict", "all")
        annotations = list(annotations.values())
    for place, annotation in enumerate(annotations):
        missing = (
            {"image_id", "category_id"} - annotation.keys()
            if isinstance(annotation, dict)
            else {"all"}
        )
        if missing:
            raise BadFileError(
                f"{json_file}: annotation number {place} of the list lacks "
                f"{', '.join(sorted(missing))}. Export it as COCO instances."
            )
    return annotations


def _images_by_id(content: dict[str, Any], json_file: str) -> dict[Any, dict[str, Any]]:
    images: dict[Any, dict[str, Any]] = {}
    for place, image in enumerate(content["images"]):
        _check_image(image, place, json_file)
        if image["id"] in images:
            raise BadFileError(
                f"{json_file}: image id {image['id']} stands for "
                f"{images[image['id']]['file_name']} and for {image['file_name']}. Give every "
                "image an id of its own."
            )
        images[image["id"]] = image
    if not images:
        raise BadFileError(f"{json_file}: lists no image.")
    return images


def _check_image(image: Any, place: int, json_file: str) -> None:
    keys = image.keys() if isinstance(image, dict) else set()
    missing = {"id", "file_name", "height", "width"} - keys
    if missing:
        raise BadFileError(
            f"{json_file}: image number {place} of the list lacks {', '.join(sorted(missing))}. "
            "Add it."
        )
    identity, file_name = image["id"], image["file_name"]
    if not isinstance(identity, (int, str)):
        raise BadFileError(
            f"{json_file}: image number {place} of the list has the id {identity!r}; a number is "
            "needed."
        )
    if not isinstance(file_name, str) or not file_name:
        raise BadFileError(
            f"{json_file}: the file_name of image id {identity!r} is {file_name!r}; the name of "
            "the image file is needed. Correct it, or remove the image and its annotations."
        )
    size = (image["height"], image["width"])
    # True and False are whole numbers to Python.
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size):
        raise BadFileError(
            f"{json_file}: image id {identity!r}, {file_name}, has height and width {size}; whole "
            "numbers over 0 are needed. Write what the image file has."
        )


def _categories_by_id(content: dict[str, Any], json_file: str) -> dict[int, str]:
    categories: dict[int, str] = {}
    for category in content["categories"]:
        keys = category.keys() if isinstance(category, dict) else set()
        if {"id", "name"} - keys or category["id"] in categories:
            raise BadFileError(
                f"{json_file}: category {category!r} lacks id or name, or its id is used twice."
            )
        categories[category["id"]] = str(category["name"])
    if not categories:
        raise BadFileError(f"{json_file}: lists no category. Add at least one, with id and name.")
    return categories


def _usable(
    annotations: list[dict[str, Any]],
    images: dict[Any, dict[str, Any]],
    categories: dict[int, str],
    crowd: str,
    findings: Findings,
    json_file: str,
) -> list[dict[str, Any]]:
    """The annotations that can be used, mended; the others are counted in ``findings``."""
    usable = []
    seen: set[Any] = {None, 0}
    bar = tqdm(annotations, desc=f"reading {os.path.basename(json_file)}", delay=2, leave=False)
    for annotation in bar:
        name = annotation.get("id")
        try:
            if annotation["image_id"] not in images:
                raise Unusable("image")
            if annotation["category_id"] not in categories:
                raise Unusable("category")
            image = images[annotation["image_id"]]
            usable.append(
                mend_annotation(annotation, image["height"], image["width"], crowd, findings)
            )
        except Unusable as verdict:
            findings.add(verdict.kind, name)
            continue
        if name in seen:
            findings.add("id", name)
        seen.add(name)
    return usable


def _tell(
    json_file: str, listed: int, usable: list[Any], findings: Findings, on_bad: str, tell: bool
) -> None:
    """Raise for contradictions, or say once what was found.

    Raises:
        BadFileError: contradictions with ``on_bad="stop"``, or no annotation of a file that lists
            some has a mask.
    """
    contradictions = findings.lines(CONTRADICTIONS)
    if contradictions and on_bad == "stop":
        raise BadFileError(
            f"{json_file}: {'; '.join(contradictions)}. Correct the file, or set INPUT.ON_BAD_FILE "
            "skip to leave them out."
        )
    if findings.counts["box only"] == listed > 0:
        raise BadFileError(
            f"{json_file}: all {listed} annotations have a box and no mask. Instance segmentation "
            "needs masks: export 'segmentation' as polygons or run lengths."
        )
    lines = [f"{line}: left out" for line in contradictions] + findings.lines(REMARKS)
    if lines and tell:
        logger.warning(
            "%s: %d of %d annotations are used.\n  %s",
            json_file,
            len(usable),
            listed,
            "\n  ".join(lines),
        )


def _dataset_dicts(
    images: dict[Any, dict[str, Any]],
    annotations: list[dict[str, Any]],
    contiguous: dict[int, int],
    image_root: str,
) -> list[dict[str, Any]]:
    """Detectron2's standard data-set dicts."""
    records = {
        identity: {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": identity,
            "annotations": [],
        }
        for identity, image in images.items()
    }
    for annotation in annotations:
        records[annotation["image_id"]]["annotations"].append(
            {
                "segmentation": annotation["segmentation"],
                "bbox": annotation["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": contiguous[annotation["category_id"]],
                "iscrowd": annotation["iscrowd"],
            }
        )
    return list(records.values())


def _evaluation_content(
    content: dict[str, Any], annotations: list[dict[str, Any]]
) -> dict[str, Any]:
    """COCO content for pycocotools: numbered from 1, every entry complete."""
    return {
        "info": content.get("info") or {},
        "licenses": content.get("licenses") or [],
        "categories": content["categories"],
        "images": content["images"],
        "annotations": [{**a, "id": k} for k, a in enumerate(annotations, 1)],
    }
