"""``iaunet summary``."""

import argparse
import json
import logging

HELP = "parameters and GMACs of a config's model, per part"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config, the image size, and the form of the output."""
    parser.add_argument(
        "--config-file", required=True, metavar="C", help="a path, or a name under configs/"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON: parameters, gmacs, size, parts"
    )
    parser.add_argument(
        "--size", type=int, default=512, metavar="N", help="side of the image (default 512)"
    )
    parser.add_argument(
        "--train-mode",
        action="store_true",
        help="count a training step's forward pass: every prediction",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")


def run(args: argparse.Namespace) -> None:
    """Build the model without weights, count, and print."""
    from ..analysis import summarize
    from ..analysis.models import built_model
    from ..config import get_iaunet_cfg, without_part_weights
    from ..engine.preflight import merge_config

    cfg = get_iaunet_cfg()
    merge_config(cfg, args.config_file, args.opts)
    # Counting needs no weights and no GPU.
    cfg.MODEL.DEVICE = "cpu"
    without_part_weights(cfg)
    logging.getLogger("detectron2").setLevel(logging.ERROR)
    summary = summarize(built_model(cfg), args.size, args.train_mode)
    print(json.dumps(summary.as_dict(), indent=2) if args.json else summary.table())
