"""Ablate seeded queries: train with one part exchanged at a time, and tabulate the figures.

    python benchmarks/ablation.py run [--variants NAME ...] [--data worms nuclei] [--seeds 1 2 3]
    python benchmarks/ablation.py table

``run`` trains configs/comparison/<data>_iaunet_seeded.yaml, one thread each, two at a time, and
adds a row to ablation.json for each that ends; what is there is not done again. ``table`` prints
means over the seeds.

Besides the evaluators' figures a row has, at the score with the best F1 on the validation set:
precision and recall at IoU 0.5, and without mask NMS the share of masks that are a second one of an
instance that another mask has ("doubles").
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "benchmarks" / "ablation.json"
PARTS = ROOT / "benchmarks" / "ablation_parts.py"
SEEDED, LOSS = "MODEL.SEEDED", "MODEL.IAUNET.LOSS"

# Name: opts, and the function of ablation_parts.py.
VARIANTS: dict[str, tuple[list[str], str]] = {
    "as it is": ([], ""),
    "published queries": (["MODEL.QUERY_DECODER.NAME", ""], ""),
    "a grid in place of seeds": ([], "grid"),
    "no window": ([], "no_window"),
    "window on places alone": ([], "no_votes"),
    "window on votes alone": ([], "votes_alone"),
    "no teacher queries": ([f"{SEEDED}.TEACHERS", "0"], ""),
    "two teacher queries": ([f"{SEEDED}.TEACHERS", "2"], ""),
    "no heat loss": ([f"{SEEDED}.LOSS.HEAT_WEIGHT", "0.0"], ""),
    "no location cost": ([f"{SEEDED}.LOSS.LOCATION_COST", "0.0"], ""),
    "no ImageNet weights": (
        [
            *("MODEL.TIMM.PRETRAINED", "False", "MODEL.TIMM.NORM_EVAL", "False"),
            *("SOLVER.BACKBONE_MULTIPLIER", "1.0"),
        ],
        "",
    ),
    "heat as a ridge": ([], "ridge"),
    "no heat in the content": ([], "no_heat_in_content"),
    "no-object weight 1": ([f"{LOSS}.NO_OBJECT_WEIGHT", "1.0"], ""),
    "focal, IoU-aware": (
        [f"{SEEDED}.LOSS.CLASS_LOSS", "quality", f"{LOSS}.CLASS_WEIGHT", "4.0"],
        "",
    ),
    "heat times class as score": ([], "heat_score"),
    "masked attention": ([], "masked_attention"),
    "no attention to the image": ([], "no_attention"),
    "window from the last block": ([], "window_from_last_block"),
    "window off in the last block": ([], "window_off_last"),
    "2 blocks per level": ([f"{SEEDED}.BLOCKS_PER_LEVEL", "2"], ""),
    "3 blocks per level": ([f"{SEEDED}.BLOCKS_PER_LEVEL", "3"], ""),
    "truth twice": ([], "truth_twice"),
    "average of weights, 0.99": (["SOLVER.EMA_DECAY", "0.99"], ""),
    "backbone's rate x 1": (["SOLVER.BACKBONE_MULTIPLIER", "1.0"], ""),
    "backbone's rate x 0.05": (["SOLVER.BACKBONE_MULTIPLIER", "0.05"], ""),
    "learning rate x 2": (["SOLVER.BASE_LR", "0.002"], ""),
    "learning rate / 2": (["SOLVER.BASE_LR", "0.0005"], ""),
    "masks at stride 4": ([f"{SEEDED}.MASK_STRIDE", "4"], ""),
    "masks at stride 1": ([f"{SEEDED}.MASK_STRIDE", "1"], ""),
    "batch norms that learn": (["MODEL.TIMM.NORM_EVAL", "False"], ""),
    "points around the instance": (
        [f"{SEEDED}.LOSS.LOCAL_POINTS", "True", f"{LOSS}.MASK_WEIGHT", "1.0"],
        "",
    ),
}


def train(name: str, data: str, seed: int) -> dict[str, Any]:
    """Train one variant in a process of its own, and return its row."""
    opts, part = VARIANTS[name]
    config = f"configs/comparison/{data}_iaunet_seeded.yaml"
    with tempfile.TemporaryDirectory() as folder:
        own = ["SEED", str(seed), "TEST.VAL_LOSS", "False", *opts]
        shared = [*(["--import", str(PARTS)] if part else []), "--config-file", config]
        start = time.monotonic()
        _train_net([*shared, *own, "OUTPUT_DIR", f"{folder}/out"], part)
        seconds = time.monotonic() - start
        results = json.loads(Path(folder, "out/results.json").read_text())
        weights = ["MODEL.WEIGHTS", f"{folder}/out/model_final.pth"]
        without = [*own, *weights, "MODEL.IAUNET.MASK_NMS_THRESH", "0.0"]
        _train_net([*shared, "--eval-only", *without, "OUTPUT_DIR", f"{folder}/nms"], part)
        (split, figures), *_ = results.items()
        found = [Path(folder, run, "inference", split) for run in ("out", "nms")]
        kept, raw = (_predictions(path) for path in found)
        truth = _truth(split)
    row = {"variant": name, "data": data, "seed": seed, "seconds": round(seconds)}
    row |= {key: figures["segm"][key] for key in ("AP", "AP50", "AP75")}
    row["overlapping"] = (figures.get("overlap") or {}).get("AP-overlapping")
    row["F1"] = (figures.get("neurips22") or {}).get("F1")
    return row | calibrated(kept, truth) | {"doubles": calibrated(raw, truth)["doubles"]}


def _train_net(arguments: list[str], part: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ABLATION": part}
    command = [sys.executable, "train_net.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def _predictions(folder: Path) -> dict[int, list[dict[str, Any]]]:
    by_image: dict[int, list[dict[str, Any]]] = {}
    for one in json.loads((folder / "coco_instances_results.json").read_text()):
        by_image.setdefault(one["image_id"], []).append(one)
    return by_image


def _truth(split: str) -> dict[int, list[dict[str, Any]]]:
    """Run lengths of the instances by image."""
    from detectron2.data import DatasetCatalog

    import iaunet_d2  # noqa: F401  registers the data sets

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


def rows() -> list[dict[str, Any]]:
    """Return what has been measured."""
    return json.loads(FILE.read_text()) if FILE.is_file() else []


def run(variants: list[str], data: list[str], seeds: list[int], jobs: int) -> None:
    """Train what is missing."""
    done = {(row["variant"], row["data"], row["seed"]) for row in rows()}
    writing = threading.Lock()
    asked = [(name, d, seed) for seed in seeds for name in variants for d in data]

    def one(task: tuple[str, str, int]) -> None:
        try:
            row = train(*task)
        except RuntimeError as error:
            sys.stderr.write(f"{task}: {error}\n")
            return
        with writing:
            FILE.write_text(json.dumps([*rows(), row], indent=1) + "\n")
        sys.stderr.write(f"{row}\n")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, [task for task in asked if task not in done]))


COLUMNS = ("AP", "AP50", "AP75", "overlapping", "F1", "precision", "recall", "doubles")


def table() -> str:
    """Return Markdown: a line per variant and data set, means over the seeds."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows():
        found.setdefault((row["data"], row["variant"]), []).append(row)
    lines = [f"| data | variant | seeds | {' | '.join(COLUMNS)} |", "|---" * 11 + "|"]
    for (data, name), own in sorted(found.items(), key=lambda item: _place(item[0])):
        cells = []
        for column in COLUMNS:
            values = [row[column] for row in own if row[column] is not None]
            spread = f" ± {np.std(values):.1f}" if column == "AP" and len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}" if values else "–")
        lines.append(f"| {data} | {name} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _place(key: tuple[str, str]) -> tuple[str, int]:
    return key[0], list(VARIANTS).index(key[1])


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--data", nargs="+", default=["worms", "nuclei"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    if args.action == "run":
        run(args.variants, args.data, args.seeds, args.jobs)
    else:
        sys.stdout.write(table() + "\n")


if __name__ == "__main__":
    main()
