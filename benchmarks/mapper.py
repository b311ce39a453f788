"""Time and memory of mapping crowded images to training samples, and of the loader around it.

- ``mapper``: images of 704 x 520 (LIVECell's size) and 2,048 x 2,048 with 100, 1,000 and 3,000
  overlapping outlines, mapped as ``configs/livecell_r50.yaml`` says; and the larger one in crops at
  its own scale. In turns: our mapper; the same with every instance drawn in the whole transformed
  image and then cut (it must give the same instances, or this stops); and Detectron2's
  ``DatasetMapper`` with the same augmentations, where the genuine one is installed. With it, the
  parts of our mapper's time, and the memory that the instances take: the peak of a process of its
  own beyond that of the same image with one instance. (tracemalloc would miss what pycocotools
  and torch allocate.)
- ``loader``: images per second of the training loader with 0, 1, 2 workers, against the
  milliseconds per image that a training step takes (``--step-ms``).

The mapper's seconds are the processor's, as others may use the machine; the loader's are the
clock's, with one thread per process: read the medians.

Usage: ``python benchmarks/mapper.py [--parts mapper loader] [--out numbers.json]``
"""

import argparse
import contextlib
import functools
import gc
import json
import resource
import shlex
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from pycocotools import mask as mask_util
from tabulate import tabulate
from tqdm import tqdm

import iaunet_d2.data.mapper as mapper_module

# isort: split
from crowded import Record, config, machine, milliseconds, record_of
from detectron2.data import DatasetMapper
from loader import loader_table, measure_loader

from iaunet_d2._seam import uses_standin
from iaunet_d2.analysis.memory import in_fresh_process
from iaunet_d2.analysis.timing import order_of_turn, spread
from iaunet_d2.data import rasterise
from iaunet_d2.data.augmentation import numpy_randomness
from iaunet_d2.data.mapper import IAUNetDatasetMapper
from iaunet_d2.data.segmentation import segmentation_rle
from iaunet_d2.files import atomic_write

# Label, height, width, settings on top of the config. 2,048 pixels are 4 times the crop's side.
OWN_SCALE = ["INPUT.MIN_SCALE", 4.0, "INPUT.MAX_SCALE", 4.0]
IMAGES: list[tuple[str, int, int, list[Any]]] = [
    ("704x520", 520, 704, []),
    ("2048x2048", 2048, 2048, []),
    ("2048x2048, own scale", 2048, 2048, OWN_SCALE),
]
OURS, EVERYTHING, DETECTRON2 = "ours", "everything", "Detectron2"
PARTS = ("read", "augment", "draw", "place", "boxes", "rest")
Mapper = Callable[[Record], dict[str, Any]]


# The ways of mapping


def whole_image_patches(
    segmentations: Sequence[Any],
    transforms: Any,
    source_size: tuple[int, int],
    frame_size: tuple[int, int],
    min_area: int = 1,
) -> dict[int, rasterise.Patch]:
    """As ``patches_in_frame``, for instances of one outline, but draws all of them, and whole.

    The whole image is as the transforms leave it: scaled and turned, not cut.
    """
    height, width = source_size
    corners = transforms.apply_coords(np.array([[0.0, 0.0], [width, height]]))
    left, top = (int(v) for v in np.rint(-corners.min(0)))
    whole_width, whole_height = (int(v) for v in np.rint(np.ptp(corners, axis=0)))
    rows, columns = slice(top, top + frame_size[0]), slice(left, left + frame_size[1])
    patches = {}
    outlines = [np.asarray(one, dtype=np.float64).reshape(-1, 2) for (one,) in segmentations]
    moved = transforms.apply_coords(np.concatenate(outlines)) if outlines else np.zeros((0, 2))
    # Fifths of a pixel are what pycocotools draws; rounded before they are moved, ties fall alike.
    moved = np.floor(5 * moved + 0.5) / 5 + (left, top)
    ends = np.cumsum([len(one) for one in outlines])
    for k, outline in enumerate(np.split(moved, ends[:-1]) if outlines else []):
        rle = segmentation_rle([outline.ravel()], whole_height, whole_width)
        pixels = mask_util.decode(rle)[rows, columns].astype(bool)
        if pixels.sum() >= max(min_area, 1):
            ys, xs = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
            patches[k] = rasterise.Patch(
                int(ys[0]), int(xs[0]), pixels[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].copy()
            )
    return patches


def ways(opts: list[Any]) -> dict[str, Mapper]:
    """Mappers to compare, by name."""
    ours = IAUNetDatasetMapper(config(opts), is_train=True)

    def everything(record: Record) -> dict[str, Any]:
        with mock.patch.object(mapper_module, "patches_in_frame", whole_image_patches):
            return ours(record)

    found: dict[str, Mapper] = {OURS: ours, EVERYTHING: everything}
    if not uses_standin():
        stock = DatasetMapper(
            is_train=True,
            augmentations=ours.augmentations.augs,
            image_format="RGB",
            use_instance_mask=True,
            instance_mask_format="bitmask",
            recompute_boxes=True,
        )

        def detectron2(record: Record) -> dict[str, Any]:
            with numpy_randomness(ours.seed, record["position"]):
                return stock(record)

        found[DETECTRON2] = detectron2
    return found


def packed(sample: dict[str, Any]) -> dict[str, np.ndarray]:
    """Image and instances of a sample, the masks as bits."""
    instances = sample["instances"]
    return {
        "masks": np.packbits(instances.gt_masks.tensor.numpy(), axis=2),
        "image": sample["image"].numpy(),
        "boxes": instances.gt_boxes.tensor.numpy(),
        "classes": instances.gt_classes.numpy(),
    }


def differing_pixels(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> int:
    """Pixels of all masks in which two samples differ; of an instance, one at the most.

    pycocotools adds a corner and the way along an edge as floating-point numbers. Where the sum is
    half a pixel, it falls to one side or the other with the size of the corner's coordinates, which
    is another in a window than in the whole image.

    Raises:
        RuntimeError: they differ by more, or in anything else.
    """
    same = all(np.array_equal(one[key], other[key]) for key in ("image", "classes"))
    if not (same and one["masks"].shape == other["masks"].shape):
        raise RuntimeError("the ways do not give the same image and instances")
    differ = np.any(one["masks"] != other["masks"], axis=(1, 2))
    bits = np.unpackbits(one["masks"][differ] ^ other["masks"][differ], axis=2)
    pixels = bits.sum(axis=(1, 2), dtype=int)
    if pixels.max(initial=0) > 1 or np.abs(one["boxes"] - other["boxes"]).max(initial=0) > 1:
        raise RuntimeError("the ways do not give the same masks or boxes")
    return int(pixels.sum())


# Time


def measure_time(record: Record, opts: list[Any], rounds: int, bar: tqdm) -> dict[str, Any]:
    """Processor seconds of every way, in turns; round k of each has the same augmentation."""
    mappers = ways(opts)
    names = list(mappers)
    taken: dict[str, list[float]] = {name: [] for name in names}
    instances: dict[str, list[int]] = {name: [] for name in names}
    for mapper in mappers.values():
        mapper({**record, "annotations": record["annotations"][:1], "position": 0})
    differing = 0
    for turn in range(rounds):
        samples = {}
        for place in order_of_turn(len(names), turn):
            name, given = names[place], {**record, "position": turn}
            start = time.process_time()
            sample = mappers[name](given)
            taken[name].append(time.process_time() - start)
            instances[name].append(len(sample["instances"]))
            if name != DETECTRON2:  # which draws outlines that stick out of the crop otherwise
                samples[name] = packed(sample)
            del sample
            bar.update()
        differing += differing_pixels(samples[OURS], samples[EVERYTHING])
    return {
        "processor seconds": {name: asdict(spread(values)) for name, values in taken.items()},
        "differing pixels in all rounds": differing,
        "instances": {name: float(np.median(values)) for name, values in instances.items()},
        "times faster": {
            name: float(np.median(np.divide(taken[name], taken[OURS]))) for name in names[1:]
        },
    }


@contextlib.contextmanager
def stopwatch(owner: Any, name: str, total: dict[str, float], part: str) -> Iterator[None]:
    """Add the processor seconds of every call of ``owner.name`` to ``total[part]``."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        result = function(*args, **kwargs)
        total[part] += time.process_time() - start
        return result

    with mock.patch.object(owner, name, timed):
        yield


def measure_parts(record: Record, opts: list[Any], rounds: int, bar: tqdm) -> dict[str, Any]:
    """Processor seconds of the parts of our mapper.

    ``draw`` makes the outlines pixels, each in its window; ``place`` sets them in the (N, H, W)
    array.
    """
    mapper = IAUNetDatasetMapper(config(opts), is_train=True)
    parts: dict[str, list[float]] = {part: [] for part in PARTS}
    for position in range(rounds):
        total: dict[str, float] = defaultdict(float)
        with (
            stopwatch(mapper, "read", total, "read"),
            stopwatch(mapper, "augmentations", total, "augment"),
            stopwatch(mapper_module, "patches_in_frame", total, "draw"),
            stopwatch(mapper_module, "pasted", total, "place"),
            stopwatch(rasterise.Patch, "box", total, "boxes"),
        ):
            start = time.process_time()
            mapper({**record, "position": position})
            whole = time.process_time() - start
        total["rest"] = whole - sum(total.values())
        for part in PARTS:
            parts[part].append(total[part])
        bar.update()
    return {part: asdict(spread(values)) for part, values in parts.items()}


# Memory


def instances_bytes(name: str, record: Record, opts: list[Any]) -> int:
    """Bytes by which the peak of this process grows with all instances, after one."""
    mapper = ways(opts)[name]
    mapper({**record, "annotations": record["annotations"][:1], "position": 0})
    gc.collect()
    before = peak_bytes()
    mapper({**record, "position": 0})
    return peak_bytes() - before


def peak_bytes() -> int:
    """Largest resident memory of this process so far (Linux counts in KiB)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# The mapper as a whole


def measure_mapper(cells: Sequence[int], rounds: int) -> Iterator[dict[str, Any]]:
    """One entry per image, setting and number of cells, as soon as it is measured."""
    names = list(ways([]))
    steps = len(IMAGES) * len(cells) * (rounds * (len(names) + 1) + len(names))
    with tempfile.TemporaryDirectory() as folder, tqdm(total=steps, unit="sample") as bar:
        for label, height, width, opts in IMAGES:
            for count in cells:
                bar.set_description(f"{label}, {count}")
                record = record_of(Path(folder), "image", height, width, count, seed=0)
                peaks = {}
                for name in names:
                    peaks[name] = in_fresh_process(instances_bytes, name, record, opts)
                    bar.update()
                yield {
                    "image": label,
                    "cells": count,
                    **measure_time(record, opts, rounds, bar),
                    "parts": measure_parts(record, opts, rounds, bar),
                    "peak bytes of the instances": peaks,
                }


def mapper_tables(found: list[dict[str, Any]]) -> str:
    """Milliseconds (quartiles) and megabytes of the ways; milliseconds of our parts."""
    against, within = [], []
    for entry in found:
        scene = {"image": entry["image"], "cells": entry["cells"]}
        row: dict[str, Any] = {**scene, "in the crop": entry["instances"][OURS]}
        for name, taken in entry["processor seconds"].items():
            row[f"{name}, ms"] = milliseconds(taken)
            if name != OURS:
                row[f"times, {name}"] = f"{entry['times faster'][name]:.3g}"
        for name, peak in entry["peak bytes of the instances"].items():
            row[f"{name}, MB"] = round(peak / 1e6)
        against.append(row)
        medians = {p: f"{1e3 * s['median']:.3g}" for p, s in entry["parts"].items()}
        within.append({**scene, **medians})
    return (
        f"mapper, one training sample\n{tabulate(against, 'keys')}\n\n"
        f"parts of ours, ms (medians)\n{tabulate(within, 'keys')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--parts", nargs="+", choices=["mapper", "loader"])
    parser.add_argument("--cells", nargs="+", type=int, default=[100, 1000, 3000])
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement")
    parser.add_argument("--loader-scene", nargs=2, type=int, default=(64, 300), metavar="N")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--step-ms", nargs="+", type=float, default=[2500, 30], help="of a training step, per image"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = options.parts or ["mapper", "loader"]
    command = shlex.join(["python", *sys.argv])
    sys.stdout.write(command + "\n")
    found: dict[str, Any] = {"command": command, "machine": machine()}
    tables = []
    if "mapper" in parts:
        found["mapper"] = []
        for entry in measure_mapper(options.cells, options.rounds):
            found["mapper"].append(entry)
            keep(found, options.out)
        tables.append(mapper_tables(found["mapper"]))
    if "loader" in parts:
        images, cells = options.loader_scene
        found["step, ms per image"] = options.step_ms
        found["loader"] = measure_loader(images, cells, options.workers, options.rounds)
        tables.append(loader_table(found["loader"], options.step_ms))
    keep(found, options.out)
    sys.stdout.write("\n" + "\n\n".join([*tables, json.dumps(found, indent=1)]) + "\n")


def keep(found: dict[str, Any], file: Path | None) -> None:
    """Write what is known so far: the whole takes long."""
    if file:
        with atomic_write(file) as stream:
            stream.write((json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
