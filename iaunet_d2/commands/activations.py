"""``iaunet activations``."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_shared
from .console import log_to_console
from .predict import SOME_FAILED, numbers

if TYPE_CHECKING:
    from ..inference.inputs import Input
    from ..inference.segmenter import Segmenter

HELP = "pictures of where in an image the queries of IAUNet v1 come from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the images, where the pages go, and how images are read."""
    parser.add_argument("model", metavar="MODEL", help="folder that training wrote (OUTPUT_DIR)")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE",
        help="image files, folders of images, or patterns such as 'scans/*.tif'",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="folder")
    parser.add_argument(
        "--instances",
        type=int,
        default=6,
        metavar="N",
        help="rows of a page: the best instances of the image (default 6)",
    )
    add_shared(parser, "--weights")
    parser.add_argument(
        "--score-thresh",
        type=float,
        metavar="S",
        help="leave out instances with a lower score (default: TEST.SCORE_THRESH of the config)",
    )
    add_shared(parser, "--recursive", "--channels", "--axes", "--device")


def run(args: argparse.Namespace) -> int:
    """Write a page per image, and print where it is.

    Returns:
        The exit code: 0, or 1 where some images could not be read.

    Raises:
        ValueError: the model is no IAUNet v1, or an argument cannot be used.
        OSError: model or images are not there, or a page cannot be written.
    """
    from ..analysis.activations import SUFFIX, require_v1
    from ..data.errors import BadFileError
    from ..inference.inputs import find_inputs
    from ..inference.segmenter import Segmenter

    if args.instances < 1:
        raise ValueError(f"--instances {args.instances}: at least 1 is needed")
    if args.output.is_file():
        raise NotADirectoryError(f"--output {args.output}: is a file; a folder is needed")
    found = find_inputs(args.inputs, args.output, args.recursive)
    files = [file for file in found if not file.path.name.endswith(SUFFIX)]
    if not files:
        raise FileNotFoundError(
            f"{', '.join(args.inputs)}: no image in it but pages that iaunet activations wrote"
        )
    failed = 0
    with log_to_console():
        segmenter = Segmenter(args.model, args.weights, args.device, args.score_thresh)
        require_v1(segmenter)
        for file in files:
            try:
                for page in _pages(args, segmenter, file):
                    print(page)
            except BadFileError as error:
                print(f"failed: {error}")
                failed += 1
    return SOME_FAILED if failed else 0


def _pages(args: argparse.Namespace, segmenter: "Segmenter", file: "Input") -> Iterator[Path]:
    """Write the pages of a file: one per plane."""
    from ..analysis.activations import SUFFIX, activation_page, explain_plane, write_page
    from ..inference.sources import check_axes

    channels = tuple(numbers(args.channels, int, "--channels"))
    planes = segmenter.planes(file.path, check_axes(args.axes), channels)
    for number, plane in enumerate(planes):
        stem = file.name if len(planes) == 1 else f"{file.name}.p{number:03d}"
        page = args.output / f"{stem}{SUFFIX}"
        picture, explanation = explain_plane(segmenter, plane)
        write_page(
            activation_page(
                plane.name, picture, explanation, args.instances, segmenter.class_names
            ),
            page,
        )
        yield page
