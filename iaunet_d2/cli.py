"""The console command ``iaunet``."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="iaunet", description="Instance segmentation of overlapping cells."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "train", add_help=False, help="train, resume or evaluate: the arguments of train_net.py"
    )
    commands.add_parser("env", help="versions, devices, and which Detectron2 is in use")
    summary = commands.add_parser(
        "summary", help="parameters and GMACs of a config's model, per part"
    )
    summary.add_argument(
        "--config-file", required=True, metavar="C", help="a path, or a name under configs/"
    )
    summary.add_argument(
        "--json", action="store_true", help="print JSON: parameters, gmacs, size, parts"
    )
    summary.add_argument(
        "--size", type=int, default=512, metavar="N", help="side of the image (default 512)"
    )
    summary.add_argument(
        "--train-mode",
        action="store_true",
        help="count a training step's forward pass: every prediction",
    )
    summary.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")
    return parser


def _summary(args: argparse.Namespace) -> None:
    from detectron2.modeling import build_model

    from .analysis import summarize
    from .config import get_iaunet_cfg
    from .engine.preflight import merge_config

    cfg = get_iaunet_cfg()
    merge_config(cfg, args.config_file, args.opts)
    # Counting needs no weights and no GPU.
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", False, "MODEL.TIMM.CHECKPOINT", ""]
    )
    logging.getLogger("detectron2").setLevel(logging.ERROR)
    summary = summarize(build_model(cfg), args.size, args.train_mode)
    print(json.dumps(summary.as_dict(), indent=2) if args.json else summary.table())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 2 for bad input, which is told in one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        from .engine import main as train

        return train(arguments[1:])
    args = _parser().parse_args(arguments)
    if args.command == "env":
        from .env import main as show

        show()
        return 0
    try:
        _summary(args)
    except (ValueError, FileNotFoundError) as error:
        print(f"iaunet {args.command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
