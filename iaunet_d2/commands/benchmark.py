"""``iaunet benchmark``."""

import argparse
from pathlib import Path
from typing import Any

HELP = "time and memory of models over batch, image size, queries, instances, precision, device"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The models, the values to measure at, and how often."""
    parser.add_argument(
        "configs", nargs="+", metavar="CONFIG", help="a path, or a name of configs/"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of the results; what it has already is not measured again",
    )
    several: dict[str, Any] = {"nargs": "+", "metavar": "N", "type": int}
    parser.add_argument(
        "--mode",
        nargs="+",
        choices=("inference", "training"),
        default=["inference", "training"],
        help="what is measured (default both)",
    )
    parser.add_argument(
        "--backbone", action="store_true", help="measure each backbone alone, too, for reference"
    )
    parser.add_argument("--batch", **several, default=[1], help="images in a batch (default 1)")
    parser.add_argument("--size", **several, default=[512], help="image sides (default 512)")
    parser.add_argument(
        "--queries", **several, default=[0], help="(default: the number of each config)"
    )
    parser.add_argument(
        "--instances", **several, default=[20], help="of each training image (default 20)"
    )
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32"]
    )
    parser.add_argument(
        "--compile", nargs="+", choices=("off", "on"), default=["off"], help="torch.compile"
    )
    parser.add_argument(
        "--device", nargs="+", metavar="D", help="cpu, cuda (default: MODEL.DEVICE of each config)"
    )
    parser.add_argument(
        "--grid",
        action="store_true",
        help="all combinations (default: one thing is varied, the others have their first value)",
    )
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="(default 10)")
    parser.add_argument("--warm-up", type=int, default=2, metavar="N", help="runs (default 2)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure the memory")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: torch's)")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="config keys to change"
    )


def run(args: argparse.Namespace) -> None:
    """Measure, and print the table.

    Raises:
        ValueError: an argument or a config cannot be used.
        OSError: a file does not exist or cannot be written.
    """
    import torch

    from ..analysis.benchmark import Axes, Settings, benchmark, plan
    from ..analysis.models import measured_config
    from ..engine.preflight import check_device

    for name, least in (("repeats", 1), ("warm_up", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: is below {least}")
    if args.threads is not None:
        if args.threads < 1:
            raise ValueError(f"--threads {args.threads}: is below 1")
        torch.set_num_threads(args.threads)
    configs = {_name(path, args.configs): measured_config(path, args.opts) for path in args.configs}
    devices = args.device or list(dict.fromkeys(cfg.MODEL.DEVICE for cfg in configs.values()))
    for device in devices:
        check_device(device)
    axes = Axes(
        modes=(*args.mode, *(["backbone"] if args.backbone else [])),
        devices=tuple(devices),
        precisions=tuple(args.precision),
        compiled=tuple(word == "on" for word in args.compile),
        batches=tuple(args.batch),
        sizes=tuple(args.size),
        queries=tuple(args.queries),
        instances=tuple(args.instances),
    )
    points, left_out = plan(configs, axes, args.grid)
    settings = Settings(args.repeats, args.warm_up, not args.no_memory)
    _, text = benchmark(configs, points, settings, args.output)
    print(text)
    for line in left_out:
        print(line)
    print(f"{args.output / 'benchmark'}.json (.md, .png)")


def _name(path: str, paths: list[str]) -> str:
    """The file's stem, or the path where another config has the same stem."""
    stem = Path(path).stem
    return stem if [Path(other).stem for other in paths].count(stem) == 1 else path
