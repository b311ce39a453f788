"""``iaunet ensemble``."""

import argparse

HELP = "put MAUNets that were trained apart together into one model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The ensemble's config, its members and where it goes."""
    parser.add_argument(
        "members", nargs="+", metavar="MODEL", help="folders that training wrote, or weights files"
    )
    parser.add_argument(
        "--config-file",
        default="systems/maunet_ensemble.yaml",
        metavar="C",
        help="of the ensemble: a path, or a name under configs/ (default: %(default)s)",
    )
    parser.add_argument(
        "--output", "-o", required=True, metavar="FOLDER", help="gets config.yaml and weights"
    )


def run(args: argparse.Namespace) -> None:
    """Build, load the members, write, and print where."""
    from ..config import get_iaunet_cfg
    from ..engine.ensemble import write_ensemble
    from ..engine.preflight import merge_config
    from ..inference.model_folder import find_model

    cfg = get_iaunet_cfg()
    merge_config(cfg, args.config_file, [])
    files = [str(find_model(member).weights) for member in args.members]
    print(f"{write_ensemble(cfg, files, args.output)}: {len(files)} networks")
