"""What is measured: points, each a model under certain conditions."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from detectron2.config import CfgNode

from ...meta_arch.lookup import queries_key, queries_of

MODES = ("inference", "training", "backbone")
NUMERIC = ("batch", "size", "queries", "instances")
CATEGORIES = ("device", "precision", "compiled")


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        model: name of its config.
        mode: of :data:`MODES`.
        device: ``cpu``, ``cuda`` or ``cuda:<number>``.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        compiled: whether ``torch.compile`` was applied.
        batch: images.
        size: their side in pixels.
        queries: of the model; 0 for one without, and for a backbone.
        instances: of the ground truth of each image; 0 where there is none to compare with.
    """

    model: str
    mode: str
    device: str
    precision: str
    compiled: bool
    batch: int
    size: int
    queries: int
    instances: int

    def without(self, axis: str) -> tuple[Any, ...]:
        """Everything but one field: equal for points that differ in it alone."""
        return tuple(getattr(self, f.name) for f in fields(self) if f.name != axis)


@dataclass(frozen=True)
class Axes:
    """Values to measure at; the first of each are those of the base point.

    Attributes:
        modes, devices, precisions, compiled, batches, sizes, instances: as of :class:`Point`.
        queries: as well; 0 is the number of each config.
    """

    modes: tuple[str, ...] = ("inference", "training")
    devices: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = ("fp32",)
    compiled: tuple[bool, ...] = (False,)
    batches: tuple[int, ...] = (1,)
    sizes: tuple[int, ...] = (512,)
    queries: tuple[int, ...] = (0,)
    instances: tuple[int, ...] = (20,)

    def conditions(self) -> dict[str, tuple[Any, ...]]:
        """Field of :class:`Point` -> values, for all but model and mode."""
        return {
            "device": self.devices,
            "precision": self.precisions,
            "compiled": self.compiled,
            "batch": self.batches,
            "size": self.sizes,
            "queries": self.queries,
            "instances": self.instances,
        }


def plan(
    models: Mapping[str, CfgNode], axes: Axes, grid: bool = False
) -> tuple[list[Point], list[str]]:
    """The points to measure, each once.

    Args:
        models: name -> config.
        axes: the values.
        grid: all combinations; otherwise the base point, and each value of each axis with the
            others at the base.

    Returns:
        The points, and what was left out and why.

    Raises:
        ValueError: a size is no multiple of 32, or a number is too small.
    """
    _check(axes)
    points: dict[Point, None] = {}
    left_out: dict[str, None] = {}
    for values in _grid(axes) if grid else _one_at_a_time(axes):
        for mode, (name, cfg) in itertools.product(axes.modes, models.items()):
            point = _meaningful(Point(name, mode, **values), queries_of(cfg))
            if point.precision == "fp16" and torch.device(point.device).type != "cuda":
                left_out["fp16 is measured on GPUs only"] = None
            else:
                points[point] = None
    return list(points), list(left_out)


def _one_at_a_time(axes: Axes) -> Iterator[dict[str, Any]]:
    conditions = axes.conditions()
    base = {name: values[0] for name, values in conditions.items()}
    yield base
    for name, values in conditions.items():
        for value in values[1:]:
            yield {**base, name: value}


def _grid(axes: Axes) -> Iterator[dict[str, Any]]:
    conditions = axes.conditions()
    for values in itertools.product(*conditions.values()):
        yield dict(zip(conditions, values, strict=True))


def _meaningful(point: Point, queries: int) -> Point:
    """The point with what has no influence on it set to 0."""
    if point.mode == "backbone" or not queries:
        point = replace(point, queries=0)
    elif not point.queries:
        point = replace(point, queries=queries)
    return point if point.mode == "training" else replace(point, instances=0)


def _check(axes: Axes) -> None:
    for size in axes.sizes:
        if size < 32 or size % 32:
            raise ValueError(f"--size {size}: the side of the images must be a multiple of 32")
    for name, values, least in (
        ("batch", axes.batches, 1),
        ("queries", axes.queries, 0),
        ("instances", axes.instances, 0),
    ):
        if low := [value for value in values if value < least]:
            raise ValueError(f"--{name} {low[0]}: at least {least} is needed")


def with_queries(cfg: CfgNode, queries: int) -> CfgNode:
    """A copy of a config with another number of queries; 0 leaves it."""
    cfg = cfg.clone()
    cfg.defrost()
    if queries and (key := queries_key(cfg)):
        cfg.merge_from_list([key, queries])
    return cfg
