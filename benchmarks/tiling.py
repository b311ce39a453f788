"""Cutting large images into tiles: errors at the seams, time and memory, without a network.

A *perfect segmenter* finds in every tile exactly what the tile shows, with random scores. The cells
touch and fill the image, about 24 pixels wide; tiles of 512 pixels overlap by 64. Three
measurements, on one processor; seconds are the process' own on it, so that other work on the
machine does not count:

- ``compare``: 1024² (1,849 cells) and 2048² (7,225), with exact masks and with masks moved by up to
  a pixel in each direction (anew in each tile); the same by SAHI (where it is installed:
  ``pip install sahi``) with its default postprocessing, in one process, in turns. Counted are cells
  found more than once, not at all, and *cut*: a side of the box more than 3 pixels off, as SAHI's
  polygons are a pixel smaller than the mask. SAHI can also look at the whole image in one piece; it
  is switched off, as an image that is cut into tiles does not fit the model.
- ``linear``: time over 2048², 4096² and 8192²; also that of the tiler alone (reading an image in
  memory, stitching), where a first run's results of the segmenter are replayed. Masks are compared
  exactly.
- ``huge``: 20,000 x 20,000 (made while it is read), streamed, in a fresh process: peak memory.

Usage: ``python benchmarks/tiling.py [--parts compare linear huge] [--out numbers.json]``
"""

import argparse
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tiled_cells import CellPlane, ExactErrors, PerfectSegmenter, errors_by_box
from tqdm import tqdm

from iaunet_d2.inference.cells import Cells
from iaunet_d2.inference.large import TileReport, segment_tiles
from iaunet_d2.inference.sources.base import ArrayPlane, Plane
from iaunet_d2.inference.stitching import join_cells

TILE, OVERLAP = 512, 64


# Against SAHI


def measure_compare(sides: list[int], rounds: int) -> list[dict[str, Any]]:
    """Errors and seconds, with and without jitter, of both."""
    rows = []
    for side in sides:
        plane = CellPlane(side)
        pixels = plane.read(0, 0, side, side)
        whole = PerfectSegmenter().one(pixels)
        methods: dict[str, Callable[[np.ndarray, PerfectSegmenter], np.ndarray]] = {"own": by_tiles}
        if has_sahi():
            methods["SAHI"] = by_sahi
        for jitter in (0, 1):
            seconds: dict[str, list[float]] = {name: [] for name in methods}
            inside: dict[str, list[float]] = {name: [] for name in methods}
            for _ in tqdm(range(rounds), desc=f"{side}², jitter {jitter}"):
                for name, method in methods.items():
                    segmenter = PerfectSegmenter(jitter)
                    start = time.process_time()
                    boxes = method(pixels, segmenter)
                    seconds[name].append(time.process_time() - start)
                    inside[name].append(segmenter.seconds)
                    if len(seconds[name]) == rounds:
                        rows.append(
                            {
                                "side": side,
                                "jitter": jitter,
                                "method": name,
                                **errors_by_box(boxes, whole.boxes),
                                "seconds": seconds[name],
                                "of them in the segmenter": inside[name],
                            }
                        )
    return rows


def by_tiles(pixels: np.ndarray, segmenter: PerfectSegmenter) -> np.ndarray:
    """Boxes (N, 4) that the package's tiler finds."""
    parts = segment_tiles(ArrayPlane(pixels), segmenter, TILE, OVERLAP)
    return join_cells(list(parts)).boxes


def has_sahi() -> bool:
    try:
        version("sahi")
    except PackageNotFoundError:
        sys.stderr.write("SAHI is not installed: only the own tiler is measured.\n")
        return False
    return True


def by_sahi(pixels: np.ndarray, segmenter: PerfectSegmenter) -> np.ndarray:
    """Boxes (N, 4) that SAHI finds; postprocessing is its default."""
    from sahi.models.base import DetectionModel
    from sahi.predict import get_sliced_prediction
    from sahi.prediction import ObjectPrediction
    from sahi.utils.cv import get_coco_segmentation_from_bool_mask

    class Perfect(DetectionModel):
        def load_model(self) -> None:
            self.model = segmenter

        def perform_inference(self, image: np.ndarray) -> None:
            (self._original_predictions,) = segmenter([image])

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = None, full_shape_list: Any = None
        ) -> None:
            cells = self._original_predictions
            found = []
            for crop, (top, left), score in zip(
                cells.crops, cells.corners.tolist(), cells.scores.tolist(), strict=True
            ):
                # Polygons of crops, not of full frames as SAHI's adapters take them: faster.
                polygons = get_coco_segmentation_from_bool_mask(crop)
                moved = [
                    (np.reshape(p, (-1, 2)) + np.array([left, top])).ravel().tolist()
                    for p in polygons
                ]
                if moved:
                    found.append(
                        ObjectPrediction(
                            segmentation=moved,
                            category_id=0,
                            category_name="cell",
                            score=score,
                            shift_amount=shift_amount_list[0],
                            full_shape=full_shape_list[0],
                        )
                    )
            self._object_prediction_list_per_image = [found]

    result = get_sliced_prediction(
        pixels,
        Perfect(),
        slice_height=TILE,
        slice_width=TILE,
        overlap_height_ratio=OVERLAP / TILE,
        overlap_width_ratio=OVERLAP / TILE,
        perform_standard_pred=False,
        verbose=0,
    )
    return np.array([thing.bbox.to_xyxy() for thing in result.object_prediction_list])


# Time and memory


def measure_linear(sides: list[int], rounds: int) -> dict[str, Any]:
    """Seconds by side of the image, and the exponents of the number of pixels."""
    rows = []
    for side in sides:
        plane = CellPlane(side)
        pixels = ArrayPlane(assembled(plane))
        segmenter, kept = PerfectSegmenter(), []

        def keeping(images: list[np.ndarray], s=segmenter, k=kept) -> list[Cells]:  # type: ignore
            k.append(s(images))
            return k[-1]

        errors = ExactErrors(plane)
        start = time.process_time()
        parts = list(segment_tiles(pixels, keeping, TILE, OVERLAP))
        with_segmenter = time.process_time() - start
        for part in parts:
            errors.add(part)
        alone = []
        for _ in tqdm(range(rounds), desc=f"{side}², replayed"):
            results = iter(kept)
            start = time.process_time()
            consume(segment_tiles(pixels, lambda _, r=results: next(r), TILE, OVERLAP))  # type: ignore
            alone.append(time.process_time() - start)
        rows.append(
            {
                "side": side,
                **errors.result(),
                "seconds with the segmenter": with_segmenter,
                "of them in the segmenter": segmenter.seconds,
                "seconds of the tiler alone": alone,
            }
        )
    pixels_of = [row["side"] ** 2 for row in rows]
    return {
        "rows": rows,
        "exponent, tiler alone": exponent(
            pixels_of, [min(row["seconds of the tiler alone"]) for row in rows]
        ),
        "exponent, with the segmenter": exponent(
            pixels_of, [row["seconds with the segmenter"] for row in rows]
        ),
    }


def assembled(plane: Plane) -> np.ndarray:
    """All pixels, read in blocks: the scene takes much memory while it is made."""
    height, width, channels = plane.shape
    pixels = np.empty((height, width, channels), plane.dtype)
    for top in tqdm(range(0, height, TILE), desc=f"making {height}²", leave=False):
        rows = min(TILE, height - top)
        for left in range(0, width, 2048):
            columns = min(2048, width - left)
            pixels[top : top + rows, left : left + columns] = plane.read(top, left, rows, columns)
    return pixels


def consume(parts: Iterable[Cells]) -> int:
    """How many cells there are; they are not kept."""
    return sum(len(part) for part in parts)


def exponent(pixels: list[int], seconds: list[float]) -> float:
    """The slope of a line through the logarithms: 1 where time is linear."""
    return float(np.polyfit(np.log(pixels), np.log(seconds), 1)[0])


def measure_huge(side: int) -> dict[str, Any]:
    """In a fresh process, started while this one is small, as Linux counts its memory as well."""
    command = [sys.executable, __file__, "--segment-huge", str(side)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def segment_huge(side: int) -> dict[str, Any]:
    """Stream an image; errors are counted meanwhile, outside of the time."""
    plane, segmenter = CellPlane(side), PerfectSegmenter()
    errors, report, checking = ExactErrors(plane), TileReport(), 0.0
    before = peak_gigabytes()
    start, start_by_clock = time.process_time(), time.perf_counter()
    with tqdm(desc=f"{side}²", unit="tile") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        parts = segment_tiles(plane, segmenter, TILE, OVERLAP, progress=progress, report=report)
        for part in parts:
            begun = time.process_time()
            errors.add(part)
            checking += time.process_time() - begun
    seconds = time.process_time() - start - checking
    by_clock = time.perf_counter() - start_by_clock
    peak = peak_gigabytes()
    return {
        "side": side,
        "peak GB before": before,
        "peak GB": peak,
        "seconds, most of them for making the image": seconds,
        "seconds by the clock, with the counting": by_clock,
        "of them in the segmenter": segmenter.seconds,
        **errors.result(),
        "cut, as reported": report.cut,
        "largest side": report.largest,
    }


def peak_gigabytes() -> float:
    """Largest resident memory of this process so far, in 10^9 bytes (Linux counts in KiB)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def on_one_processor() -> None:
    """Keep this process, and those that it starts, on one processor where that can be said."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def versions() -> dict[str, str]:
    names = ("numpy", "scipy", "sahi")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--parts", nargs="+", choices=["compare", "linear", "huge"])
    parser.add_argument("--compare", nargs="+", type=int, default=[1024, 2048], metavar="SIDE")
    parser.add_argument("--linear", nargs="+", type=int, default=[2048, 4096, 8192], metavar="SIDE")
    parser.add_argument("--huge", type=int, default=20000, metavar="SIDE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the numbers; parts are added")
    parser.add_argument("--segment-huge", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_one_processor()
    if options.segment_huge:
        sys.stdout.write(json.dumps(segment_huge(options.segment_huge)) + "\n")
        return
    found: dict[str, Any] = {}
    if options.out and options.out.exists():
        found = json.loads(options.out.read_text(encoding="utf-8"))
    found["machine"] = {"processor": platform.processor() or platform.machine(), **versions()}
    parts = options.parts or ["huge", "compare", "linear"]
    measures: dict[str, Callable[[], Any]] = {
        "huge": lambda: measure_huge(options.huge),  # before this process grows
        "compare": lambda: {"rows": measure_compare(options.compare, options.rounds)},
        "linear": lambda: measure_linear(options.linear, options.rounds),
    }
    for part in (name for name in measures if name in parts):
        found[part] = {
            "command": shlex.join(["python", *sys.argv]),
            "beside it, load of the machine": os.getloadavg()[0],
            **measures[part](),
        }
        show(part, found[part])
        if options.out:
            options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def show(part: str, numbers: dict[str, Any]) -> None:
    rows = numbers.get("rows", [])
    rest = [(name, value) for name, value in numbers.items() if name != "rows"]
    sys.stdout.write(f"\n{part}\n{tabulate(rest, floatfmt='.4g')}\n")
    if rows:
        short = [
            {k: f"{min(v):.3g}" if isinstance(v, list) else v for k, v in row.items()}
            for row in rows
        ]
        sys.stdout.write(tabulate(short, headers="keys", floatfmt=".4g") + "\n")


if __name__ == "__main__":
    main()
