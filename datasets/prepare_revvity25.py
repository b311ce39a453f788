"""Prepare Revvity-25: the same as ``iaunet prepare revvity25``."""

import sys
from pathlib import Path

# Works from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from iaunet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "revvity25", *sys.argv[1:]]))
