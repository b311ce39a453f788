"""The model and the data layer under Detectron2's own trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer
from test_two_processes import TINY
from toy_model import write_cells

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import IAUNetDatasetMapper, ensure_registered


class StockTrainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_detection_train_loader(cfg, mapper=IAUNetDatasetMapper(cfg, True))


@pytest.fixture
def tiny_cfg(tmp_path: Path) -> CfgNode:
    name = write_cells(tmp_path / "cells")
    ensure_registered([name])
    cfg = get_iaunet_cfg()
    data = ("DATASETS.TRAIN", (name,), "DATASETS.TEST", (), "OUTPUT_DIR", str(tmp_path / "out"))
    cfg.merge_from_list([*TINY, "SOLVER.MAX_ITER", 2, *data])
    (tmp_path / "out").mkdir()
    return cfg


def test_stock_trainer_trains_iaunet(tiny_cfg: CfgNode) -> None:
    trainer = StockTrainer(tiny_cfg)
    trainer.resume_or_load(resume=False)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.iter == 2
    moved = [n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) > len(before) / 2
    losses = [v for v, _ in trainer.storage.history("total_loss").values()]
    assert losses and all(0 < x < 1e4 for x in losses)
    assert (Path(tiny_cfg.OUTPUT_DIR) / "model_final.pth").is_file()
