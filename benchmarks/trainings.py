"""Trainings whose figures are kept in a file: what is there is not done again."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

import iaunet_d2  # noqa: F401  registers the data sets

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("AP", "AP50", "AP75", "overlapping", "F1", "precision", "recall", "doubles")

Row = dict[str, Any]


class Rows:
    """Rows of a JSON file; each has the values of ``keys``, by which it is known."""

    def __init__(self, file: Path, keys: Sequence[str]) -> None:
        self.file, self.keys = file, tuple(keys)
        self.lock = threading.Lock()

    def all(self) -> list[Row]:
        """Return what has been measured."""
        return json.loads(self.file.read_text()) if self.file.is_file() else []

    def run(self, tasks: Iterable[Row], measure: Callable[[Row], Row], jobs: int = 1) -> None:
        """Measure the tasks that have no row, ``jobs`` at a time; one that fails is reported."""
        done = {tuple(row[k] for k in self.keys) for row in self.all()}

        def one(task: Row) -> None:
            try:
                row = task | measure(task)
            except Exception as error:  # noqa: BLE001  the other trainings go on
                sys.stderr.write(f"{task}: {type(error).__name__}: {error}\n")
                return
            with self.lock:
                self.file.write_text(json.dumps([*self.all(), row], indent=1) + "\n")
            sys.stderr.write(f"{row}\n")

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, [t for t in tasks if tuple(t[k] for k in self.keys) not in done]))

    def table(self, by: Sequence[str], order: Callable[[tuple], Any] | None = None) -> str:
        """Return Markdown: a line for each value of ``by``, with means over the rows."""
        found: dict[tuple, list[Row]] = {}
        for row in self.all():
            found.setdefault(tuple(row[k] for k in by), []).append(row)
        lines = [f"| {' | '.join(by)} | seeds | {' | '.join(FIGURES)} |"]
        lines.append("|---" * (len(by) + 1 + len(FIGURES)) + "|")
        for key in sorted(found, key=order):
            own = found[key]
            cells = [*map(str, key), str(len(own)), *(_cell(own, figure) for figure in FIGURES)]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def _cell(rows: Sequence[Row], figure: str) -> str:
    values = [row[figure] for row in rows if row.get(figure) is not None]
    if not values:
        return "–"
    spread = f" ± {np.std(values):.1f}" if figure == "AP" and len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


def train_net(arguments: Sequence[str], threads: int = 1, **environment: str) -> None:
    """Run train_net.py in a process of its own.

    Raises:
        RuntimeError: it failed; with the end of what it wrote.
    """
    command = [sys.executable, "train_net.py", *arguments]
    own = {**os.environ, "OMP_NUM_THREADS": str(threads), **environment}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def trained(
    arguments: Sequence[str],
    opts: Sequence[str],
    without_nms: Sequence[str] = (),
    threads: int = 1,
    **environment: str,
) -> Row:
    """Train, and return the figures.

    Besides the evaluators' these are precision and recall at IoU 0.5 at the score with the best F1
    on the validation set; and, of a model with mask NMS, the share of masks that are a second one
    of an instance that another mask has ("doubles") where this is off.

    Args:
        arguments: of train_net.py, before the opts.
        opts: keys and values.
        without_nms: opts that turn NMS off; empty where there is none.
        threads: of the process.
        environment: variables.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = [*opts, "TEST.VAL_LOSS", "False", "OUTPUT_DIR", f"{folder}/out"]
        start = time.monotonic()
        train_net([*arguments, *out], threads, **environment)
        row: Row = {"seconds": round(time.monotonic() - start)}
        ((split, found),) = json.loads((folder / "out/results.json").read_text()).items()
        row |= {key: found["segm"][key] for key in ("AP", "AP50", "AP75")}
        row["overlapping"] = (found.get("overlap") or {}).get("AP-overlapping")
        row["F1"] = (found.get("neurips22") or {}).get("F1")
        truth = _truth(split)
        kept = calibrated(_predictions(folder / "out/inference" / split), truth)
        row |= {key: kept[key] for key in ("threshold", "precision", "recall")}
        row["trained"] = _seconds_of_steps(folder / "out")
        if without_nms:
            again = ["MODEL.WEIGHTS", f"{folder}/out/model_final.pth", *without_nms]
            again += ["OUTPUT_DIR", f"{folder}/nms"]
            train_net([*arguments, "--eval-only", *opts, *again], threads, **environment)
            raw = calibrated(_predictions(folder / "nms/inference" / split), truth)
            row["doubles"] = raw["doubles"]
    return row


def _seconds_of_steps(folder: Path) -> float:
    """Seconds that the iterations took, the loading of batches among them."""
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    times = [(row["iteration"], row["time"]) for row in rows if "time" in row]
    return round((times[-1][0] + 1) * sum(t for _, t in times) / len(times), 1)


def _predictions(folder: Path) -> dict[int, list[dict[str, Any]]]:
    by_image: dict[int, list[dict[str, Any]]] = {}
    for one in json.loads((folder / "coco_instances_results.json").read_text()):
        by_image.setdefault(one["image_id"], []).append(one)
    return by_image


def _truth(split: str) -> dict[int, list[dict[str, Any]]]:
    """Run lengths of the instances by image."""
    from detectron2.data import DatasetCatalog  # there once iaunet_d2 is

    found = {}
    for record in DatasetCatalog.get(split):
        size = record["height"], record["width"]
        found[record["image_id"]] = [
            _runs(a["segmentation"], size) for a in record.get("annotations", ())
        ]
    return found


def _runs(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    if isinstance(segmentation, list):
        return coco_masks.merge(coco_masks.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return coco_masks.frPyObjects(segmentation, *size)
    return segmentation


def calibrated(
    found: dict[int, list[dict[str, Any]]], truth: dict[int, list[dict[str, Any]]]
) -> dict[str, float]:
    """Return precision, recall and the share of doubles at the score with the best F1."""
    scores, hits, doubles = [], [], []
    for image, own in truth.items():
        ranked = sorted(found.get(image, []), key=lambda one: -one["score"])
        if not ranked:
            continue
        runs = [one["segmentation"] for one in ranked]
        overlaps = (
            np.array(coco_masks.iou(runs, own, [0] * len(own))) if own else np.zeros((len(runs), 0))
        )
        taken = np.zeros(len(own), bool)
        for one, row in zip(ranked, overlaps, strict=True):
            free = np.where(taken, 0, row)
            hit = bool(len(own)) and free.max() >= 0.5
            if hit:
                taken[free.argmax()] = True
            scores.append(one["score"])
            hits.append(hit)
            doubles.append(not hit and bool(len(own)) and row.max() >= 0.5)
    if not scores:
        return {"threshold": 1.0, "precision": 0.0, "recall": 0.0, "doubles": 0.0}
    order = np.argsort(-np.array(scores), kind="stable")
    right = np.cumsum(np.array(hits)[order])
    count, number = np.arange(1, len(order) + 1), sum(map(len, truth.values()))
    best = int((2 * right / (count + number)).argmax())
    return {
        "threshold": float(np.array(scores)[order][best]),
        "precision": 100 * float(right[best] / count[best]),
        "recall": 100 * float(right[best] / number),
        "doubles": 100 * float(np.cumsum(np.array(doubles)[order])[best] / count[best]),
    }
