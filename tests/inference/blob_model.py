"""A model that finds bright spots exactly, in the form of any Detectron2 meta-architecture."""

import os
import time
from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from PIL import Image
from scipy import ndimage
from torch import nn

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine.checkpointer import AtomicCheckpointer
from iaunet_d2.networks.scored_masks import ScoredMasks, tight_crops

LOG = "BLOB_MODEL_LOG"  # a file that gets a line per image, where the variable is set

OPTS = [
    *("MODEL.META_ARCHITECTURE", "BlobFinder", "MODEL.DEVICE", "cpu"),
    *("INPUT.IMAGE_SIZE", 64, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64),
]


@META_ARCH_REGISTRY.register()
class BlobFinder(nn.Module):
    """Connected regions above 127, as full frames, the smallest (and worst) first.

    Attributes:
        shapes: of the images that were seen, by all models since it was emptied.
        batches: numbers of images that were seen together.
    """

    shapes: list[tuple[int, ...]] = []
    batches: list[int] = []
    before: list = []  # functions that are called before each batch

    def __init__(self, cfg) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(len(cfg.MODEL.PIXEL_MEAN)))

    def forward(self, batch: list[dict]) -> list[dict]:
        for call in self.before:
            call()
        self.batches.append(len(batch))
        return [{"instances": self._find(x)} for x in batch]

    def segment_at(self, batch: list[dict]) -> list[ScoredMasks]:
        """The region at each point, empty where there is none."""
        found = []
        for x in batch:
            one = self._find(x)
            size = (x["height"], x["width"])
            at = torch.zeros(len(x["points"]), *size, dtype=torch.bool)
            for mask, (column, row) in zip(at, x["points"].long().tolist(), strict=True):
                for region in one.pred_masks:
                    if region[row, column]:
                        mask |= region
            crops, corners = tight_crops(list(at), [(0, 0)] * len(at))
            scores = torch.full((len(at),), 0.75)
            found.append(ScoredMasks(crops, corners, scores, torch.zeros(len(at)).long(), size))
        return found

    def _find(self, x: dict) -> Instances:
        if os.environ.get(LOG):
            time.sleep(0.05)
            with open(os.environ[LOG], "a") as log:
                log.write(f"{os.getpid()}\n")
        self.shapes.append(tuple(x["image"].shape))
        labels, count = ndimage.label(x["image"].float().mean(0).numpy() > 127)
        height, width = x["height"], x["width"]
        rows = ((np.arange(height) + 0.5) * labels.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * labels.shape[1] / width).astype(int)
        labels = labels[np.ix_(rows, columns)]
        masks = [labels == k + 1 for k in range(count)]
        masks.sort(key=np.count_nonzero)
        found = Instances((height, width))
        found.pred_masks = torch.from_numpy(np.array(masks).reshape(-1, height, width))
        found.pred_boxes = Boxes(torch.zeros(count, 4))
        found.scores = torch.tensor([1 - 1 / (1 + float(np.count_nonzero(m))) for m in masks])
        found.pred_classes = torch.zeros(count, dtype=torch.int64)
        return found


def write_model(folder: Path, *opts) -> Path:
    """An output folder as training writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = get_iaunet_cfg()
    cfg.merge_from_list([*OPTS, *opts])
    (folder / "config.yaml").write_text(cfg.dump())
    AtomicCheckpointer(BlobFinder(cfg), str(folder)).save_weights("model_final")
    return folder


def spots(
    height: int, width: int, *boxes: tuple[int, int, int, int], high: int = 220
) -> np.ndarray:
    """A dark grey image (H, W) with bright rectangles: top, left, height, width."""
    image = np.full((height, width), 20, np.uint8)
    for top, left, rows, columns in boxes:
        image[top : top + rows, left : left + columns] = high
    return image


def save(file: Path, image: np.ndarray) -> Path:
    """Write an image as PNG or JPEG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)
    return file
