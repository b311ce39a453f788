"""A toy model and a toy data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from toy_model import toy_opts, write_cells

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import ensure_registered


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a registered data set of six images of 32 x 32."""
    name = write_cells(tmp_path_factory.mktemp("cells"))
    ensure_registered([name])
    return name


@pytest.fixture
def toy_cfg(cells: str, tmp_path: Path) -> Callable[..., CfgNode]:
    """``toy_cfg("KEY", value, ...)`` gives a config of the toy model and the toy data."""

    def make(*opts: Any, output: str = "out") -> CfgNode:
        cfg = get_iaunet_cfg()
        cfg.merge_from_list([*toy_opts(cells, tmp_path / output), *opts])
        (tmp_path / output).mkdir(exist_ok=True)
        torch.manual_seed(0)
        return cfg

    return make
