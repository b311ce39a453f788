"""Shared fixtures. ``iaunet_d2`` is imported first, so that ``detectron2`` is importable in every
test.
"""

import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

import iaunet_d2  # noqa: F401

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    """Real images with masks, beside the checkout; the test is skipped where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real images are not at hand: {SHARED_DATA} does not exist")
    return SHARED_DATA
