"""``iaunet demo``."""

import argparse
import sys
from typing import TYPE_CHECKING

from .arguments import add_shared
from .console import log_to_console, terminated_as_interrupted
from .predict import numbers

if TYPE_CHECKING:
    from ..demo.state import Limits

HELP = "a page in the browser: drop an image, see its cells, download them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the address, and how images are taken."""
    parser.epilog = (
        'It needs pip install "iaunet-d2[demo]". Ctrl-C ends it; uploads are deleted once they '
        "are read, and everything else that was written at the end."
    )
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="folder that training wrote (OUTPUT_DIR)"
    )
    add_shared(parser, "--weights")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1: this machine alone can see the page)",
    )
    parser.add_argument("--port", type=int, default=7860, help="default 7860; 0: a free one")
    parser.add_argument(
        "--max-upload-mb", type=int, default=50, metavar="N", help="of a file (default 50)"
    )
    add_shared(parser, "--device", "--tile", "--channels", "--axes", "--pixel-size")


def run(args: argparse.Namespace) -> None:
    """Show the page until Ctrl-C.

    Raises:
        ValueError: an argument or the model cannot be used, or gradio is not installed.
        OSError: the model is not there, or the address cannot be used.
    """
    from ..demo.serve import is_loopback, require_extra, serve
    from ..demo.state import LOWEST_SCORE
    from ..inference.segmenter import Segmenter

    limits = _limits(args)
    require_extra()
    try:
        with log_to_console(), terminated_as_interrupted():
            segmenter = Segmenter(args.model, args.weights, args.device, LOWEST_SCORE)
            segmenter.tile_side((1, 1), limits.tile)
            if not is_loopback(args.host):
                print(
                    f"Warning: listening on {args.host}: whoever reaches this machine over the "
                    "network can use the page; it asks for no password.",
                    file=sys.stderr,
                )
            serve(segmenter, limits, args.host, args.port, _announce)
    except KeyboardInterrupt:
        print("Ended; what was uploaded is deleted.")


def _announce(address: str) -> None:
    print(f"Open {address} in a browser. Ctrl-C ends it.", flush=True)


def _limits(args: argparse.Namespace) -> "Limits":
    """The arguments that concern images, checked.

    Raises:
        ValueError: one cannot be used.
    """
    from ..demo.state import Limits
    from ..inference.sources import check_axes
    from ..inference.sources.pixel_size import given_size

    if args.max_upload_mb < 1:
        raise ValueError(f"--max-upload-mb {args.max_upload_mb}: at least 1 is needed")
    if not 0 <= args.port < 1 << 16:
        raise ValueError(f"--port {args.port}: a number in 0..65535 is needed")
    size = numbers(args.pixel_size, float, "--pixel-size")
    return Limits(
        upload_mb=args.max_upload_mb,
        tile=args.tile,
        axes=check_axes(args.axes),
        channels=tuple(numbers(args.channels, int, "--channels")),
        pixel_size=given_size((size * 2 if len(size) == 1 else size) or None),
    )
