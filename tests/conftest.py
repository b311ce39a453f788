"""Shared fixtures. ``iaunet_d2`` is imported first, so that ``detectron2`` is importable in every
test.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread for each of several workers, and for the processes that tests start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

import iaunet_d2  # noqa: F401

LOGGERS = ("detectron2", "fvcore", "iaunet_d2", "iaunet_d2.standin")
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """``default_setup`` adds handlers and turns propagation off for the whole process."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(x.level, x.propagate, list(x.handlers)) for x in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


@pytest.fixture
def shared_data() -> Path:
    """Real images with masks, beside the checkout; the test is skipped where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real images are not at hand: {SHARED_DATA} does not exist")
    return SHARED_DATA
