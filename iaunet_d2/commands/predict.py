"""``iaunet predict``."""

import argparse
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_shared
from .console import log_to_console, terminated_as_interrupted

if TYPE_CHECKING:
    from ..inference.options import Options, Summary

HELP = "find the cells of images: files, folders, patterns; and write them for other programs"

EXIT_CODES = (
    "Exit codes: 0 all images are done; 1 some failed, and are listed at the end; 2 it could not "
    "start or go on (wrong usage, no model, disk full); 130 interrupted. The same command again "
    "does what is missing."
)
SOME_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The images, the model, where outputs go and which, and how images are read."""
    parser.epilog = EXIT_CODES
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image files, folders of images, or patterns such as 'scans/*.tif'",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="folder")
    _add_model(parser)
    add_shared(parser, "--recursive", "--channels", "--axes", "--pixel-size", "--tile")
    parser.add_argument(
        "--points",
        metavar="CSV",
        help="find the cell at each of these places only: columns image, x, y, in pixels from the "
        "top left; cells come in the rows' order. Images without a row are left out. For models "
        "with seeded queries",
    )
    _add_running(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR", help="folder that training wrote (OUTPUT_DIR)")
    parser.add_argument("--config-file", metavar="C", help="instead: a config, with --weights")
    add_shared(parser, "--weights")
    parser.add_argument(
        "--score-thresh",
        type=float,
        metavar="S",
        help="leave out cells with a lower score (default: TEST.SCORE_THRESH of the config, 0.5)",
    )
    add_shared(parser, "--opts")


def _add_running(parser: argparse.ArgumentParser) -> None:
    from ..inference.outputs import FORMATS

    formats = "; ".join(f"{name}: {kind.description}" for name, kind in FORMATS.items())
    parser.add_argument(
        "--formats",
        default="labels,csv,overlay",
        metavar="A,B",
        help=f"what is written per image (default labels,csv,overlay), or all. {formats}. Always "
        "written: counts.csv and report.html of the run",
    )
    add_shared(parser, "--device", "--batch-size", "--workers")
    parser.add_argument(
        "--overwrite", action="store_true", help="do again what is done already (default: skip it)"
    )


def run(args: argparse.Namespace) -> int:
    """Predict, and print what was done.

    Returns:
        The exit code: 0, or 1 where some images failed.

    Raises:
        ValueError: an argument, the config or the weights cannot be used.
        OSError: model or images are not there, or the output folder cannot be written.
        KeyboardInterrupt: it was interrupted.
    """
    from ..inference.inputs import find_inputs
    from ..inference.options import made_with
    from ..inference.prompts import read_points
    from ..inference.records import COUNTS, REPORT, Records
    from ..inference.run import FolderRun
    from ..inference.segmenter import Segmenter

    options = _options(args)
    started = _started()
    with log_to_console(), terminated_as_interrupted():
        files = find_inputs(
            args.inputs, args.output, args.recursive, Records(args.output, {}, started).owner
        )
        segmenter = Segmenter(
            args.model or args.config_file, args.weights, args.device, args.score_thresh, args.opts
        )
        if args.points:
            points = read_points(args.points, files)
            options = replace(options, points=points)
            count = len(files)
            files = [file for file in files if file.name in points]
            if len(files) < count:
                print(f"{count - len(files)} of {count} images have no row in {args.points}")
        options = options.for_device(args.batch_size, segmenter.cfg.MODEL.DEVICE)
        segmenter.tile_side((1, 1), options.tile)
        records = Records(args.output, made_with(segmenter, options), started, args.overwrite)
        summary = FolderRun(segmenter, files, records, options)()
    if os.environ.get("RANK", "0") == "0":
        print(_told(summary))
        print(f"{args.output / REPORT}\n{args.output / COUNTS}")
    return SOME_FAILED if summary.failed else 0


def _options(args: argparse.Namespace) -> "Options":
    """The arguments that concern images, checked.

    Raises:
        ValueError: one cannot be used.
    """
    from ..inference.options import Options
    from ..inference.outputs import parse_formats
    from ..inference.sources import check_axes
    from ..inference.sources.pixel_size import given_size

    if not (args.model or args.config_file):
        raise ValueError("--model DIR, or --config-file C with --weights W, is needed")
    if args.model and args.config_file:
        raise ValueError("--model and --config-file: give one of them")
    size = numbers(args.pixel_size, float, "--pixel-size")
    for name in ("workers", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: at least 1 is needed")
    return Options(
        formats=parse_formats(args.formats),
        tile=args.tile,
        axes=check_axes(args.axes),
        channels=tuple(numbers(args.channels, int, "--channels")),
        pixel_size=given_size((size * 2 if len(size) == 1 else size) or None),
        workers=args.workers,
    )


def numbers(text: str, kind: type, option: str) -> list:
    """The numbers of a list such as ``0,1,2``."""
    try:
        return [kind(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise ValueError(f"{option} {text}: numbers separated by commas are needed") from error


def _started() -> float:
    """When this run began: for processes that torchrun started together, the same time."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "MASTER_ADDR" not in os.environ:
        return time.time()
    import torch.distributed as dist

    store, rank, _ = next(dist.rendezvous("env://"))
    if rank == 0:
        store.set("iaunet_predict/started", str(time.time()))
    return float(store.get("iaunet_predict/started"))


def _told(summary: "Summary") -> str:
    """What was done, what failed, what else is to be known."""
    parts = [f"{summary.done} done"]
    if summary.elsewhere:
        parts.append(f"{summary.elsewhere} done by other processes")
    if summary.before:
        parts.append(f"{summary.before} done before")
    if summary.failed:
        parts.append(f"{len(summary.failed)} failed")
    total = summary.done + summary.elsewhere + summary.before + len(summary.failed)
    lines = [f"{total} images: {', '.join(parts)}; {summary.cells:,} cells"]
    lines += [f"  failed: {error}" for _, error in summary.failed]
    notes = Counter(note for _, note in summary.notes)
    lines += [f"  {count} images: {note}" for note, count in notes.items()]
    return "\n".join(lines)
