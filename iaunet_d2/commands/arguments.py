"""Arguments that several commands take, in the same words."""

import argparse
from typing import Any

_SHARED: dict[str, dict[str, Any]] = {
    "--weights": {
        "metavar": "W",
        "help": "weights file (default: model_best.pth of the folder, else model_final.pth, else "
        "the last checkpoint)",
    },
    "--opts": {
        "nargs": "+",
        "default": [],
        "metavar": "KEY VALUE",
        "help": "config keys to change, such as INPUT.PERCENTILES (0,100)",
    },
    "--recursive": {"action": "store_true", "help": "look in sub-folders too"},
    "--channels": {
        "default": "",
        "metavar": "0,1,2",
        "help": "numbers of the channels to take, from 0 (default: INPUT.CHANNELS of the config)",
    },
    "--pixel-size": {
        "default": "",
        "metavar": "UM",
        "help": "µm per pixel, or vertically,horizontally, instead of what the files say",
    },
    "--tile": {
        "default": "auto",
        "metavar": "auto|N|off",
        "help": "auto: images larger than those of the training are cut into tiles of their size, "
        "or larger ones with a seeded IAUNet; N: tiles of N pixels, shown to the model at the "
        "scale of the training; off: never",
    },
    "--device": {
        "default": "auto",
        "metavar": "auto|cpu|cuda|mps",
        "help": "auto: a GPU of Nvidia's, else the CPU (default)",
    },
    "--batch-size": {
        "type": int,
        "metavar": "N",
        "help": "images of one size, or tiles, at a time (default: 4 on a GPU, 1 on the CPU)",
    },
    "--workers": {
        "type": int,
        "default": 2,
        "metavar": "N",
        "help": "threads that read and write while the model works (default 2)",
    },
}


def add_shared(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add arguments by their names, such as ``--device``."""
    for name in names:
        if name == "--axes":
            from ..inference.sources.axes import AXES_HELP

            told = f"a letter per dimension, instead of what the files say: {AXES_HELP}"
            parser.add_argument(name, default="", metavar="ZYX", help=told)
        else:
            parser.add_argument(name, **_SHARED[name])
