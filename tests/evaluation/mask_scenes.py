"""Tiny data sets and predictions for the tests of metrics on masks, and plain-Python counting."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

Instance = tuple[np.ndarray, int]
"""Mask (H, W), bool, and contiguous class number."""
Found = tuple[np.ndarray, float, int]
"""Mask (H, W), bool, score, and contiguous class number."""
Pixels = set[tuple[int, int]]

_numbers = itertools.count()


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """Mask of a rectangle; bottom and right are not in it."""
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def rle(mask: np.ndarray) -> dict[str, Any]:
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))


def random_masks(rng: np.random.Generator, height: int, width: int, count: int) -> list[np.ndarray]:
    """Rectangles that may overlap, touch the frame and lie on each other."""
    masks = []
    for _ in range(count):
        top, left = rng.integers(0, height), rng.integers(0, width)
        bottom, right = top + rng.integers(1, height // 2), left + rng.integers(1, width // 2)
        masks.append(box(height, width, top, left, bottom, right))
    return masks


def shaken(
    rng: np.random.Generator, masks: Iterable[np.ndarray], lost: float = 0.2
) -> list[np.ndarray]:
    """Predictions that are near the masks: some lost, all moved by a pixel at most."""
    return [
        np.roll(mask, tuple(rng.integers(-1, 2, size=2)), axis=(0, 1))
        for mask in masks
        if rng.random() >= lost
    ]


def pixels(mask: np.ndarray) -> Pixels:
    return {(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]}


def painted(masks: Sequence[np.ndarray], priorities: Sequence[float]) -> list[Pixels]:
    """What is left of each mask when every pixel goes to one of them; emptied ones are left out."""
    owner: dict[tuple[int, int], int] = {}
    for k, mask in enumerate(masks):
        for pixel in pixels(mask):
            if pixel not in owner or priorities[k] > priorities[owner[pixel]]:
                owner[pixel] = k
    left = [{p for p, k in owner.items() if k == number} for number in range(len(masks))]
    return [part for part in left if part]


def iou(first: Pixels, second: Pixels) -> float:
    return len(first & second) / len(first | second)


def most_pairs(candidates: Sequence[Sequence[bool]], used: frozenset[int] = frozenset()) -> int:
    """The most one-to-one pairs, by trying everything."""
    if not candidates:
        return 0
    best = most_pairs(candidates[1:], used)
    for column, fits in enumerate(candidates[0]):
        if fits and column not in used:
            best = max(best, 1 + most_pairs(candidates[1:], used | {column}))
    return best


def as_map(parts: Sequence[Pixels], height: int, width: int) -> np.ndarray:
    labels = np.zeros((height, width), dtype=np.int32)
    for k, part in enumerate(parts):
        for y, x in part:
            labels[y, x] = k + 1
    return labels


def data_set(
    folder: Path,
    images: Sequence[tuple[int, int, Sequence[Instance]]],
    names: Sequence[str] = ("cell",),
) -> str:
    """Register images of (height, width, instances); image ids and category ids are from 1."""
    content: dict[str, Any] = {
        "images": [
            {"id": k + 1, "file_name": f"{k}.png", "height": height, "width": width}
            for k, (height, width, _) in enumerate(images)
        ],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
        "annotations": [],
    }
    for k, (_, _, instances) in enumerate(images):
        for mask, number in instances:
            shape = rle(mask)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": k + 1,
                    "category_id": number + 1,
                    "segmentation": {**shape, "counts": shape["counts"].decode()},
                    "area": int(mask.sum()),
                    "bbox": mask_util.toBbox(shape).tolist(),
                    "iscrowd": 0,
                }
            )
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    name = f"mask_scene_{next(_numbers)}_{folder.name}"
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=list(names),
        thing_dataset_id_to_contiguous_id={k + 1: k for k in range(len(names))},
    )
    return name


def outputs(
    found: dict[int, tuple[int, int, Sequence[Found]]],
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Detectron2's inputs and outputs for image id -> (height, width, predictions)."""
    for image_id, (height, width, predicted) in found.items():
        instances = Instances((height, width))
        masks = np.array([mask for mask, _, _ in predicted]).reshape(-1, height, width)
        instances.pred_masks = torch.from_numpy(masks.astype(bool))
        instances.scores = torch.tensor([score for _, score, _ in predicted], dtype=torch.float64)
        instances.pred_classes = torch.tensor([number for _, _, number in predicted]).long()
        instances.pred_boxes = Boxes(torch.zeros(len(predicted), 4))
        yield {"image_id": image_id}, {"instances": instances}


def evaluated(evaluator: Any, found: dict[int, tuple[int, int, Sequence[Found]]]) -> Any:
    """The evaluator's only task."""
    evaluator.reset()
    for sample, output in outputs(found):
        evaluator.process([sample], [output])
    results = evaluator.evaluate()
    assert list(results) == [evaluator.task]
    return results[evaluator.task]
