"""Time and memory of the COCO-style evaluation of crowded images.

Two measurements, each on one processor:

- ``speed``: 20 images of 400 objects, against pycocotools, in turns in one process; and whether
  both come to the same AP. pycocotools' AP is read from its curves at its last limit of
  detections, as its own summary knows 100 only.
- ``memory``: the evaluators of a data set with 1,500 images of 300 objects (polygons in the
  annotation file, predictions as run lengths), in a fresh process.

Usage: ``python benchmarks/evaluation.py [--parts speed memory] [--out numbers.json]``
"""

import argparse
import contextlib
import copy
import io
import json
import os
import pickle
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

import iaunet_d2  # noqa: F401  # makes detectron2 importable

# isort: split
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.evaluation import EVALUATOR_REGISTRY, PredictionStore
from iaunet_d2.evaluation.coco_ap import coco_scores, summary
from iaunet_d2.evaluation.predictions import ImagePredictions

HEIGHT, WIDTH = 520, 704
POINTS = 32


def discs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Centres and radii (N, 3), in pixels, that overlap here and there."""
    corner, far = np.array([15, 15, 6]), np.array([WIDTH - 15, HEIGHT - 15, 14])
    return rng.uniform(corner, far, (count, 3))


def outlines(found: np.ndarray) -> np.ndarray:
    """Polygons (N, 2 * POINTS) of discs (N, 3), with two decimals."""
    angle = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    around = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    polygons = found[:, None, :2] + found[:, None, 2:] * around
    return polygons.reshape(len(found), -1).round(2)


def annotations_of(image_id: int, found: np.ndarray, first_id: int) -> list[dict[str, Any]]:
    polygons = outlines(found).tolist()
    rles = mask_util.frPyObjects(polygons, HEIGHT, WIDTH)
    boxes = mask_util.toBbox(rles).tolist()
    return [
        {
            "id": first_id + k,
            "image_id": image_id,
            "category_id": 1,
            "iscrowd": 0,
            "segmentation": [polygons[k]],
            "area": int(mask_util.area(rles[k])),
            "bbox": boxes[k],
        }
        for k in range(len(found))
    ]


def predictions_of(rng: np.random.Generator, found: np.ndarray) -> ImagePredictions:
    """As many predictions as objects: most near one of them, a tenth anywhere."""
    near = found + rng.normal(0, [1, 1, 0.6], found.shape)
    astray = rng.random(len(found)) < 0.1
    near[astray] = discs(rng, int(astray.sum()))
    rles = mask_util.frPyObjects(outlines(near).tolist(), HEIGHT, WIDTH)
    boxes = mask_util.toBbox(rles)
    boxes[:, 2:] += boxes[:, :2]
    scores = -np.sort(-rng.random(len(found)))
    counts = tuple(rle["counts"] for rle in rles)
    return ImagePredictions(scores, np.zeros(len(found), int), boxes, counts, HEIGHT, WIDTH)


def scene(images: int, objects: int) -> tuple[dict[str, Any], dict[int, ImagePredictions]]:
    """A COCO file's content, and predictions by image id."""
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {
        "images": [
            {"id": k + 1, "file_name": f"{k}.png", "height": HEIGHT, "width": WIDTH}
            for k in range(images)
        ],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [],
    }
    predictions = {}
    for image in content["images"]:
        found = discs(rng, objects)
        content["annotations"] += annotations_of(
            image["id"], found, len(content["annotations"]) + 1
        )
        predictions[image["id"]] = predictions_of(rng, found)
    return content, predictions


# Speed


def measure_speed(images: int, objects: int, rounds: int) -> dict[str, Any]:
    """Seconds of both, in turns; AP of both."""
    content, predictions = scene(images, objects)
    results = [
        {"image_id": image_id, "category_id": 1, "score": score, "segmentation": rle}
        for image_id, found in predictions.items()
        for score, rle in zip(found.scores.tolist(), found.rles(), strict=True)
    ]
    limits = [1, 100, objects]
    own_seconds, other_seconds = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        scores = coco_scores(content, results, "segm", limits)
        own_seconds.append(time.perf_counter() - start)
        # pycocotools writes into what it is given.
        given = copy.deepcopy(content), copy.deepcopy(results)
        start = time.perf_counter()
        precision = by_pycocotools(*given, limits)
        other_seconds.append(time.perf_counter() - start)
    ap = [100 * float(precision[..., 0, k][precision[..., 0, k] > -1].mean()) for k in (1, 2)]
    difference = float(np.abs(precision - scores.precision).max())
    return {
        "images": images,
        "objects an image": objects,
        "seconds": own_seconds,
        "seconds, pycocotools": other_seconds,
        "times faster": float(np.median(other_seconds) / np.median(own_seconds)),
        "AP": summary(scores)["AP"],
        "AP, pycocotools' curves": ap[1],
        "AP at 100 detections": summary(scores, 1)["AP"],
        "AP at 100 detections, pycocotools' curves": ap[0],
        "largest difference of precision": difference,
    }


def by_pycocotools(content: Any, results: Any, limits: list[int]) -> np.ndarray:
    """Precision (T, R, K, A, M)."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"]


# Memory


def measure_memory(images: int, objects: int) -> dict[str, Any]:
    """Write the files in one process, evaluate in another.

    Linux counts the memory of the starting process in the peak of the one it starts: so this one
    must stay small.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--memory-scene", str(images), str(objects)]
        subprocess.run([*command, "--write-into", folder], check=True)
        done = subprocess.run(
            [*command, "--evaluate-in", folder], check=True, capture_output=True, text=True
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return {"images": images, "objects an image": objects, **found}


def write_into(folder: Path, images: int, objects: int) -> None:
    """Write an annotation file and predictions."""
    content, predictions = scene(images, objects)
    (folder / "truth.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "predictions.pickle").write_bytes(pickle.dumps(predictions))


def evaluate_in(folder: Path, objects: int) -> dict[str, Any]:
    """Peak memory of this process before and after the evaluators of type "coco", and seconds."""
    name = "benchmark_cells"
    MetadataCatalog.get(name).set(
        json_file=str(folder / "truth.json"),
        evaluator_type="coco",
        thing_classes=["cell"],
        thing_dataset_id_to_contiguous_id={1: 0},
    )
    cfg = get_iaunet_cfg()
    cfg.TEST.DETECTIONS_PER_IMAGE = objects
    store = PredictionStore()
    evaluators = EVALUATOR_REGISTRY.get("coco")(cfg, name, str(folder / "out"), store)
    together = DatasetEvaluators(evaluators)
    together.reset()
    before = peak_gigabytes()
    # As if encoded already: encoding masks is the same for every evaluation.
    store._own = pickle.loads((folder / "predictions.pickle").read_bytes())
    seconds, metrics = {}, {}
    for evaluator in evaluators:
        start = time.perf_counter()
        metrics.update(evaluator.evaluate())
        seconds[type(evaluator).__name__] = time.perf_counter() - start
    return {
        "peak GB before": before,
        "peak GB": peak_gigabytes(),
        "seconds": sum(seconds.values()),
        **{f"seconds, {kind}": spent for kind, spent in seconds.items()},
        "AP": metrics["segm"]["AP"],
        "AP@100": metrics["segm"]["AP@100"],
        "recovered": metrics["overlap"]["recovered"],
    }


def peak_gigabytes() -> float:
    """Largest resident memory of this process so far, in 10^9 bytes (Linux counts in KiB)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def on_one_processor() -> None:
    """Keep this process, and those that it starts, on one processor where that can be said."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--parts", nargs="+", choices=["speed", "memory"])
    parser.add_argument("--speed-scene", nargs=2, type=int, default=(20, 400), metavar="N")
    parser.add_argument("--memory-scene", nargs=2, type=int, default=(1500, 300), metavar="N")
    parser.add_argument("--rounds", type=int, default=3, help="of the speed comparison")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    parser.add_argument("--evaluate-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write-into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_one_processor()
    if options.write_into:
        write_into(options.write_into, *options.memory_scene)
        return
    if options.evaluate_in:
        numbers = evaluate_in(options.evaluate_in, options.memory_scene[1])
        sys.stdout.write(json.dumps(numbers) + "\n")
        return
    found: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            **{name: version(name) for name in ("pycocotools", "faster-coco-eval", "numpy")},
        }
    }
    parts = options.parts or ["speed", "memory"]
    if "memory" in parts:  # before this process grows
        images, objects = options.memory_scene
        found["memory"] = measure_memory(images, objects)
    if "speed" in parts:
        images, objects = options.speed_scene
        found["speed"] = measure_speed(images, objects, options.rounds)
    for part, numbers in found.items():
        sys.stdout.write(f"\n{part}\n{tabulate(numbers.items(), floatfmt='.4g')}\n")
    text = json.dumps(found, indent=1)
    sys.stdout.write(f"\n{text}\n")
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
