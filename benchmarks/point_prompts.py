"""One click on every instance of a validation set: the mean IoU of the masks that answer.

    python benchmarks/point_prompts.py output/bbbc010_small [--seed 0] [--opts KEY VALUE ...]

Each click is a random pixel of the instance whose distance to the outside is at least 0.4 of the
instance's greatest; each is answered by itself. Beside it the same of the automatic result: for
every instance the best IoU of any mask with a score of at least 0.5.
"""

import argparse
import sys

import numpy as np
import torch

from iaunet_d2.data.loaders import build_val_loss_loader
from iaunet_d2.inference.model_folder import find_model, model_config
from iaunet_d2.inference.predictor import Predictor
from iaunet_d2.networks import seed_target


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two masks (H, W)."""
    return float((one & other).sum() / max((one | other).sum(), 1))


def main() -> None:
    """Click, and print a line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[])
    args = parser.parse_args()
    cfg = model_config(find_model(args.model, None), "cpu", args.opts)
    model, random = Predictor(cfg).model, np.random.default_rng(args.seed)
    clicked, automatic = [], []
    for name in cfg.DATASETS.TEST:
        for (entry,) in build_val_loss_loader(cfg, name):
            masks = entry.pop("instances").gt_masks.tensor.numpy()
            # Everything at the network's input: the clicks, and the masks that are compared.
            entry["height"], entry["width"] = masks.shape[1:]
            places = seed_target(masks, 1, random).places[:, 0]
            with torch.no_grad():
                answers = model.segment_at([{**entry, "points": places}])[0]
                found = model.segment([entry])[0]
            found = found.take((found.scores >= 0.5).nonzero()[:, 0])
            frames, answered = found.dense().numpy(), answers.dense().numpy()
            for i, mask in enumerate(masks):
                clicked.append(iou(answered[i], mask))
                automatic.append(max((iou(frame, mask) for frame in frames), default=0.0))
    sys.stdout.write(
        f"{len(clicked)} instances: mean IoU of one click {np.mean(clicked):.3f}, "
        f"automatic {np.mean(automatic):.3f}; IoU >= 0.5: {np.mean(np.array(clicked) >= 0.5):.3f}, "
        f"{np.mean(np.array(automatic) >= 0.5):.3f}\n"
    )


if __name__ == "__main__":
    main()
