"""Whether a trained model finds in tiles what it finds in the whole image.

    python benchmarks/tiled_model.py output/quickstart [--side 1024] [--tiles 256 512]

The validation images, at the scale of the training, are laid beside one another to one image of
``side`` pixels, which is shown in one piece and in tiles. A line for each size of tile: F1 of the
cells with a score of at least 0.5 against those of the whole, at IoU 0.5 and 0.9.
"""

import argparse
import itertools
import sys
from dataclasses import replace

import numpy as np
from pycocotools import mask as coco_masks
from scipy.optimize import linear_sum_assignment

from iaunet_d2 import Segmenter
from iaunet_d2.data.loaders import build_val_loss_loader
from iaunet_d2.inference.cells import Cells


def mosaic(segmenter: Segmenter, side: int) -> np.ndarray:
    """Lay the validation images side by side, row by row, again and again: (side, side, C)."""
    cfg = segmenter.cfg
    images = [
        entry["image"].permute(1, 2, 0).numpy().astype(np.uint8)
        for name in cfg.DATASETS.TEST
        for (entry,) in build_val_loss_loader(cfg, name)
    ]
    step = min(min(image.shape[:2]) for image in images)
    pieces = itertools.cycle(image[:step, :step] for image in images)
    count = -(-side // step)
    rows = [np.hstack([next(pieces) for _ in range(count)]) for _ in range(count)]
    return np.vstack(rows)[:side, :side]


def runs(cells: Cells) -> list[dict]:
    """Return run lengths of the cells with a score of at least 0.5."""
    wanted = [i for i, score in enumerate(cells.scores) if score >= 0.5]
    return [coco_masks.encode(np.asfortranarray(cells.mask(i), np.uint8)) for i in wanted]


def f1(one: list[dict], other: list[dict], least: float) -> float:
    """Return 2 TP / (N + M) of one-to-one pairs whose IoU reaches ``least``."""
    if not one or not other:
        return float(len(one) == len(other))
    ious = np.array(coco_masks.iou(one, other, [0] * len(other)))
    pairs = linear_sum_assignment(-((ious >= least) + 1e-3 * ious))
    return 2 * float((ious[pairs] >= least).sum()) / (len(one) + len(other))


def main() -> None:
    """Compare, and print a line per size of tile."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--tiles", type=int, nargs="+", default=[256, 512])
    args = parser.parse_args()
    segmenter = Segmenter(args.model, device="cpu", opts=["TEST.DETECTIONS_PER_IMAGE", "2000"])
    image = mosaic(segmenter, args.side)
    shown, training = segmenter.cfg.INPUT.IMAGE_SIZE, segmenter.training
    if training is not None:  # its sizes are of the files, the mosaic's are the network's
        sides = {k: v * shown / training.image_side for k, v in training.cell_side.items()}
        segmenter.training = replace(training, image_side=shown, cell_side=sides)
    whole = runs(segmenter.predict(image, tile=args.side))
    for tile in args.tiles:
        found = runs(segmenter.predict(image, tile=tile))
        values = ", ".join(f"F1 at IoU {t}: {f1(found, whole, t):.3f}" for t in (0.5, 0.9))
        sys.stdout.write(f"tiles of {tile}: {len(found)} cells, whole {len(whole)}; {values}\n")


if __name__ == "__main__":
    main()
