"""A model of a few hundred weights with all that the engine has to deal with, and a data set."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 32


@META_ARCH_REGISTRY.register()
class ToySegmenter(nn.Module):
    """Two convolutions that find one mask; with running statistics, dropout and an embedding."""

    def __init__(self, cfg) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.query = nn.Embedding(1, 4)
        self.head = nn.Conv2d(4, 1, 3, padding=1)
        self.to(cfg.MODEL.DEVICE)

    def _logits(self, batch: list[dict]) -> Tensor:
        images = torch.stack([_padded(x["image"].float() / 255) for x in batch])
        features = F.dropout(self.backbone(images).relu(), 0.2, training=True)
        return self.head(features + self.query.weight.view(1, 4, 1, 1))[:, 0]

    def losses(self, batch: list[dict]) -> dict[str, Tensor]:
        logits = self._logits(batch)
        masks = [x["instances"].gt_masks.tensor.any(0).float() for x in batch]
        truth = torch.stack([_padded(mask) for mask in masks])
        bce = F.binary_cross_entropy_with_logits(logits, truth)
        return {"loss_mask": bce, "loss_size": (logits.sigmoid().mean() - truth.mean()) ** 2}

    def forward(self, batch: list[dict]):
        if self.training:
            return self.losses(batch)
        return [self._instances(x) for x in batch]

    def _instances(self, x: dict) -> dict:
        size = x["height"], x["width"]
        logits = self._logits([x])[None]
        probability = F.interpolate(logits, size, mode="bilinear", align_corners=False).sigmoid()
        mask = probability[0] > probability.median()
        found = Instances(size)
        found.pred_masks = mask
        found.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, size[1], size[0]]]))
        found.scores = probability.max().reshape(1)
        found.pred_classes = torch.zeros(1, dtype=torch.int64)
        return {"instances": found}


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, (0, SIDE - x.shape[-1], 0, SIDE - x.shape[-2]))


def write_cells(folder: Path, count: int = 6) -> str:
    """Write images with one or two bright discs, the second without any; gives the set's name."""
    images, annotations = [], []
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for index in range(count):
        picture = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        for _ in range(0 if index == 1 else 1 + index % 2):
            x, y, radius = (int(v) for v in rng.integers((9, 9, 4), (23, 23, 8)))
            cv2.circle(picture, (x, y), radius, (230, 230, 230), -1)
            angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
            outline = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": 1,
                    "segmentation": [outline.round(2).ravel().tolist()],
                    "bbox": [x - radius, y - radius, 2 * radius, 2 * radius],
                    "area": 3.14 * radius**2,
                    "iscrowd": 0,
                }
            )
        cv2.imwrite(str(folder / "images" / f"cell{index}.png"), picture)
        name = {"id": index + 1, "file_name": f"cell{index}.png", "height": SIDE, "width": SIDE}
        images.append(name)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / "cells.json").write_text(json.dumps(content))
    return f"coco:{folder / 'cells.json'}:{folder / 'images'}"


def toy_opts(name: str, output: Path) -> list[Any]:
    """Config keys and values that train the toy in a moment."""
    return [
        *("MODEL.META_ARCHITECTURE", "ToySegmenter", "MODEL.DEVICE", "cpu"),
        *("DATASETS.TRAIN", (name,), "DATASETS.TEST", (name,)),
        *("INPUT.IMAGE_SIZE", 32, "INPUT.MIN_SIZE_TEST", 32, "INPUT.MAX_SIZE_TEST", 32),
        *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 6),
        *("SOLVER.BASE_LR", 0.01, "TEST.EVAL_PERIOD", 0, "TEST.NUM_OVERLAYS", 1),
        *("OUTPUT_DIR", str(output), "SEED", 7),
    ]
