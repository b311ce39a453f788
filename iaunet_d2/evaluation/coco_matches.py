"""Predictions matched with the annotations of a COCO file, by faster-coco-eval.

Images are matched a few at a time and only the matches are kept, because the IoU of 2,000
predictions with 300 objects, for 1,500 images, would take 7 GB.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import mask as mask_util

from ..data.segmentation import segmentation_rle
from .coco_curves import COCO_AREAS, AreaRanges, CocoScores
from .rle import rle_areas

PAIRS_AT_ONCE = 2_000_000
"""Pairs of predictions and objects whose IoU is held at a time (about 32 bytes each)."""

Result = Mapping[str, Any]
"""A prediction in COCO's result format."""
Results = Iterable[Result] | Mapping[Any, Sequence[Result]]
"""Predictions in any order, or image id -> its predictions (made when asked for, if need be)."""


class CocoMatches:
    """Which predictions match which objects, of every image; made by :meth:`CocoTruth.matches`."""

    def __init__(
        self,
        evaluated: dict[Any, list[Any]],
        category_ids: tuple[int, ...],
        areas: AreaRanges,
        task: str,
    ) -> None:
        self._evaluated = evaluated  # image id -> faster-coco-eval's matches, class after class
        self.category_ids = category_ids
        self.areas = areas
        self.task = task

    def scores(self, max_dets: Sequence[int], image_ids: Sequence[Any] | None = None) -> CocoScores:
        """Precision and recall over some images.

        Args:
            max_dets: limits of detections an image; none over that of the matches.
            image_ids: those that count; all by default.
        """
        images = in_order(self._evaluated if image_ids is None else image_ids)
        limits = tuple(sorted(max_dets))
        evaluation = COCOeval_faster(iouType=self.task, print_function=_say_nothing)
        evaluation.separate_eval = True
        params = evaluation._paramsEval = evaluation.params
        params.imgIds, params.maxDets = list(range(len(images))), list(limits)
        classes, ranges = max(1, len(self.category_ids)), len(self.areas.names)
        params.catIds = [0]
        counts = (len(params.iouThrs), len(params.recThrs), classes, ranges, len(limits))
        precision, found_at = np.full(counts, -1.0), np.full(counts, -1.0)
        recall = np.full((counts[0], *counts[2:]), -1.0)
        for k, a in np.ndindex(classes, ranges):
            params.areaRng = [list(self.areas.bounds[a])]
            evaluation._evalImgs_cpp = [self._evaluated[i][k * ranges + a] for i in images]
            evaluation.accumulate()
            precision[:, :, k, a] = evaluation.eval["precision"][:, :, 0, 0]
            found_at[:, :, k, a] = evaluation.eval["scores"][:, :, 0, 0]
            recall[:, k, a] = evaluation.eval["recall"][:, 0, 0]
        return CocoScores(
            precision,
            recall,
            found_at,
            np.asarray(params.iouThrs),
            np.asarray(params.recThrs),
            self.category_ids,
            self.areas,
            limits,
        )


class CocoTruth:
    """Annotations of a COCO file, indexed once for many evaluations; the content stays as it is.

    Objects without "area" have that of their mask (of their box, if there is none), objects
    without "bbox" the box of their mask. Annotations of images that the file does not list are
    left out.

    Args:
        content: of a COCO file.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.images: dict[Any, dict[str, Any]] = {i["id"]: i for i in content["images"]}
        grouped: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            grouped[annotation["image_id"]].append(annotation)
        self.annotations = {image_id: grouped.get(image_id, []) for image_id in self.images}
        self.category_ids = tuple(sorted(category["id"] for category in content["categories"]))
        self._counts: dict[Any, list[bytes]] = {}
        self._areas: Mapping[Any, Sequence[float]] = {}

    def with_areas(self, areas: Mapping[Any, Sequence[float]]) -> "CocoTruth":
        """The same, with other areas: image id -> one for each of its annotations."""
        other = copy.copy(self)
        other._areas = areas
        return other

    def rles(self, image_id: Any) -> list[dict[str, Any]]:
        """Compressed run lengths of an image's annotations, in their order."""
        image = self.images[image_id]
        size = [image["height"], image["width"]]
        if image_id not in self._counts:
            found = (
                segmentation_rle(a.get("segmentation"), *size) for a in self.annotations[image_id]
            )
            self._counts[image_id] = [rle["counts"] for rle in found]
        return [{"size": size, "counts": counts} for counts in self._counts[image_id]]

    def scores(
        self,
        results: Results,
        task: str,
        max_dets: Sequence[int],
        areas: AreaRanges = COCO_AREAS,
        use_categories: bool = True,
        image_ids: Sequence[Any] | None = None,
    ) -> CocoScores:
        """Precision and recall of predictions; see :func:`coco_scores`."""
        found = self.matches(results, task, max(max_dets), areas, use_categories, image_ids)
        return found.scores(max_dets)

    def matches(
        self,
        results: Results,
        task: str,
        limit: int,
        areas: AreaRanges = COCO_AREAS,
        use_categories: bool = True,
        image_ids: Sequence[Any] | None = None,
    ) -> CocoMatches:
        """Match the ``limit`` best-scored predictions of every image and class with objects.

        Args:
            results: predictions in COCO's format.
            task: "segm" or "bbox".
            limit: detections an image and class.
            areas: the area ranges.
            use_categories: only what is of the same class matches.
            image_ids: those that count; all by default.

        Raises:
            ValueError: a prediction is of an image that is not in the file, or lacks what
                ``task`` compares.
        """
        if task not in ("segm", "bbox"):
            raise ValueError(f"COCO tasks are segm and bbox, got {task!r}")
        wanted = list(self.images if image_ids is None else image_ids)
        by_image = results if isinstance(results, Mapping) else _grouped(results)
        self._require_known(by_image)
        evaluated: dict[Any, list[Any]] = {}
        for chunk in self._chunks(wanted, by_image, limit):
            evaluated.update(self._evaluate(chunk, task, limit, areas, use_categories))
        categories = self.category_ids if use_categories else ()
        return CocoMatches(evaluated, categories, areas, task)

    def _require_known(self, image_ids: Iterable[Any]) -> None:
        if unknown := [image_id for image_id in image_ids if image_id not in self.images]:
            others = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
            raise ValueError(
                f"predictions of image {unknown[0]!r}{others}, which the annotation file does not "
                "list: predict the images of the same data set"
            )

    def _chunks(
        self, wanted: Sequence[Any], results: Mapping[Any, Sequence[Result]], limit: int
    ) -> Iterator[dict[Any, Sequence[Result]]]:
        """Image id -> predictions, of a few images at a time."""
        chunk: dict[Any, Sequence[Result]] = {}
        pairs = 0
        for image_id in wanted:
            found = results[image_id] if image_id in results else ()
            more = min(len(found), limit) * len(self.annotations[image_id]) + len(found)
            if chunk and pairs + more > PAIRS_AT_ONCE:
                yield chunk
                chunk, pairs = {}, 0
            chunk[image_id] = found
            pairs += more
        if chunk:
            yield chunk

    def _evaluate(
        self,
        chunk: Mapping[Any, Sequence[Result]],
        task: str,
        limit: int,
        areas: AreaRanges,
        use_categories: bool,
    ) -> dict[Any, list[Any]]:
        """Matches of each image: those of its first class in all area ranges, and so on."""
        truth: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        images = []
        for number, (image_id, results) in enumerate(chunk.items()):
            image = self.images[image_id]
            images.append({"id": number, "height": image["height"], "width": image["width"]})
            truth += self._objects(image_id, number, task)
            found += _predictions(results, number, task)
        categories = [{"id": identity} for identity in self.category_ids]
        sides = []
        for entries in (truth, found):
            for number, entry in enumerate(entries, 1):  # 0 would mean: no match
                entry["id"] = number
            sides.append(COCO({"images": images, "categories": categories, "annotations": entries}))
        evaluation = COCOeval_faster(*sides, task, print_function=_say_nothing, separate_eval=True)
        params = evaluation.params
        params.maxDets, params.useCats = [limit], int(use_categories)
        params.areaRng = [list(bounds) for bounds in areas.bounds]
        params.areaRngLbl = list(areas.names)
        evaluation.evaluate()
        # Images vary fastest there, then area ranges, then classes.
        matches = evaluation._evalImgs_cpp
        return {image_id: matches[n :: len(chunk)] for n, image_id in enumerate(chunk)}

    def _objects(self, image_id: Any, number: int, task: str) -> list[dict[str, Any]]:
        annotations = self.annotations[image_id]
        areas = self._areas.get(image_id)
        if areas is None:
            areas = [a.get("area") or self._area(a, k, image_id) for k, a in enumerate(annotations)]
        geometry: Sequence[Any]
        if task == "segm":
            name, geometry = "segmentation", self.rles(image_id)
        else:
            name = "bbox"
            geometry = [self._box(a, k, image_id) for k, a in enumerate(annotations)]
        return [
            {
                "image_id": number,
                "category_id": annotation["category_id"],
                "iscrowd": int(annotation.get("iscrowd", 0)),
                "area": float(area),
                name: shape,
            }
            for annotation, area, shape in zip(annotations, areas, geometry, strict=True)
        ]

    def _area(self, annotation: Mapping[str, Any], place: int, image_id: Any) -> float:
        if annotation.get("area") is not None:
            return float(annotation["area"])
        if annotation.get("segmentation"):
            return float(rle_areas([self.rles(image_id)[place]])[0])
        _, _, width, height = self._box(annotation, place, image_id)
        return width * height

    def _box(self, annotation: Mapping[str, Any], place: int, image_id: Any) -> list[float]:
        """Left, top, width, height in pixels."""
        given = annotation.get("bbox")
        if given is None or not len(given):
            return mask_util.toBbox(self.rles(image_id)[place]).tolist()
        return [float(value) for value in given]


def in_order(image_ids: Iterable[Any]) -> list[Any]:
    """Image ids, each once, ascending, as COCO has them; so predictions of equal score are ranked.

    Ids that cannot be compared with each other stay in the order given.
    """
    distinct = list(dict.fromkeys(image_ids))
    same = all(isinstance(i, int) for i in distinct) or all(isinstance(i, str) for i in distinct)
    return sorted(distinct) if same else distinct


def _grouped(results: Iterable[Result]) -> dict[Any, list[Result]]:
    grouped: dict[Any, list[Result]] = defaultdict(list)
    for result in results:
        grouped[result["image_id"]].append(result)
    return dict(grouped)


def _predictions(results: Sequence[Result], number: int, task: str) -> list[dict[str, Any]]:
    """An image's predictions as faster-coco-eval takes them, the image numbered."""
    name = "segmentation" if task == "segm" else "bbox"
    if missing := sum(name not in result for result in results):
        raise ValueError(
            f"{missing} predictions of image {results[0]['image_id']!r} have no {name}: {task} "
            "cannot be evaluated"
        )
    shapes = [result[name] for result in results]
    if task == "segm":
        areas = rle_areas(shapes).tolist()
    else:
        areas = [width * height for _, _, width, height in shapes]
    return [
        {
            "image_id": number,
            "category_id": result["category_id"],
            "score": float(result["score"]),
            "iscrowd": 0,
            "area": float(result.get("area", area)),
            name: shape,
        }
        for result, shape, area in zip(results, shapes, areas, strict=True)
    ]


def _say_nothing(*_: Any) -> None:
    """In place of faster-coco-eval's log lines, which would come for every few images."""
