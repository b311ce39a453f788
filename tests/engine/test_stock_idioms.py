"""Detectron2's own idioms, unmodified: trainer, mapper, loaders, evaluator, predictor, drawing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage
from detectron2.utils.visualizer import Visualizer
from toy_model import SIDE, write_cells

import iaunet_d2

NAME = "stock_idioms_cells"

IAUNET = [
    *(
        "MODEL.TIMM.PRETRAINED",
        "False",
        "MODEL.TIMM.NAME",
        "resnet10t",
        "MODEL.IAUNET.HIDDEN_DIM",
        16,
        "MODEL.IAUNET.FFN_DIM",
        16,
    ),
    *("MODEL.IAUNET.NUM_QUERIES", 5, "MODEL.IAUNET.NUM_HEADS", 2),
]
# One config of each kind of model, with what makes it tiny and lets it find anything untrained.
MODELS: dict[str, list[Any]] = {
    "quickstart.yaml": IAUNET,
    "baselines/mask_rcnn_small.yaml": [
        *(
            "MODEL.TIMM.PRETRAINED",
            "False",
            "MODEL.TIMM.NAME",
            "resnet10t",
            "MODEL.MASK_RCNN.FPN_DIM",
            16,
        ),
        *("MODEL.MASK_RCNN.BOX_DIM", 16, "MODEL.MASK_RCNN.MASK_DIM", 16),
        *("MODEL.MASK_RCNN.PROPOSALS_TRAIN", 20, "MODEL.MASK_RCNN.PROPOSALS_TEST", 10),
    ],
    "baselines/mask2former_small.yaml": [
        *(
            "MODEL.TIMM.PRETRAINED",
            "False",
            "MODEL.TIMM.NAME",
            "resnet10t",
            "MODEL.MASK2FORMER.HIDDEN_DIM",
            32,
        ),
        *("MODEL.MASK2FORMER.NUM_QUERIES", 5, "MODEL.MASK2FORMER.ENCODER_FFN_DIM", 16),
        *("MODEL.MASK2FORMER.FFN_DIM", 16, "MODEL.MASK2FORMER.ENCODER_LAYERS", 1),
    ],
    "systems/iaunet_v1_small.yaml": [
        *(
            "MODEL.TIMM.PRETRAINED",
            "False",
            "MODEL.TIMM.NAME",
            "resnet10t",
            "MODEL.IAUNETV1.HIDDEN_DIM",
            16,
        ),
        *("MODEL.IAUNETV1.NUM_QUERIES", 5, "MODEL.IAUNETV1.FFN_DIM", 16),
    ],
    "systems/iau_net_small.yaml": ["MODEL.IAU_NET.WIDTHS", [4, 8, 16, 32]],
    "systems/maunet_small.yaml": [
        *(
            "MODEL.TIMM.PRETRAINED",
            "False",
            "MODEL.TIMM.NAME",
            "resnet10t",
            "MODEL.MAUNET.INFERENCE.INTERIOR_THRESH",
            0.0,
        ),
        *("MODEL.MAUNET.INFERENCE.SEED_IS", "absolute", "MODEL.MAUNET.INFERENCE.SEED", -100.0),
    ],
    "systems/vsm_small.yaml": [
        *("MODEL.VSM.SCORE_THRESH", 0.0, "MODEL.VSM.DETECTOR_SCORE_THRESH", 0.0)
    ],
}


class StockTrainer(DefaultTrainer):
    """As in Detectron2's tutorials: nothing but the evaluator is chosen."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        return COCOEvaluator(dataset_name, output_dir=f"{cfg.OUTPUT_DIR}/inference")


@dataclass(frozen=True)
class Trained:
    cfg: CfgNode
    trainer: DefaultTrainer
    norms: list[float]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Six images with polygons, the second without any cell, registered as Detectron2 does."""
    folder = tmp_path_factory.mktemp("stock") / "cells"
    write_cells(folder)
    register_coco_instances(NAME, {}, str(folder / "cells.json"), str(folder / "images"))
    yield folder
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def stock_cfg(config: str, output: Path, *opts: Any) -> CfgNode:
    cfg = iaunet_d2.get_cfg(config)
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "DATASETS.TRAIN", (NAME,), "DATASETS.TEST", (NAME,)),
            *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 64),
            *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64),
            *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 3, "SOLVER.MAX_ITER", 2),
            *("TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", str(output), *MODELS[config], *opts),
        ]
    )
    output.mkdir(exist_ok=True)
    return cfg


def train(cfg: CfgNode, kind: type[DefaultTrainer] = StockTrainer) -> DefaultTrainer:
    trainer = kind(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


@pytest.mark.parametrize("config", MODELS)
def test_a_plain_default_trainer_trains_and_evaluates(
    cells: Path, tmp_path: Path, config: str
) -> None:
    if "mask2former" in config:
        pytest.importorskip("transformers")
    cfg = stock_cfg(config, tmp_path / "out")
    trainer = train(cfg)
    assert trainer.iter == 2
    assert (tmp_path / "out" / "model_final.pth").is_file()
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert losses and all(0 < x < 1e4 for x in losses)
    assert (tmp_path / "out" / "inference" / "coco_instances_results.json").is_file()
    results = StockTrainer.test(cfg, trainer.model)
    assert {"AP", "AP50"} <= set(results["segm"])


@pytest.mark.parametrize("config", ["quickstart.yaml", "systems/maunet_small.yaml"])
def test_polygons_of_detectron2_s_mapper(cells: Path, tmp_path: Path, config: str) -> None:
    """The same instances in either form give the same losses."""
    losses = {}
    for form in ("polygon", "bitmask"):
        cfg = stock_cfg(config, tmp_path / "out", "INPUT.MASK_FORMAT", form)
        # All images, as they are.
        cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.RANDOM_FLIP = 6, "none"
        torch.manual_seed(0)
        model = build_model(cfg)
        batch = next(iter(build_detection_train_loader(cfg, num_workers=0)))
        batch.sort(key=lambda entry: entry["image_id"])
        assert [entry["image_id"] for entry in batch] == [1, 2, 3, 4, 5, 6]
        assert [len(entry["instances"]) for entry in batch] == [1, 0, 1, 2, 1, 2]
        torch.manual_seed(1)
        losses[form] = {name: loss.item() for name, loss in model(batch).items()}
    assert losses["polygon"] == pytest.approx(losses["bitmask"], rel=1e-6)


def test_a_plain_loop(cells: Path, tmp_path: Path) -> None:
    cfg = stock_cfg("quickstart.yaml", tmp_path / "out")
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    checkpointer = DetectionCheckpointer(
        model, cfg.OUTPUT_DIR, optimizer=optimizer, scheduler=scheduler
    )
    model.train()
    loader = build_detection_train_loader(cfg)
    with EventStorage(0) as storage:
        for batch, iteration in zip(loader, range(cfg.SOLVER.MAX_ITER), strict=False):
            storage.iter = iteration
            losses = model(batch)
            total = sum(losses.values())
            assert torch.isfinite(total)
            storage.put_scalars(total_loss=total.item())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            scheduler.step()
    checkpointer.save("model_final", iteration=iteration)
    again = build_model(cfg)
    DetectionCheckpointer(again).load(f"{cfg.OUTPUT_DIR}/model_final.pth")
    evaluator = COCOEvaluator(NAME, output_dir=None)
    results = inference_on_dataset(again, build_detection_test_loader(cfg, NAME), evaluator)
    assert "AP" in results["segm"]


@pytest.fixture(scope="module")
def trained(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Detectron2's trainer with this package's groups and clipping: one line more."""

    class Grouped(StockTrainer):
        build_optimizer = staticmethod(iaunet_d2.build_optimizer)

    limit = ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.01, "MODEL.IAUNET.SCORE_THRESH", 0.0)
    cfg = stock_cfg("quickstart.yaml", tmp_path_factory.mktemp("grouped"), *limit)
    trainer = Grouped(cfg)
    trainer.resume_or_load(resume=False)
    norms: list[float] = []

    def note_norm(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        every = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        norms.append(float(torch.stack([torch.linalg.vector_norm(g) for g in every]).norm()))

    # After the clipping, as it is registered later.
    trainer.scheduler.optimizer.register_step_pre_hook(note_norm)
    trainer.train()
    return Trained(cfg, trainer, norms)


def test_groups_and_clipping_in_anyone_s_trainer(trained: Trained) -> None:
    optimizer = trained.trainer.scheduler.optimizer
    assert type(optimizer) is torch.optim.AdamW
    # Weights decay, normalisation and embeddings do not (BACKBONE_MULTIPLIER is 1 here).
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}
    assert trained.norms == pytest.approx([0.01, 0.01], rel=1e-3)


def test_predictor_and_visualizer(cells: Path, trained: Trained) -> None:
    cfg = trained.cfg.clone()
    cfg.MODEL.WEIGHTS = f"{cfg.OUTPUT_DIR}/model_final.pth"
    predictor = DefaultPredictor(cfg)
    image = cv2.imread(str(cells / "images" / "cell0.png"))
    found = predictor(image)["instances"]
    assert found.image_size == (SIDE, SIDE) and len(found) > 0
    drawn = Visualizer(image[:, :, ::-1], predictor.metadata, scale=2.0)
    picture = drawn.draw_instance_predictions(found.to("cpu")).get_image()
    assert picture.shape == (2 * SIDE, 2 * SIDE, 3) and picture.dtype == np.uint8
    plain = cv2.resize(image[:, :, ::-1], (2 * SIDE, 2 * SIDE))
    assert np.abs(picture.astype(int) - plain).max() > 20
