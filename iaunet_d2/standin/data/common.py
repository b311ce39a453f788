"""Data sets made of a list, of a function over another data set, or of a sampler's stream."""

import copy as copy_module
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)

# From so many failures for one item on, each further one is told.
_FAILURES_TO_TELL = 3


class _PackedList:
    """A read-only list held as one byte buffer and the end of each pickled item in it.

    Python counts references inside every object, so worker processes that only read a list of dicts
    still copy its memory page by page. One buffer has one count, and torch shares it with spawned
    processes too.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        pickled = [pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL) for item in items]
        sizes = np.array([len(data) for data in pickled], dtype=np.int64)
        self._ends = torch.from_numpy(np.cumsum(sizes))
        self._bytes = torch.from_numpy(np.frombuffer(bytearray().join(pickled), dtype=np.uint8))
        logger.info("%d records packed into %.2f MiB", len(pickled), self._bytes.numel() / 2**20)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Any:
        position = range(len(self))[index]
        start = int(self._ends[position - 1]) if position else 0
        # Written by this process above: nothing foreign is unpickled.
        return pickle.loads(self._bytes[start : int(self._ends[position])].numpy().data)


class DatasetFromList(Dataset):
    """A list as a data set, from which every access gives an object of its own.

    Args:
        lst: the items.
        copy: deep-copy an item before it is given out; packed items are new objects anyway.
        serialize: keep the items packed in one buffer that worker processes share; or what packs
            them: it is given the list, and indexed from then on.
    """

    def __init__(
        self,
        lst: list[Any],
        copy: bool = True,
        serialize: bool | Callable[[list[Any]], Any] = True,
    ) -> None:
        pack = serialize if callable(serialize) else _PackedList
        self._items = pack(lst) if serialize else lst
        self._copy = copy and not serialize

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, idx: int) -> Any:
        item = self._items[idx]
        return copy_module.deepcopy(item) if self._copy else item


class _MappedStream(IterableDataset):
    """A function over a stream; items for which it gives None are left out."""

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]) -> None:
        self._source = dataset
        self._map_func = map_func

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Any]:
        return (mapped for mapped in map(self._map_func, self._source) if mapped is not None)


class MapDataset(Dataset):
    """A function over the items of a data set.

    Over an :class:`~torch.utils.data.IterableDataset` the result is a stream too. ``None`` from the
    function means
    that the item is of no use: a stream goes on to the next, a map-style data set gives a random
        other one instead.
    """

    def __new__(cls, dataset: Any, map_func: Callable[[Any], Any]) -> Any:
        if isinstance(dataset, IterableDataset):
            return _MappedStream(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]) -> None:
        self._source = dataset
        self._map_func = map_func
        self._usable = set(range(len(dataset)))
        self._rng = random.Random(42)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self._source, self._map_func

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, idx: int) -> Any:
        current = int(idx)
        failures = 0
        while (mapped := self._map_func(self._source[current])) is None:
            failures += 1
            self._usable.discard(current)
            if not self._usable:
                raise ValueError("the mapper gave None for every item of the data set")
            if failures >= _FAILURES_TO_TELL:
                logger.warning("mapping item %d and its substitutes failed %d times", idx, failures)
            current = self._rng.choice(list(self._usable))
        self._usable.add(current)
        return mapped


class ToIterableDataset(IterableDataset):
    """The items of a map-style data set in a sampler's order, as a stream.

    Args:
        dataset: the items.
        sampler: their indices; it runs in every worker process, so it must be cheap.
        shard_sampler: leave to each worker its own share of the indices.
        shard_chunk_size: so many consecutive indices go to one worker; with the batch size, the
            order of batches is the same for any number of workers.

    Raises:
        TypeError: a stream is given, or something that is not a sampler.
    """

    def __init__(
        self,
        dataset: Any,
        sampler: Sampler,
        shard_sampler: bool = True,
        shard_chunk_size: int = 1,
    ) -> None:
        if isinstance(dataset, IterableDataset) or not isinstance(sampler, Sampler):
            raise TypeError(
                "expected a map-style data set and a torch Sampler, got "
                f"{type(dataset).__name__} and {type(sampler).__name__}"
            )
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info() if self.shard_sampler else None
        for position, index in enumerate(self.sampler):
            chunk = position // self.shard_chunk_size
            if worker is None or chunk % worker.num_workers == worker.id:
                yield self.dataset[index]


class AspectRatioGroupedDataset(IterableDataset):
    """Batches of only wide or only tall images, so that less of a batch is padding.

    Args:
        dataset: a stream of dicts with "width" and "height".
        batch_size: dicts per batch; what does not fill a batch waits for the next pass.
    """

    def __init__(self, dataset: Iterable[dict[str, Any]], batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self._buckets: list[list[dict[str, Any]]] = [[], []]  # tall, wide

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for item in self.dataset:
            wide = item["width"] > item["height"]
            self._buckets[wide].append(item)
            if len(self._buckets[wide]) == self.batch_size:
                # Emptied before yielding: what follows a yield may never run.
                batch, self._buckets[wide] = self._buckets[wide], []
                yield batch
