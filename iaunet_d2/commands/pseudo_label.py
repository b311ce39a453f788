"""``iaunet pseudo-label``."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_shared
from .console import log_to_console, terminated_as_interrupted

if TYPE_CHECKING:
    from ..inference.pseudo_labels import PseudoLabels

HELP = "label images without annotations by a trained model, as a COCO file to train on"

SOME_LEFT_OUT = 1
EXIT_CODES = (
    "Exit codes: 0 all images are labelled; 1 some could not be used, and are listed; 2 it could "
    "not start or go on; 130 interrupted: the same command goes on."
)
_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the images, the threshold, and how images are read."""
    parser.epilog = EXIT_CODES
    parser.add_argument("model", metavar="MODEL", help="folder that training wrote (OUTPUT_DIR)")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image files, folders of images, or patterns such as 'more/*.tif'",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="FILE.json",
        help="COCO file; FILE.provenance.json beside it says how it was made",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="score from which a cell becomes a label (default 0.5)",
    )
    parser.add_argument(
        "--tta",
        action=argparse.BooleanOptionalAction,
        help="with or without the model's test-time augmentation, where it has one, such as VSM "
        "(default: as its config says)",
    )
    parser.add_argument(
        "--drop-empty",
        action="store_true",
        help="leave out images in which nothing is found (default: they are images without cells)",
    )
    add_shared(parser, "--recursive", "--channels", "--tile")
    _add_running(parser)


def _add_running(parser: argparse.ArgumentParser) -> None:
    add_shared(parser, "--weights", "--device", "--batch-size", "--workers")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace pseudo-labels that are there already"
    )
    add_shared(parser, "--opts")


def run(args: argparse.Namespace) -> int:
    """Label the images, and print what was done and how to train on it.

    Returns:
        The exit code: 0, or 1 where some images were left out.

    Raises:
        ValueError: an argument, the config or the weights cannot be used.
        OSError: model or images are not there, or the output cannot be written.
        KeyboardInterrupt: it was interrupted.
    """
    from ..inference.inputs import find_inputs
    from ..inference.options import Options
    from ..inference.pseudo_labels import (
        check_output,
        make_pseudo_labels,
        parts_folder,
        tta_options,
    )
    from ..inference.records import Records
    from ..inference.segmenter import Segmenter
    from .predict import numbers

    _check(args)
    check_output(args.output, args.overwrite)
    options = Options(
        tile=args.tile,
        channels=tuple(numbers(args.channels, int, "--channels")),
        workers=args.workers,
    )
    parts = parts_folder(args.output)
    with log_to_console(), terminated_as_interrupted():
        owner = Records(parts, {}, 0).owner
        files = find_inputs(args.inputs, parts, args.recursive, owner)
        opts = list(args.opts)
        if args.tta is not None:
            opts += tta_options(args.model, args.weights, opts, args.tta)
        segmenter = Segmenter(args.model, args.weights, args.device, args.threshold, opts)
        options = options.for_device(args.batch_size, segmenter.cfg.MODEL.DEVICE)
        segmenter.tile_side((1, 1), options.tile)
        about = {"model": os.path.abspath(args.model), "config_options": opts}
        made = make_pseudo_labels(segmenter, files, args.output, options, args.drop_empty, about)
    print(summary(made))
    return SOME_LEFT_OUT if made.block["left_out"] else 0


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.threshold <= 1:
        raise ValueError(f"--threshold {args.threshold}: a number in 0..1 is needed")
    for name in ("workers", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: at least 1 is needed")


def summary(made: "PseudoLabels") -> str:
    """What was written, what was left out, and the next command."""
    block, left_out = made.block, made.block["left_out"]
    lines = [
        f"{block['images']:,} images ({block['images_without_annotations']:,} without cells), "
        f"{block['annotations']:,} cells with a score of {block['threshold']} or more; "
        f"{len(left_out):,} images left out",
        *(f"  left out: {entry['reason']}" for entry in left_out[:_SHOWN]),
    ]
    if len(left_out) > _SHOWN:
        lines.append(f"  ... and {len(left_out) - _SHOWN:,} more, in {made.provenance}")
    lines += [f"{made.output}", f"{made.provenance}"]
    train = f"DATASETS.TRAIN \"('<labelled data set>', '{made.dataset_name}')\""
    lines.append(f'Train on both:  iaunet train ... {train} DATASETS.MIX "(5, 1)"')
    return "\n".join(lines)
