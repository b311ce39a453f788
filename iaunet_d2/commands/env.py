"""``iaunet env``."""

import argparse

HELP = "versions, devices, and which Detectron2 is in use"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(args: argparse.Namespace) -> None:
    """Print what runs here."""
    from ..env import main as show

    show()
