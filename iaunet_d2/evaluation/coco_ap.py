"""COCO's average precision for any number of objects an image.

The rules are those of https://cocodataset.org/#detection-eval. pycocotools reports AP at 100
detections an image whatever limit it is given (or -1, if 100 is not among the limits); here every
number is at the limit asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .coco_curves import (
    ANY_AREA,
    COCO_AREAS,
    IOU_50,
    LIVECELL_AREAS,
    AreaRanges,
    CocoScores,
    average,
    summary,
)
from .coco_matches import CocoMatches, CocoTruth, Results

__all__ = [
    "ANY_AREA",
    "COCO_AREAS",
    "LIVECELL_AREAS",
    "AreaRanges",
    "CocoMatches",
    "CocoScores",
    "CocoTruth",
    "average",
    "coco_scores",
    "per_image_scores",
    "summary",
]


def coco_scores(
    content: Mapping[str, Any] | CocoTruth,
    results: Results,
    task: str,
    max_dets: Sequence[int],
    areas: AreaRanges = COCO_AREAS,
    use_categories: bool = True,
    image_ids: Sequence[Any] | None = None,
) -> CocoScores:
    """Precision and recall of predictions against the content of a COCO file.

    A prediction's size is its mask's for "segm" and its box's for "bbox", or its "area" if it has
    one. Image ids may be of any kind.

    Args:
        content: of a COCO file, or that indexed, which saves time at a second evaluation.
        results: predictions in COCO's format.
        task: "segm" or "bbox".
        max_dets: limits of detections an image and class, the best-scored first.
        areas: the area ranges.
        use_categories: only what is of the same class matches.
        image_ids: those that count; all by default.

    Raises:
        ValueError: a prediction is of an image that is not in the file, or lacks what ``task``
            compares.
    """
    truth = content if isinstance(content, CocoTruth) else CocoTruth(content)
    return truth.scores(results, task, max_dets, areas, use_categories, image_ids)


def per_image_scores(
    content: Mapping[str, Any] | CocoTruth,
    results: Results,
    task: str,
    limit: int,
    use_categories: bool = True,
    image_ids: Sequence[Any] | None = None,
) -> dict[Any, tuple[float, float]]:
    """AP (mean of IoU 0.50 to 0.95) and AP50 of each image as if it were alone.

    Args:
        content: of a COCO file, or that indexed.
        results: predictions in COCO's format.
        task: "segm" or "bbox".
        limit: detections an image and class.
        use_categories: only what is of the same class matches.
        image_ids: those wanted; all by default.

    Returns:
        Image id -> AP and AP50, 0 to 100, in the order of the file; NaN for an image without
        objects.

    Raises:
        ValueError: as :func:`coco_scores`.
    """
    truth = content if isinstance(content, CocoTruth) else CocoTruth(content)
    found = truth.matches(results, task, limit, ANY_AREA, use_categories, image_ids)
    scored = {}
    for image_id in truth.images if image_ids is None else image_ids:
        precision = found.scores([limit], [image_id]).precision
        scored[image_id] = (average(precision), average(precision[IOU_50]))
    return scored
