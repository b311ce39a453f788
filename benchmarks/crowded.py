"""What the benchmarks of crowded training images share: the images, the config, the machine."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import iaunet_d2

# isort: split
from detectron2.structures import BoxMode

from iaunet_d2._seam import uses_standin
from iaunet_d2.config import config_path, get_iaunet_cfg

CONFIG = "livecell_r50.yaml"
POINTS = 32
Record = dict[str, Any]


def record_of(folder: Path, name: str, height: int, width: int, cells: int, seed: int) -> Record:
    """A data-set dict with uneven outlines that overlap, and its image: a grey file, as LIVECell's.

    Radii are about 8 to 24 pixels.
    """
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    centres = rng.uniform((0, 0), (width, height), (cells, 1, 2))
    radii = rng.uniform(8, 24, (cells, 1)) * rng.uniform(0.85, 1.15, (cells, POINTS))
    around = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    outlines = (centres + radii[..., None] * around).clip((0, 0), (width, height)).round(2)
    boxes = np.concatenate([outlines.min(1), outlines.max(1)], axis=1)
    file = folder / f"{name}.png"
    Image.fromarray(rng.normal(128, 12, (height, width)).clip(0, 255).astype(np.uint8)).save(file)
    return {
        "file_name": str(file),
        "image_id": seed,
        "height": height,
        "width": width,
        "annotations": [
            {
                "bbox": boxes[k].tolist(),
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 0,
                "iscrowd": 0,
                "segmentation": [outlines[k].ravel().tolist()],
            }
            for k in range(cells)
        ],
    }


def config(opts: list[Any]) -> Any:
    """The config that is measured, with changes."""
    cfg = get_iaunet_cfg(config_path(CONFIG))
    cfg.merge_from_list(opts)
    return cfg


def milliseconds(found: dict[str, float]) -> str:
    """Median (quartiles) of seconds, for a table."""
    low, median, high = (f"{1e3 * found[key]:.3g}" for key in ("low", "median", "high"))
    return f"{median} ({low}-{high})"


def machine() -> dict[str, Any]:
    """Where and with what a measurement was made."""
    return {
        "processor": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "detectron2": "stand-in" if uses_standin() else "genuine",
        "iaunet_d2": iaunet_d2.__version__,
        **{name: version(name) for name in ("torch", "numpy", "pycocotools", "pillow")},
    }
