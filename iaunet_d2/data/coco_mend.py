"""One COCO annotation: mended where that is possible, named where it is not."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .segmentation import (
    Box,
    compressed_rle,
    is_rle,
    polygons_area,
    polygons_box,
    rle_extent,
    usable_polygons,
)

_EXAMPLES = 5

CONTRADICTIONS = {
    "image": "refer to an image id that is not in the file",
    "category": "refer to a category id that is not in the file",
    "size": "have run lengths of another size than their image, or malformed ones",
}
"""Kinds of findings that the file must not have."""

REMARKS = {
    "dict": "annotation lists are a dict by number: its values are taken",
    "degenerate": "annotations enclose no area (empty, under 3 points, odd count): left out",
    "part": "annotations have polygon parts that enclose no area: those parts are left out",
    "box only": "annotations have a box and no mask: left out",
    "outside": "annotations lie wholly outside their image: left out",
    "clipped": "annotations reach beyond their image: clipped at its edge",
    "box": "annotations had no usable bbox: computed from the mask",
    "area": "annotations had no usable area: computed from the mask",
    "iscrowd": "annotations had no iscrowd: taken as 0",
    "crowd": "annotations have iscrowd=1: kept as instances (INPUT.CROWD ignore leaves them out)",
    "ignored": "annotations have iscrowd=1: not trained on (INPUT.CROWD instance keeps them)",
    "id": "annotations had no id, id 0, or one used twice: numbered anew for the evaluation",
}
"""Kinds of findings that are mended or left out, and told."""

# Half a pixel beyond the frame is a difference between conventions, not an annotation outside.
_TOLERANCE = 0.5


class Unusable(Exception):
    """An annotation that cannot be used.

    Attributes:
        kind: a key of :data:`CONTRADICTIONS` or :data:`REMARKS`.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass
class Findings:
    """How many annotations were of each kind, and the numbers of the first ones."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, annotation_id: Any) -> None:
        """Count one annotation of this kind."""
        self.counts[kind] += 1
        if len(self.examples[kind]) < _EXAMPLES:
            self.examples[kind].append(annotation_id)

    def lines(self, meanings: dict[str, str]) -> list[str]:
        """One line for each kind of ``meanings`` that was found."""
        return [
            f"{self.counts[kind]} {meaning} (annotation id {self._shown(kind)})"
            for kind, meaning in meanings.items()
            if self.counts[kind]
        ]

    def _shown(self, kind: str) -> str:
        more = ", ..." if self.counts[kind] > len(self.examples[kind]) else ""
        return ", ".join(map(str, self.examples[kind])) + more


def mend_annotation(
    annotation: dict[str, Any], height: int, width: int, crowd: str, findings: Findings
) -> dict[str, Any]:
    """The annotation with mask, box, area and ``iscrowd`` fit for training and evaluation.

    Polygon coordinates outside the frame stay: cutting the numbers would bend the outline inside,
    and rasterisation clips. Boxes are clipped.

    Args:
        annotation: one entry of the file.
        height: of its image.
        width: of its image.
        crowd: see :func:`iaunet_d2.data.coco_json.load_coco`.
        findings: what was mended is counted here.

    Raises:
        Unusable: with the kind; the caller counts it.
    """
    name = annotation.get("id")
    segmentation, extent, area = _usable_mask(annotation, height, width, findings)
    mended = {**annotation, "segmentation": segmentation}
    mended["bbox"] = _usable_box(annotation, extent, height, width, findings)
    if not (_is_number(annotation.get("area")) and annotation["area"] > 0):
        findings.add("area", name)
        if area is None:
            area = polygons_area([np.asarray(p, float) for p in segmentation], height, width)
        mended["area"] = area
    mended["iscrowd"] = _usable_crowd(annotation, crowd, findings)
    return mended


def _usable_mask(
    annotation: dict[str, Any], height: int, width: int, findings: Findings
) -> tuple[Any, Box, int | None]:
    """The segmentation, its extent (left, top, right, bottom), and its area where that is known."""
    segmentation: Any = annotation.get("segmentation")
    if not segmentation and annotation.get("bbox"):
        raise Unusable("box only")
    if is_rle(segmentation):
        try:
            rle = compressed_rle(segmentation)
        except ValueError as error:
            raise Unusable("size") from error
        if tuple(rle["size"]) != (height, width):
            raise Unusable("size")
        area, extent = rle_extent(rle)
        if not area:
            raise Unusable("degenerate")
        return {"size": [height, width], "counts": rle["counts"].decode()}, extent, area
    listed = segmentation if isinstance(segmentation, list) else []
    polygons = usable_polygons(listed)
    if not polygons:
        raise Unusable("degenerate")
    if len(polygons) < len(listed):
        findings.add("part", annotation.get("id"))
        listed = [p.tolist() for p in polygons]
    return listed, polygons_box(polygons), None


def _usable_box(
    annotation: dict[str, Any], extent: Box, height: int, width: int, findings: Findings
) -> list[float]:
    """The box (x, y, width, height) inside the frame; the mask's where the given is unusable."""
    inside = _clip(extent, height, width)
    if inside is None:
        raise Unusable("outside")
    reaches_out = _distance(inside, extent) > _TOLERANCE
    box = annotation.get("bbox")
    given = None
    if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
        corners = (box[0], box[1], box[0] + box[2], box[1] + box[3])
        given = _clip(corners, height, width)
        reaches_out |= given is not None and _distance(given, corners) > _TOLERANCE
    if given is None:
        findings.add("box", annotation.get("id"))
        given = inside
    if reaches_out:
        findings.add("clipped", annotation.get("id"))
    return [given[0], given[1], given[2] - given[0], given[3] - given[1]]


def _usable_crowd(annotation: dict[str, Any], crowd: str, findings: Findings) -> int:
    if annotation.get("iscrowd") is None:
        findings.add("iscrowd", annotation.get("id"))
    if not annotation.get("iscrowd"):
        return 0
    findings.add("crowd" if crowd == "instance" else "ignored", annotation.get("id"))
    return 0 if crowd == "instance" else 1


def _clip(corners: Box, height: int, width: int) -> Box | None:
    left, right = (min(max(v, 0), width) for v in (corners[0], corners[2]))
    top, bottom = (min(max(v, 0), height) for v in (corners[1], corners[3]))
    return (left, top, right, bottom) if right > left and bottom > top else None


def _distance(one: Box, other: Box) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
