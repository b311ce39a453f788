"""What a bug report needs: versions and devices."""

import importlib
import importlib.metadata
import os
import sys

import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]

_LIBRARIES = (
    ("numpy", "numpy"),
    ("torchvision", "torchvision"),
    ("Pillow", "pillow"),
    ("fvcore", "fvcore"),
    ("iopath", "iopath"),
    ("cv2", "opencv-python-headless"),
    ("timm", "timm"),
    ("pycocotools", "pycocotools"),
)


def collect_env_info() -> str:
    """A table of platform, versions and GPUs, followed by PyTorch's build settings."""
    standin = importlib.import_module(__name__.removesuffix(".utils.collect_env"))
    folder = os.path.dirname(standin.__file__ or "")
    rows = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("detectron2", f"{standin.__version__} @{folder}"),
        ("DETECTRON2_ENV_MODULE", os.environ.get("DETECTRON2_ENV_MODULE", "<not set>")),
        ("PyTorch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("PyTorch debug build", str(torch.version.debug)),
        ("GPU available", "Yes" if torch.cuda.is_available() else "No"),
    ]
    for index in range(torch.cuda.device_count()):
        capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
        rows.append((f"GPU {index}", f"{torch.cuda.get_device_name(index)} (arch={capability})"))
    rows += [(label, _version(package)) for label, package in _LIBRARIES]
    return tabulate(rows) + "\n" + torch.__config__.show()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not found"
