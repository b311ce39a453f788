"""Draw where the seeded queries of a model begin, their windows, and the masks that they end with.

python benchmarks/seeded_figure.py output/bbbc010_small image.png docs/pictures/seeded.png
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from iaunet_d2 import Segmenter
from iaunet_d2.drawing import instance_color
from iaunet_d2.networks import mask_logits
from iaunet_d2.networks.windows import COEFFICIENTS

FALL = 4
"""Of a window's logits from its top to where it is drawn."""


def main() -> None:
    """Predict one image and draw three panels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("output")
    args = parser.parse_args()
    segmenter = Segmenter(args.model, device="cpu")
    model = segmenter.model
    loaded = segmenter.load(segmenter.planes(args.image)[0], "off")
    images = model.preprocess([loaded.entry])
    with torch.no_grad():
        output = model.network(images.tensor, None, True)
    first, last = output.predictions[0], output.predictions[-1]
    scores = last.class_logits[0].softmax(-1)[:, 0]
    logits = mask_logits(last.mask_embeddings, output.mask_features)[0]
    kept = distinct(logits > 0, scores)
    window = output.mask_features[:, -COEFFICIENTS:]
    at = [mask_logits(p.mask_embeddings[..., -COEFFICIENTS:], window)[0] for p in (first, last)]
    size = images.image_sizes[0]
    grey = loaded.entry["image"].float().mean(0).numpy()
    heat = raised(last.seeds.heat.sigmoid()[0][None], size)[0]
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.4), constrained_layout=True)
    axes[0].imshow(grey, cmap="gray")
    axes[0].imshow(heat, cmap="inferno", alpha=np.clip(2 * heat, 0, 0.8), vmin=0, vmax=1)
    anchors = last.seeds.anchors[0].numpy()
    axes[0].plot(*anchors[kept].T, "+", color="cyan", markersize=9, markeredgewidth=2)
    titles = (
        "heat, and seeds",
        f"windows {FALL} below their top: first block, last block",
        "masks",
    )
    axes[1].imshow(grey, cmap="gray")
    axes[2].imshow(grey, cmap="gray")
    colours = np.array([instance_color(i) for i in range(len(kept))]) / 255
    for query, colour in zip(kept, colours, strict=True):
        for maps, style in zip(at, ("dotted", "solid"), strict=True):
            own = raised(maps[query][None], size)[0]
            axes[1].contour(own, [own.max() - FALL], colors=[colour], linestyles=style)
        axes[2].contour(raised(logits[query][None], size)[0], [0], colors=[colour], linewidths=2)
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)
        axis.set_axis_off()
    figure.savefig(args.output, dpi=90)


def distinct(masks: Tensor, scores: Tensor) -> list[int]:
    """Return the queries with a score of at least 0.5 that are no second one of a mask."""
    chosen: list[int] = []
    for query in scores.argsort(descending=True).tolist():
        if scores[query] < 0.5 or not masks[query].any():
            continue
        overlaps = [
            (masks[query] & masks[other]).sum() / (masks[query] | masks[other]).sum()
            for other in chosen
        ]
        if all(overlap < 0.7 for overlap in overlaps):
            chosen.append(query)
    return chosen


def raised(maps: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return maps (N, h, w) at the size of the network's input, without its padding."""
    scale = 32 * -(-size[1] // 32) / maps.shape[-1]
    resized = F.interpolate(maps[:, None], scale_factor=scale, mode="bilinear", align_corners=False)
    return resized[:, 0, : size[0], : size[1]].numpy()


if __name__ == "__main__":
    main()
