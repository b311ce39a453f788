"""The training loader on crowded images; run by ``mapper.py --parts loader``."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crowded import config, milliseconds, record_of
from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate
from tqdm import tqdm

from iaunet_d2.analysis.timing import spread
from iaunet_d2.data.loaders import build_train_loader, num_workers


def measure_loader(
    images: int, cells: int, workers: Sequence[int], windows: int
) -> list[dict[str, Any]]:
    """Images per second by workers, each number with a loader of its own."""
    name = "benchmark_mapper_cells"
    found = []
    with tempfile.TemporaryDirectory() as folder:
        records = [record_of(Path(folder), str(k), 520, 704, cells, k) for k in range(images)]
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(
            thing_classes=["cell"], thing_dataset_id_to_contiguous_id={1: 0}
        )
        with tqdm(total=len(workers) * windows, unit="window") as bar:
            for count in workers:
                bar.set_description(f"loader, {count} workers")
                data = ["DATASETS.TRAIN", (name,), "DATASETS.TEST", ()]
                cfg = config([*data, "DATALOADER.NUM_WORKERS", count])
                found.append(loader_speed(cfg, windows, bar))
    return found


def loader_speed(cfg: Any, windows: int, bar: tqdm) -> dict[str, Any]:
    """Seconds per image over windows of 4 batches, once what was loaded ahead is used up."""
    batches, workers = iter(build_train_loader(cfg)), num_workers(cfg)
    for _ in range(1 + 2 * workers):
        batch = next(batches)
    masks = sum(sample["instances"].gt_masks.tensor.numel() for sample in batch)
    per_image = []
    for _ in range(windows):
        start = time.perf_counter()
        count = sum(len(next(batches)) for _ in range(4))
        per_image.append((time.perf_counter() - start) / count)
        bar.update()
    return {
        "workers": workers,
        "batch": cfg.SOLVER.IMS_PER_BATCH,
        "seconds per image": asdict(spread(per_image)),
        "images per second": 1 / spread(per_image).median,
        "bytes of a batch's masks": masks,
    }


def loader_table(found: list[dict[str, Any]], step_ms: Sequence[float]) -> str:
    """The loader's time per image, and as a share of a step's.

    Over 100 % the step waits for the loader; with no worker it waits in any case. A step needs as
    many workers as its share with one worker is times 100 %.
    """
    rows = []
    for entry in found:
        row = {
            "workers": entry["workers"],
            "ms per image": milliseconds(entry["seconds per image"]),
            "images per second": f"{entry['images per second']:.3g}",
            "masks of a batch, MB": round(entry["bytes of a batch's masks"] / 1e6),
        }
        for step in step_ms:
            share = 1e3 * entry["seconds per image"]["median"] / step
            row[f"of a step of {step:g} ms"] = f"{share:.0%}"
        rows.append(row)
    text = f"loader\n{tabulate(rows, 'keys')}"
    one = [entry["seconds per image"]["median"] for entry in found if entry["workers"] == 1]
    for step in step_ms if one else ():
        text += f"\na step of {step:g} ms per image needs {1e3 * one[0] / step:.2g} workers"
    return text
