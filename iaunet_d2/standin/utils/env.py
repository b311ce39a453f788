"""Random seeds, and the set-up of a site's own environment."""

import importlib
import importlib.util
import logging
import os
import random
from datetime import datetime
from types import ModuleType

import numpy as np
import torch

__all__ = ["TORCH_VERSION", "seed_all_rng", "setup_custom_environment", "setup_environment"]

logger = logging.getLogger("detectron2.utils.env")

# (major, minor)
TORCH_VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])

_done = False


def seed_all_rng(seed: int | None = None) -> None:
    """Seed Python's, NumPy's and PyTorch's random numbers (all devices).

    Args:
        seed: below 2**32; None takes one from the clock, the process and the system, and logs it.
    """
    if seed is None:
        now = int(datetime.now().strftime("%S%f"))
        seed = os.getpid() + now + int.from_bytes(os.urandom(2), "big")
        logger.info("Using a generated random seed %d", seed)
    random.seed(seed)
    np.random.seed(seed)  # callers draw from NumPy's global state
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)


def setup_environment() -> None:
    """Configure OpenCV, then run the site's ``$DETECTRON2_ENV_MODULE``; only once per process."""
    global _done
    if _done:
        return
    _done = True
    # OpenCL contexts in forked loader processes hang or slow down.
    os.environ["OPENCV_OPENCL_RUNTIME"] = "disabled"
    if importlib.util.find_spec("cv2") is not None:
        importlib.import_module("cv2").ocl.setUseOpenCL(False)
    site_module = os.environ.get("DETECTRON2_ENV_MODULE")
    if site_module:
        setup_custom_environment(site_module)


def setup_custom_environment(custom_module: str) -> None:
    """Import a module, by name or by ``.py`` file, and call its ``setup_environment()``.

    Raises:
        ImportError: the file cannot be read as a module.
        AttributeError: the module has no such function.
    """
    from_file = custom_module.endswith(".py")
    module = _load_file(custom_module) if from_file else importlib.import_module(custom_module)
    if not callable(getattr(module, "setup_environment", None)):
        raise AttributeError(f"{custom_module} has no function setup_environment()")
    module.setup_environment()


def _load_file(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("detectron2.utils.env.custom_module", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be read as a Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
