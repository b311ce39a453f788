"""Size, cost and learning of every pixel decoder under every query decoder.

Parameters and multiply-accumulates are those of the published sizes (ResNet-50, 512 x 512, 100
queries). The rest is of a small network (ResNet-18, 64 channels) on one image of 96 x 96: the loss
before and after five steps of the trainer's optimiser, and pycocotools' AP50 of that image once
``--steps`` were made.

Usage: ``python benchmarks/decoder_pairs.py [--models IAUNet Mask2Former] [--steps 150]``
"""

import argparse
import contextlib
import io
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate
from torch import Tensor, nn

import iaunet_d2  # noqa: F401  # makes detectron2 importable

# isort: split
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances

from iaunet_d2.analysis import summarize
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import IAUNetDatasetMapper, load_coco
from iaunet_d2.data.synthetic import SyntheticCells, ensure_synthetic
from iaunet_d2.engine.optimizer import grouped_optimizer
from iaunet_d2.meta_arch.registries import PIXEL_DECODER_REGISTRY, QUERY_DECODER_REGISTRY

SMALL = [
    *("MODEL.TIMM.NAME", "resnet18", "MODEL.PIXEL_DECODER.FPN_DIM", 64, "INPUT.NORMALIZE", "image"),
    *("SOLVER.BASE_LR", 1e-3, "SOLVER.BACKBONE_MULTIPLIER", 1.0),
    *("MODEL.IAUNET.HIDDEN_DIM", 64, "MODEL.IAUNET.FFN_DIM", 128, "MODEL.IAUNET.NUM_QUERIES", 10),
    *("MODEL.IAUNET.BLOCKS_PER_LEVEL", 1, "MODEL.IAUNET.MASKED_ATTENTION", True),
    *("MODEL.SEEDED.HIDDEN_DIM", 64, "MODEL.SEEDED.FFN_DIM", 128, "MODEL.SEEDED.TRAIN_QUERIES", 10),
    *("MODEL.IAUNET.LOSS.NUM_POINTS", 512, "MODEL.IAUNET.LOSS.MATCHER_POINTS", 512),
    *("MODEL.MASK2FORMER.HIDDEN_DIM", 64, "MODEL.MASK2FORMER.FFN_DIM", 128),
    *("MODEL.MASK2FORMER.NUM_QUERIES", 10, "MODEL.MASK2FORMER.ENCODER_LAYERS", 1),
    *("MODEL.MASK2FORMER.ENCODER_FFN_DIM", 128, "MODEL.MASK2FORMER.DECODER_LAYERS", 3),
    *("MODEL.MASK2FORMER.LOSS.NUM_POINTS", 512),
    *("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 96),
]


def pair_config(model: str, pixels: str, queries: str, *changes: Any) -> CfgNode:
    """Return the config of a model with two decoders by name."""
    cfg = get_iaunet_cfg()
    names = ["MODEL.PIXEL_DECODER.NAME", pixels, "MODEL.QUERY_DECODER.NAME", queries]
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", model, *names, *changes])
    return cfg


def learnt(cfg: CfgNode, image: dict[str, Any], steps: int) -> tuple[float, float, float]:
    """Return the first loss, that after five steps, and AP50 of the image after all steps."""
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = grouped_optimizer(cfg, model)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    losses = []
    for _ in range(steps):
        loss = sum(model([image]).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    found = model.eval()([image])[0]["instances"]
    return losses[0], losses[5], ap50(found, image["instances"].gt_masks.tensor)


def ap50(found: Instances, truth: Tensor) -> float:
    """Return pycocotools' AP50 of one image's masks, in percent."""
    if not len(found):  # loadRes takes no empty list
        return 0.0
    height, width = truth.shape[1:]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1, "height": height, "width": width}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": i + 1, "area": int(mask.sum()), "iscrowd": 0, "bbox": [0, 0, 1, 1]}
            | {"image_id": 1, "category_id": 1, "segmentation": encoded(mask)}
            for i, mask in enumerate(truth)
        ],
    }
    results = [
        {"image_id": 1, "category_id": 1, "score": float(score), "segmentation": encoded(mask)}
        for mask, score in zip(found.pred_masks, found.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[1])


def encoded(mask: Tensor) -> dict[str, Any]:
    """Return a mask (H, W) as COCO's run lengths."""
    return rle.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))


def main() -> None:
    """Measure every pair and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["IAUNet", "Mask2Former"], metavar="M")
    parser.add_argument("--steps", type=int, default=150, metavar="N")
    args = parser.parse_args()
    pixels = [name for name, _ in PIXEL_DECODER_REGISTRY]
    queries = [name for name, _ in QUERY_DECODER_REGISTRY]
    with tempfile.TemporaryDirectory() as folder:
        ensure_synthetic(
            Path(folder, "one"), SyntheticCells(num_images=1, size=96, cells=(5, 5), seed=3)
        )
        data = load_coco(f"{folder}/one/annotations.json", f"{folder}/one/images")
        mapper = IAUNetDatasetMapper(
            pair_config("IAUNet", "", "", *SMALL), is_train=False, keep_instances=True
        )
        image = mapper(data.dicts[0])
        rows = []
        for model, pixel, query in itertools.product(args.models, pixels, queries):
            if (model, query) == ("Mask2Former", "SeededQueryDecoder"):
                continue  # these queries learn where to begin by losses that are IAUNet's alone
            counts = summarize(build_model(pair_config(model, pixel, query)))
            first, fifth, score = learnt(
                pair_config(model, pixel, query, *SMALL), image, args.steps
            )
            size = f"{counts.parameters / 1e6:.2f} M", f"{counts.gmacs:.2f}"
            rows.append((model, pixel, query, *size, f"{first:.2f} → {fifth:.2f}", f"{score:.1f}"))
    heads = ("losses of", "pixel decoder", "query decoder", "parameters", "GMACs", "loss, 5 steps")
    table = tabulate(rows, headers=(*heads, "AP50"), tablefmt="github")
    sys.stdout.write(f"{table}\n")


if __name__ == "__main__":
    main()
