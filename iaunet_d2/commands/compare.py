"""``iaunet compare``."""

import argparse
import shlex
import sys
from pathlib import Path

HELP = "models side by side on a data set: accuracy, size, speed, memory, pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The models, the data set, and what is measured."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="CONFIG[=WEIGHTS[,WEIGHTS...]]",
        help="one row each; several weights files of one config are seeds: mean ± deviation",
    )
    parser.add_argument("--dataset", required=True, metavar="NAME", help="that all are run on")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the results"
    )
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help="of the rows")
    parser.add_argument(
        "--paper",
        nargs="?",
        const="auto",
        default="",
        metavar="DATASET",
        help="add the rows that the IAUNet paper printed for the data set (or for this one)",
    )
    parser.add_argument("--seeds", action="store_true", help="a row for every seed, too")
    parser.add_argument(
        "--untrained", action="store_true", help="costs alone of models without weights"
    )
    parser.add_argument(
        "--images", type=int, default=6, metavar="N", help="side by side (default 6)"
    )
    parser.add_argument(
        "--size", type=int, default=512, metavar="N", help="of the image for GMACs (default 512)"
    )
    parser.add_argument(
        "--train-steps", type=int, default=5, metavar="N", help="timed (default 5; 0: none)"
    )
    parser.add_argument(
        "--train-batch",
        type=int,
        default=0,
        metavar="N",
        help="images in a training step (default: SOLVER.IMS_PER_BATCH of each config)",
    )
    parser.add_argument("--no-memory", action="store_true", help="do not measure the memory")
    parser.add_argument(
        "--opts",
        nargs="+",
        default=[],
        metavar="KEY VALUE",
        help="config keys to change in all configs, such as MODEL.DEVICE cpu",
    )


def run(args: argparse.Namespace) -> None:
    """Compare, and print the table.

    Raises:
        ValueError: an argument, a config or weights cannot be used.
        OSError: a file does not exist or cannot be written.
    """
    from ..analysis.compare import Options, compare, model_specs
    from ..analysis.compare.run import STEM
    from ..analysis.compare.tables import console

    for name, least in (("images", 0), ("train_steps", 0), ("train_batch", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: is below {least}")
    options = Options(
        args.dataset,
        tuple(args.opts),
        untrained=args.untrained,
        images=args.images,
        size=args.size,
        train_steps=args.train_steps,
        train_batch=args.train_batch,
        memory=not args.no_memory,
        paper=args.paper,
        seeds=args.seeds,
        command=shlex.join(["iaunet", *sys.argv[1:]]),
    )
    comparison = compare(model_specs(args.models, args.names), options, args.output)
    print(console(comparison))
    print(f"\n{args.output / STEM}.html (.md, .csv, .tex, .json)")
