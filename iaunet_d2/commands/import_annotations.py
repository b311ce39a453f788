"""``iaunet import``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.importers import Report

HELP = "annotations of other tools as one COCO file: label images, LabelMe, CVAT, QuPath, ..."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The format, the folders, the output, and how files go together."""
    from ..data.importers import FORMATS

    parser.add_argument("--format", required=True, choices=list(FORMATS), help="of the annotations")
    parser.add_argument(
        "--images", required=True, metavar="DIR", help="folder of the annotated images"
    )
    parser.add_argument(
        "--annotations", required=True, metavar="DIR", help="folder of the annotations, or one file"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="JSON", help="the COCO file to write"
    )
    parser.add_argument(
        "--class-name", default="cell", metavar="NAME", help="of objects without one (default cell)"
    )
    parser.add_argument("--recursive", action="store_true", help="look in sub-folders too")
    parser.add_argument(
        "--suffix",
        metavar="S",
        help="what the names of annotation files have after the image's, such as _gt (default: "
        "nothing, or what is usual for the format)",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave annotations without an image out"
    )
    parser.add_argument(
        "--keep-unannotated",
        action="store_true",
        help="keep images without an annotation file, as images without objects",
    )


def run(args: argparse.Namespace) -> None:
    """Import, and say what was found and what to do next."""
    from ..data.importers import import_annotations

    if Path(args.output).suffix.lower() != ".json":
        raise ValueError(f"--output {args.output}: a name that ends in .json is needed")
    report = import_annotations(
        args.format,
        args.images,
        args.annotations,
        args.output,
        class_name=args.class_name,
        recursive=args.recursive,
        suffix=args.suffix,
        allow_missing=args.allow_missing,
        keep_unannotated=args.keep_unannotated,
    )
    print(summary(report))
    name = f"coco:{args.output}:{args.images}"
    print(f"\nLook at it:   iaunet stats {name}")
    print(f"Train on it:  iaunet train ... DATASETS.TRAIN \"('{name}',)\"")


def summary(report: "Report") -> str:
    """The counts as a table, and below it what was left out or must be told."""
    from tabulate import tabulate

    rows = [
        ["images", report.images],
        ["  without objects", report.empty],
        ["instances", sum(report.instances.values())],
        *([f"  {name}", count] for name, count in report.instances.items()),
    ]
    lines = [f"{report.output}", tabulate(rows, tablefmt="plain", disable_numparse=[0])]
    for what, count in report.findings.items():
        places = report.examples[what]
        more = ", ..." if count > len(places) else ""
        lines.append(f"{count} {what} ({', '.join(places)}{more})")
    return "\n".join(lines)
