"""Which Detectron2 is in use, versions and devices: ``python -m iaunet_d2.env``."""

import importlib
import platform
import sys
from importlib import metadata

import torch
from tabulate import tabulate

from ._seam import FORCE_VARIABLE, standin_forced, uses_standin
from ._version import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "fvcore",
    "iopath",
    "pycocotools",
    "faster-coco-eval",
    "numpy",
    "scipy",
    "scikit-image",
    "opencv-python-headless",
    "tifffile",
    "roifile",
    "pillow",
    "matplotlib",
    "tensorboard",
)


def describe_environment() -> str:
    """A table of what a report of a fault needs."""
    detectron2 = importlib.import_module("detectron2")
    if uses_standin():
        seam = f"stand-in bundled with iaunet_d2 ({detectron2.__version__})"
        reason = f"{FORCE_VARIABLE} is set" if standin_forced() else "Detectron2 is not installed"
        seam += f"; {reason}"
    else:
        seam = f"{detectron2.__version__} at {detectron2.__path__[0]}"
    rows = [
        ("iaunet_d2", __version__),
        ("Detectron2", seam),
        ("Python", f"{sys.version.split()[0]} on {platform.platform()}"),
        *((name, _version(name)) for name in PACKAGES),
        ("CPU threads", str(torch.get_num_threads())),
        *_devices(),
    ]
    return tabulate(rows, tablefmt="plain")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[tuple[str, str]]:
    rows = [
        (
            f"cuda:{i}",
            torch.cuda.get_device_name(i) + f", {torch.cuda.mem_get_info(i)[1] / 2**30:.0f} GiB",
        )
        for i in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        rows.append(("mps", "Apple GPU"))
    return rows or [("GPU", "none: everything runs on the CPU")]


def main() -> None:
    """Print the table."""
    print(describe_environment())


if __name__ == "__main__":
    main()
