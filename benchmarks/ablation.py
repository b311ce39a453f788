"""Ablate seeded queries: train with one part exchanged at a time, and tabulate the figures.

    python benchmarks/ablation.py run [--variants NAME ...] [--data worms nuclei] [--seeds 1 2 3]
    python benchmarks/ablation.py table

``run`` trains configs/comparison/<data>_iaunet_seeded.yaml, one thread each, two at a time, and
adds a row to ablation.json for each that ends; what is there is not done again. ``table`` prints
means over the seeds.
"""

import argparse
import itertools
import sys

from trainings import ROOT, Row, Rows, trained

FILE = ROOT / "benchmarks" / "ablation.json"
PARTS = ROOT / "benchmarks" / "ablation_parts.py"
SEEDED, LOSS = "MODEL.SEEDED", "MODEL.IAUNET.LOSS"

# Name: opts, and the function of ablation_parts.py.
VARIANTS: dict[str, tuple[list[str], str]] = {
    "as it is": ([], ""),
    "published queries": (["MODEL.QUERY_DECODER.NAME", ""], ""),
    "a grid in place of seeds": ([], "grid"),
    "no window": ([], "no_window"),
    "window on places alone": ([], "no_votes"),
    "window on votes alone": ([], "votes_alone"),
    "no teacher queries": ([f"{SEEDED}.TEACHERS", "0"], ""),
    "two teacher queries": ([f"{SEEDED}.TEACHERS", "2"], ""),
    "no heat loss": ([f"{SEEDED}.LOSS.HEAT_WEIGHT", "0.0"], ""),
    "no location cost": ([f"{SEEDED}.LOSS.LOCATION_COST", "0.0"], ""),
    "no ImageNet weights": (
        [
            *("MODEL.TIMM.PRETRAINED", "False", "MODEL.TIMM.NORM_EVAL", "False"),
            *("SOLVER.BACKBONE_MULTIPLIER", "1.0"),
        ],
        "",
    ),
    "heat as a ridge": ([], "ridge"),
    "no heat in the content": ([], "no_heat_in_content"),
    "no-object weight 1": ([f"{LOSS}.NO_OBJECT_WEIGHT", "1.0"], ""),
    "focal, IoU-aware": (
        [f"{SEEDED}.LOSS.CLASS_LOSS", "quality", f"{LOSS}.CLASS_WEIGHT", "4.0"],
        "",
    ),
    "heat times class as score": ([], "heat_score"),
    "masked attention": ([], "masked_attention"),
    "no attention to the image": ([], "no_attention"),
    "window from the last block": ([], "window_from_last_block"),
    "window off in the last block": ([], "window_off_last"),
    "2 blocks per level": ([f"{SEEDED}.BLOCKS_PER_LEVEL", "2"], ""),
    "3 blocks per level": ([f"{SEEDED}.BLOCKS_PER_LEVEL", "3"], ""),
    "truth twice": ([], "truth_twice"),
    "average of weights, 0.99": (["SOLVER.EMA_DECAY", "0.99"], ""),
    "backbone's rate x 1": (["SOLVER.BACKBONE_MULTIPLIER", "1.0"], ""),
    "backbone's rate x 0.05": (["SOLVER.BACKBONE_MULTIPLIER", "0.05"], ""),
    "learning rate x 2": (["SOLVER.BASE_LR", "0.002"], ""),
    "learning rate / 2": (["SOLVER.BASE_LR", "0.0005"], ""),
    "masks at stride 4": ([f"{SEEDED}.MASK_STRIDE", "4"], ""),
    "masks at stride 1": ([f"{SEEDED}.MASK_STRIDE", "1"], ""),
    "batch norms that learn": (["MODEL.TIMM.NORM_EVAL", "False"], ""),
    "points around the instance": (
        [f"{SEEDED}.LOSS.LOCAL_POINTS", "True", f"{LOSS}.MASK_WEIGHT", "1.0"],
        "",
    ),
}


ROWS = Rows(FILE, ("variant", "data", "seed"))


def train(task: Row) -> Row:
    """Train one variant, and return its figures."""
    opts, part = VARIANTS[task["variant"]]
    config = f"configs/comparison/{task['data']}_iaunet_seeded.yaml"
    imported = ["--import", str(PARTS)] if part else []
    return trained(
        [*imported, "--config-file", config],
        ["SEED", str(task["seed"]), *opts],
        ["MODEL.IAUNET.MASK_NMS_THRESH", "0.0"],
        ABLATION=part,
    )


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--data", nargs="+", default=["worms", "nuclei"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    if args.action == "run":
        asked = itertools.product(args.seeds, args.variants, args.data)
        ROWS.run(({"variant": v, "data": d, "seed": s} for s, v, d in asked), train, args.jobs)
    else:
        places = list(VARIANTS)
        table = ROWS.table(("data", "variant"), lambda key: (key[0], places.index(key[1])))
        sys.stdout.write(table + "\n")


if __name__ == "__main__":
    main()
