"""Loaders for training, evaluation and validation loss."""

import logging
import os
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader

from ..meta_arch.lookup import queries_key, queries_of
from .checks import check_files, warn_if_crowded, warn_of_crowd_regions
from .classes import check_classes, check_same_training_classes
from .datasets import ensure_registered, is_registered_here
from .mapper import IAUNetDatasetMapper
from .mixing import mix_problem
from .mosaic import Joining, MosaicStream
from .stream import PositionSampler, ReportingLoader, SampleStream, TellingMapper
from .unlabeled import KEY as UNLABELED

logger = logging.getLogger(__name__)

# Data sets whose files were checked in this process: (name, mode, files) to the bad files.
_CHECKED: dict[tuple[str, str, int], frozenset[str]] = {}


def build_train_loader(cfg: CfgNode, start_position: int = 0, seed: int = 0) -> ReportingLoader:
    """The endless loader of training batches.

    Each batch is a list of ``SOLVER.IMS_PER_BATCH`` / processes entries; ``DATASETS.MIX`` says how
    often each data set has its turn. Position p (samples seen,
    by all processes together) always holds the same image with the same augmentation, whatever the
    number of workers or processes. So training that stopped after k iterations continues with
    ``start_position = k * SOLVER.IMS_PER_BATCH * SOLVER.ACCUMULATE_STEPS``, one iteration taking
    ``ACCUMULATE_STEPS`` batches.

    The files of ``DATASETS.TRAIN`` and ``DATASETS.TEST`` are checked as ``INPUT.CHECK_FILES`` says:
    a bad test image shall not come to light at the first evaluation, an hour later.

    Args:
        cfg: the config.
        start_position: samples seen so far.
        seed: of order and augmentation.

    Raises:
        BadFileError: a file cannot be used; from here or while iterating.
        ClassesError: a data set's classes do not fit the model or the other data sets.
        ValueError: the config does not fit the data or the number of processes.
    """
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN {cfg.DATALOADER.SAMPLER_TRAIN!r} is not supported: the "
            "order of samples must follow from seed and position. Set it to TrainingSampler."
        )
    world_size = comm.get_world_size()
    sampler = PositionSampler(start_position, cfg.SOLVER.IMS_PER_BATCH, comm.get_rank(), world_size)
    parts = _train_records(cfg)
    for name in cfg.DATASETS.TEST:
        dataset_records(cfg, name)
    stream = _train_stream(cfg, parts, seed)
    loader = DataLoader(
        stream,
        batch_size=sampler.share,
        sampler=sampler,
        num_workers=num_workers(cfg),
        collate_fn=_as_list,
        # Its own generator: making the loader's iterator must not draw from the training's random
        # numbers.
        generator=torch.Generator().manual_seed(seed),
    )
    return ReportingLoader(loader)


def _train_stream(cfg: CfgNode, parts: list[list[dict[str, Any]]], seed: int) -> SampleStream:
    """The samples of data sets by position, joined of several images where the config says so."""
    records = [record for part in parts for record in part]
    mapper = IAUNetDatasetMapper(cfg, is_train=True, seed=seed)
    options: dict[str, Any] = {
        "seed": seed,
        "on_bad_file": cfg.INPUT.ON_BAD_FILE,
        "sizes": [len(part) for part in parts],
        "mix": tuple(cfg.DATASETS.MIX),
    }
    joining = Joining.from_config(cfg)
    if joining.wanted:
        return MosaicStream(records, mapper, joining, **options)
    return SampleStream(records, mapper, **options)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> ReportingLoader:
    """Images of a data set, one per batch, resized as for inference, each process its share.

    With ``INPUT.ON_BAD_FILE: skip`` a bad image is left out and told; its instances count as missed
    in the evaluation.
    """
    return _test_loader(cfg, dataset_name, keep_instances=False)


def build_val_loss_loader(cfg: CfgNode, dataset_name: str) -> ReportingLoader:
    """As :func:`build_test_loader`, with ``instances`` in the frame of the resized image."""
    return _test_loader(cfg, dataset_name, keep_instances=True)


def dataset_records(cfg: CfgNode, name: str) -> list[dict[str, Any]]:
    """The data-set dicts of a name; its files are checked once per process.

    Raises:
        BadFileError: files cannot be used and ``INPUT.ON_BAD_FILE`` is "stop".
        ClassesError: its classes do not fit the model, or differ from those of ``DATASETS.TRAIN``.
    """
    options = cfg.INPUT
    ensure_registered([name], options.CROWD, options.ON_BAD_FILE)
    records = DatasetCatalog.get(name)
    check_classes(cfg, name, records)
    if options.CROWD == "instance" and not is_registered_here(name):
        warn_of_crowd_regions(records, name)
    key = (name, options.CHECK_FILES, hash(tuple(r["file_name"] for r in records)))
    if key not in _CHECKED:
        mapper = IAUNetDatasetMapper(cfg, is_train=False)
        good = check_files(
            records,
            options.CHECK_FILES,
            options.ON_BAD_FILE,
            reader=lambda file_name: mapper.read({"file_name": file_name}),
            progress=comm.is_main_process(),
        )
        kept = {r["file_name"] for r in good}
        _CHECKED[key] = frozenset(r["file_name"] for r in records) - kept
        if queries := queries_of(cfg):
            warn_if_crowded(good, queries, name, queries_key(cfg))
    return [r for r in records if r["file_name"] not in _CHECKED[key]]


def num_workers(cfg: CfgNode) -> int:
    """``DATALOADER.NUM_WORKERS``, but no more than this process may use processors."""
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    return min(cfg.DATALOADER.NUM_WORKERS, available)


def _train_records(cfg: CfgNode) -> list[list[dict[str, Any]]]:
    """The records of each data set of ``DATASETS.TRAIN``."""
    names = list(cfg.DATASETS.TRAIN)
    if not names:
        raise ValueError(
            "DATASETS.TRAIN is empty. Name a data set, such as coco:<json>:<image folder>."
        )
    if problem := mix_problem(cfg.DATASETS.MIX, names):
        raise ValueError(problem)
    parts = [dataset_records(cfg, name) for name in names]
    check_same_training_classes(names)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        parts = _without_empty(parts)
    if len(cfg.DATASETS.MIX) and not all(parts):
        name = names[[len(part) for part in parts].index(0)]
        raise ValueError(
            f"data set {name!r} has no image to train on, and DATASETS.MIX "
            f"{tuple(cfg.DATASETS.MIX)} gives it a share. Take it out of both."
        )
    return parts


def _without_empty(parts: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Leave images out that are known to hold nothing: unlabelled ones are not."""
    filled = [[r for r in part if r.get("annotations") or r.get(UNLABELED)] for part in parts]
    before, after = (sum(map(len, several)) for several in (parts, filled))
    logger.info(
        "%d of %d images have no annotation and are left out (DATALOADER.FILTER_EMPTY_ANNOTATIONS)",
        before - after,
        before,
    )
    return filled


def _test_loader(cfg: CfgNode, dataset_name: str, keep_instances: bool) -> ReportingLoader:
    mapper = IAUNetDatasetMapper(cfg, is_train=False, keep_instances=keep_instances)
    loader = build_detection_test_loader(
        dataset_records(cfg, dataset_name),
        mapper=TellingMapper(mapper, cfg.INPUT.ON_BAD_FILE),
        num_workers=num_workers(cfg),
    )
    return ReportingLoader(loader)


def _as_list(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return batch
