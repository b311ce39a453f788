"""From names of data sets to loaders of batches."""

import itertools
import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Sampler

from ..config import configurable
from ..utils.comm import get_world_size
from ..utils.env import seed_all_rng
from ..utils.logger import log_first_n
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, TrainingSampler

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "filter_images_with_only_crowd_annotations",
    "get_detection_dataset_dicts",
    "print_instances_class_histogram",
    "trivial_batch_collator",
    "worker_init_reset_seed",
]

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def filter_images_with_only_crowd_annotations(dataset_dicts: list[Record]) -> list[Record]:
    """The records that have at least one annotation that is not a crowd."""
    usable = [
        record
        for record in dataset_dicts
        if not all(annotation.get("iscrowd", 0) for annotation in record["annotations"])
    ]
    removed = len(dataset_dicts) - len(usable)
    logger.info("left out %d images without annotations, %d remain", removed, len(usable))
    return usable


def print_instances_class_histogram(
    dataset_dicts: list[Record], class_names: Sequence[str]
) -> None:
    """Log how many instances, crowds not counted, each class has.

    Raises:
        ValueError: a class id that has no name.
    """
    counts = np.zeros(len(class_names), dtype=int)
    for record in dataset_dicts:
        for annotation in record["annotations"]:
            class_id = annotation["category_id"]
            if annotation.get("iscrowd", 0):
                continue
            if not 0 <= class_id < len(counts):
                raise ValueError(
                    f"{record.get('file_name', 'an image')} has category_id {class_id}, "
                    f"but there are {len(counts)} classes: {', '.join(class_names)}"
                )
            counts[class_id] += 1
    rows = list(zip(class_names, counts.tolist(), strict=True))
    if len(rows) > 1:
        rows.append(("total", int(counts.sum())))
    table = tabulate(rows, headers=("class", "instances"), tablefmt="pipe")
    log_first_n(logging.INFO, f"instances per class:\n{table}", key="message")


def get_detection_dataset_dicts(
    names: str | Sequence[str], filter_empty: bool = True, *, check_consistency: bool = True
) -> Any:
    """Load data sets, one after the other in one list.

    Args:
        names: registered names.
        filter_empty: leave out images without annotations other than crowds.
        check_consistency: compare the class names of the data sets, and log the instances per
            class.

    Returns:
        list of records; or a torch Dataset where that is what is registered.

    Raises:
        KeyError: a name is not registered.
        ValueError: no names; a data set is empty; nothing is left; the classes differ.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("no data set is named: set DATASETS.TRAIN or DATASETS.TEST")
    loaded = [DatasetCatalog.get(name) for name in names]
    if isinstance(loaded[0], Dataset):
        return loaded[0] if len(loaded) == 1 else ConcatDataset(loaded)
    for name, records in zip(names, loaded, strict=True):
        if not records:
            raise ValueError(f"data set {name!r} is empty")
    dataset_dicts = list(itertools.chain.from_iterable(loaded))
    if "annotations" in dataset_dicts[0]:
        if filter_empty:
            dataset_dicts = filter_images_with_only_crowd_annotations(dataset_dicts)
        if check_consistency and MetadataCatalog.get(names[0]).get("thing_classes") is not None:
            check_metadata_consistency("thing_classes", names)
            classes = MetadataCatalog.get(names[0]).thing_classes
            print_instances_class_histogram(dataset_dicts, classes)
    if not dataset_dicts:
        raise ValueError(f"no image of {', '.join(names)} has annotations")
    return dataset_dicts


def _batch_size(total: int | None, single: int | None) -> int:
    """Samples per batch of this process."""
    if single:
        if total:
            raise ValueError("give either total_batch_size or single_gpu_batch_size")
        return single
    processes = get_world_size()
    if not total or total < 0 or total % processes:
        raise ValueError(
            f"the batch size ({total}) must be a positive multiple of the processes ({processes})"
        )
    return total // processes


def build_batch_data_loader(
    dataset: Any,
    sampler: Sampler | None,
    total_batch_size: int | None,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> Any:
    """A loader of batches, each a list of what the data set gives.

    Args:
        dataset: map-style with a ``sampler``, or a stream without.
        sampler: indices.
        total_batch_size: samples per batch, over all processes.
        aspect_ratio_grouping: see :class:`~detectron2.data.common.AspectRatioGroupedDataset`.
        num_workers: worker processes; the order of batches does not depend on it.
        collate_fn: what to make of the list; None leaves it.
        drop_last: leave out an incomplete last batch.
        single_gpu_batch_size: samples per batch of this process, instead of ``total_batch_size``.
        seed: of the workers' random generators.
        kwargs: further arguments of :class:`torch.utils.data.DataLoader`.

    Raises:
        ValueError: batch sizes or sampler do not go together with the rest.
    """
    batch_size = _batch_size(total_batch_size, single_gpu_batch_size)
    logger.info("%d samples per batch of this process", batch_size)
    if not isinstance(dataset, IterableDataset):
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)  # type: ignore
    elif sampler is not None:
        raise ValueError("a stream has its own order: give no sampler with it")
    options = {
        "num_workers": num_workers,
        "worker_init_fn": worker_init_reset_seed,
        "generator": None if seed is None else torch.Generator().manual_seed(seed),
        **kwargs,
    }
    if not aspect_ratio_grouping:
        options["collate_fn"] = collate_fn or trivial_batch_collator
        return DataLoader(dataset, batch_size=batch_size, drop_last=drop_last, **options)
    if not drop_last:
        raise ValueError("aspect_ratio_grouping leaves out incomplete batches: set drop_last")
    # One sample at a time comes out of the workers; the batches are made here.
    single = DataLoader(dataset, collate_fn=operator.itemgetter(0), **options)
    grouped = AspectRatioGroupedDataset(single, batch_size)
    return grouped if collate_fn is None else MapDataset(grouped, collate_fn)


def _train_loader_from_config(
    cfg: Any, mapper: Any = None, *, dataset: Any = None, sampler: Sampler | None = None
) -> dict[str, Any]:
    if dataset is None:
        keep_all = not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        dataset = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=not keep_all)
    if sampler is None and not isinstance(dataset, IterableDataset):
        if (name := cfg.DATALOADER.SAMPLER_TRAIN) != "TrainingSampler":
            raise ValueError(
                f"DATALOADER.SAMPLER_TRAIN: the stand-in has TrainingSampler, not {name}"
            )
        sampler = TrainingSampler(len(dataset), seed=cfg.SEED)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "sampler": sampler,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
    }


def _mapped(dataset: Any, mapper: Callable[[Record], Any] | None) -> Any:
    """Records, packed where they are a list, seen through the mapper."""
    source = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    return source if mapper is None else MapDataset(source, mapper)


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: Any,
    *,
    mapper: Callable[[Record], Any] | None,
    sampler: Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    **kwargs: Any,
) -> Any:
    """An endless loader of training batches; called with a config, or with these arguments.

    Args:
        dataset: records, or a torch Dataset.
        mapper: makes a model's input of a record.
        sampler: of a map-style data set; by default a :class:`TrainingSampler`.
        total_batch_size: samples per batch, over all processes.
        aspect_ratio_grouping, kwargs: see :func:`build_batch_data_loader`.
    """
    mapped = _mapped(dataset, mapper)
    if sampler is None and not isinstance(mapped, IterableDataset):
        sampler = TrainingSampler(len(mapped))
    return build_batch_data_loader(
        mapped,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        **kwargs,
    )


def _test_loader_from_config(
    cfg: Any, dataset_name: str | Sequence[str], mapper: Any = None
) -> dict[str, Any]:
    return {
        "dataset": get_detection_dataset_dicts(dataset_name, filter_empty=False),
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: Any,
    *,
    mapper: Callable[[Record], Any] | None,
    sampler: Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader:
    """A loader that gives every sample once; called with a config and a data-set name, or with
    these arguments.

    Args:
        dataset: records, or a torch Dataset.
        mapper: makes a model's input of a record.
        sampler: of a map-style data set; by default an :class:`InferenceSampler`.
        batch_size: samples per batch of this process.
        num_workers: worker processes.
        collate_fn: what to make of a list of samples; None leaves it.

    Raises:
        ValueError: a sampler is given with a stream.
    """
    mapped = _mapped(dataset, mapper)
    if not isinstance(mapped, IterableDataset):
        sampler = InferenceSampler(len(mapped)) if sampler is None else sampler
    elif sampler is not None:
        raise ValueError("a stream has its own order: give no sampler with it")
    return DataLoader(
        mapped,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )


def trivial_batch_collator(batch: list[Any]) -> list[Any]:
    """The batch as it is: images of different size cannot be stacked here."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed numpy and Python in a worker as torch has seeded it, so that workers differ."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
