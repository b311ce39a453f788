"""The work of a point: its model, its images, and a function to time."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Instances
from torch import nn

from ..memory import PeakMemory
from ..models import (
    Batch,
    MatcherClock,
    TrainingStep,
    autocast,
    backbone_of,
    built_model,
    inference,
    inference_model,
    with_precision,
)
from ..timing import seconds
from .points import Point, with_queries

MATCHER_STEPS = 3


class Workshop:
    """Builds what points need, and keeps it: points that differ in their images share a model.

    Args:
        configs: model name -> config.
    """

    def __init__(self, configs: dict[str, CfgNode]) -> None:
        self.configs = configs
        self._models: dict[tuple[Any, ...], nn.Module] = {}
        self._steps: dict[tuple[Any, ...], TrainingStep] = {}

    def work(self, point: Point) -> Callable[[], object]:
        """What is timed.

        Raises:
            ConfigError: the model or the device does not exist.
        """
        cfg, model = self._model(point)
        if point.mode == "backbone":
            return backbone_work(cfg, plain_backbone(model, point), point)
        batch = random_batch(cfg, point)
        if point.mode == "inference":
            return inference(model, batch, point.precision)
        key = (*self._key(point), point.precision)
        if key not in self._steps:
            self._steps[key] = TrainingStep(with_precision(cfg, point.precision), model, batch)
        step = self._steps[key]

        def train() -> None:
            step.feed(batch)
            step()

        return train

    def matcher_share(self, point: Point, work: Callable[[], object]) -> float | None:
        """Share of a training step, 0 to 1, that matching takes; None where that is not known."""
        clock = MatcherClock(self._model(point)[1])
        if point.mode != "training" or point.compiled or not clock.found:
            return None
        shares = []
        for _ in range(MATCHER_STEPS):
            with clock.watching():
                whole = seconds(work, point.device)
            shares.append(clock.seconds / whole)
        return float(np.median(shares))

    def _key(self, point: Point) -> tuple[Any, ...]:
        return point.model, point.device, point.queries, point.compiled, point.mode

    def _model(self, point: Point) -> tuple[CfgNode, nn.Module]:
        cfg = point_config(self.configs[point.model], point)
        key = self._key(point)
        if key not in self._models:
            self._models[key] = point_model(cfg, point)
        return cfg, self._models[key]


def point_config(cfg: CfgNode, point: Point) -> CfgNode:
    """The config of a point's model."""
    cfg = with_queries(cfg, point.queries)
    cfg.MODEL.DEVICE = point.device
    cfg.INPUT.IMAGE_SIZE = point.size
    return cfg


def point_model(cfg: CfgNode, point: Point) -> nn.Module:
    """The model of a point; for inference with batch norms folded, as in a ``Predictor``.

    Compiled is what turns tensors into tensors, if the model says what.
    """
    model = (inference_model if point.mode == "inference" else built_model)(cfg)
    if point.compiled:
        network = getattr(model, "network", model)
        network.compile()
    return model


def plain_backbone(model: nn.Module, point: Point) -> nn.Module:
    """A copy of a model's backbone, laid out as timm and torchvision give it.

    What makes models quicker (layout, folding) is left out: a yardstick that does not shrink.
    """
    backbone: nn.Module = copy.deepcopy(backbone_of(model))
    backbone.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if point.compiled:
        backbone.compile()
    return backbone


def backbone_work(cfg: CfgNode, backbone: nn.Module, point: Point) -> Callable[[], object]:
    """The backbone alone, on normalised images."""
    shape = (point.batch, len(cfg.MODEL.PIXEL_MEAN), point.size, point.size)
    images = torch.rand(shape, device=point.device)

    def run() -> Any:
        with torch.no_grad(), autocast(images.device, point.precision):
            return backbone(images)

    return run


def random_batch(cfg: CfgNode, point: Point) -> Batch:
    """Images of noise, with discs as instances where the point is one of training."""
    generator = np.random.default_rng(0)
    channels, size = len(cfg.MODEL.PIXEL_MEAN), point.size
    batch: Batch = []
    for number in range(point.batch):
        pixels = generator.integers(0, 256, (channels, size, size), dtype=np.uint8)
        entry: dict[str, Any] = {
            "image": torch.from_numpy(pixels),
            "height": size,
            "width": size,
            "image_id": number,
            "file_name": f"noise {number}",
        }
        if point.mode == "training":
            entry["instances"] = discs(generator, size, point.instances)
        batch.append(entry)
    return batch


def discs(generator: np.random.Generator, size: int, count: int) -> Instances:
    """Ground truth of ``count`` discs anywhere in a square image; they may overlap."""
    centres = generator.uniform(0.05 * size, 0.95 * size, (count, 2))
    radii = generator.uniform(0.02 * size, 0.08 * size, count) + 1
    grid = np.arange(size)
    masks = np.zeros((count, size, size), dtype=bool)
    for mask, (y, x), radius in zip(masks, centres, radii, strict=True):
        mask |= (grid[:, None] - y) ** 2 + (grid - x) ** 2 <= radius**2
    instances = Instances((size, size))
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.zeros(count, dtype=torch.int64)
    return instances


def point_memory(cfg: CfgNode, point: Point) -> int | None:
    """Peak bytes of a point; to be called in a fresh process.

    Of training, two steps: only in the second there is the optimiser's state from the beginning.
    """
    cfg = point_config(cfg, point)
    model = point_model(cfg, point)
    if point.mode == "backbone":
        backbone = plain_backbone(model, point)
        del model
        return PeakMemory(backbone).of(backbone_work(cfg, backbone, point))
    memory = PeakMemory(model)
    batch = random_batch(cfg, point)
    if point.mode == "inference":
        return memory.of(inference(model, batch, point.precision))
    step = TrainingStep(with_precision(cfg, point.precision), model, batch)

    def two_steps() -> None:
        step()
        step()

    return memory.of(two_steps)
