"""Small COCO data sets on disk, and a config that reads them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from iaunet_d2.config import get_iaunet_cfg

MakeCoco = Callable[..., str]


def tiny_coco(folder: Path, count: int = 6, height: int = 40, width: int = 56) -> str:
    """Write images of noise with one to three squares each; give the data set's name."""
    rng = np.random.default_rng(count)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for k in range(count):
        pixels = rng.integers(0, 255, (height, width), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{k}.png")
        images.append({"id": k + 1, "file_name": f"{k}.png", "height": height, "width": width})
        for x in range(4, 4 + 15 * (k % 3 + 1), 15):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": k + 1,
                    "category_id": 1,
                    "segmentation": [[x, 5, x + 12, 5, x + 12, 25, x, 25]],
                    "bbox": [x, 5, 12, 20],
                    "area": 240,
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    return f"coco:{folder}/a.json:{folder}/images"


@pytest.fixture
def make_coco(tmp_path: Path) -> MakeCoco:
    """``make_coco(name="a", count=6, ...)`` writes a data set under ``tmp_path / name``."""

    def make(name: str = "a", **options: int) -> str:
        return tiny_coco(tmp_path / name, **options)

    return make


@pytest.fixture
def small_cfg() -> Any:
    """The defaults at 32 pixels, four images per batch, no worker."""
    cfg = get_iaunet_cfg()
    cfg.INPUT.IMAGE_SIZE = 32
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 32
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg
