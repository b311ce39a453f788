"""``iaunet stats``."""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..analysis.dataset_stats import DatasetStats
    from ..analysis.split_reader import SplitReader

HELP = "what a data set holds: counts, sizes, overlaps, pixel mean; and a sheet of its images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data sets, and where the results go."""
    parser.add_argument(
        "splits",
        nargs="+",
        metavar="SPLIT",
        help="a registered name such as livecell_train, coco:<json>:<image folder>, or synthetic "
        "cells",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT.png",
        help="the contact sheet, of one split (default <split>_contact_sheet.png here)",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=12,
        metavar="N",
        help="images on the contact sheet (default 12; 0 writes none)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there, by split")
    parser.add_argument(
        "--min-shared",
        type=int,
        default=1,
        metavar="N",
        help="pixels in other instances from which on one counts as sharing (default 1)",
    )
    parser.add_argument(
        "--opts",
        nargs="+",
        default=[],
        metavar="KEY VALUE",
        help="config keys to change, such as INPUT.ON_BAD_FILE skip",
    )


def run(args: argparse.Namespace) -> None:
    """Measure, print, and draw.

    Raises:
        BadFileError: a data set cannot be used.
        ValueError: an argument cannot be used.
        OSError: a file cannot be written.
    """
    from ..analysis.dataset_stats import dataset_stats
    from ..analysis.split_reader import SplitReader
    from ..config import get_iaunet_cfg
    from ..engine.preflight import merge_config

    if args.output and len(args.splits) > 1:
        raise ValueError(
            f"-o {args.output} is one picture, and {len(args.splits)} splits are given: leave it "
            "out, and each gets <split>_contact_sheet.png"
        )
    if args.images < 0:
        raise ValueError(f"--images {args.images}: 0 or more are needed")
    cfg = get_iaunet_cfg()
    merge_config(cfg, "", args.opts)
    figures = {}
    for name in args.splits:
        reader = SplitReader(cfg, name)
        stats = dataset_stats(reader, args.min_shared)
        print(stats.table())
        print(_for_configs(stats))
        figures[name] = stats.as_dict()
        if args.images:
            path = Path(args.output or sheet_name(name))
            _write_sheet(reader, args.images, path)
            print(f"\n{path}")
    if args.json:
        from ..files import atomic_write

        with atomic_write(args.json) as stream:
            stream.write(json.dumps(figures, indent=2).encode())


def sheet_name(split: str) -> str:
    """File name of a split's contact sheet: of what may stand in none, an underscore."""
    return re.sub(r"[^\w.-]+", "_", split).strip("_") + "_contact_sheet.png"


def _for_configs(stats: "DatasetStats") -> str:
    return (
        "\n# For a config, measured on the training split: the mean over images, as IAUNet's "
        f"authors computed theirs\n{stats.yaml()}"
    )


def _write_sheet(reader: "SplitReader", images: int, path: Path) -> None:
    import cv2

    from ..analysis.contact_sheet import contact_sheet
    from ..files import atomic_write

    if path.suffix.lower() != ".png":
        raise ValueError(f"-o {path}: the contact sheet is a PNG; give it that suffix")
    _, encoded = cv2.imencode(".png", contact_sheet(reader, images)[:, :, ::-1])
    with atomic_write(path) as stream:
        stream.write(encoded.tobytes())
