"""Samplers that share one stream of indices among all processes."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import Sampler

from ...utils import comm

__all__ = ["InferenceSampler", "TrainingSampler"]


class TrainingSampler(Sampler):
    """An endless stream of indices: permutation after permutation of the data set.

    Process ``r`` of ``n`` takes every ``n``-th index from ``r`` on. Data-loader workers are not
    accounted for: :class:`~detectron2.data.ToIterableDataset` does that.

    Args:
        size: samples in the data set.
        shuffle: permute; False repeats 0, 1, … ``size`` - 1.
        seed: of the permutations, the same on every process; None draws one and shares it.

    Raises:
        TypeError: ``size`` is not an int.
        ValueError: ``size`` is not positive.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        if not isinstance(size, int):
            raise TypeError(f"size of the data set: expected an int, got {type(size).__name__}")
        if size < 1:
            raise ValueError(f"size of the data set: expected at least one sample, got {size}")
        self._size = size
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return islice(self._endless(), self._rank, None, self._world_size)

    def _endless(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            if self._shuffle:
                yield from torch.randperm(self._size, generator=generator).tolist()
            else:
                yield from range(self._size)


class InferenceSampler(Sampler):
    """Every sample exactly once, in order: each process has one contiguous part, sizes differing by
    one at most.

    Args:
        size: samples in the data set.

    Raises:
        ValueError: ``size`` is not positive.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size of the data set: expected at least one sample, got {size}")
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        """Say which of ``total_size`` samples belong to a process."""
        share, rest = divmod(total_size, world_size)
        start = rank * share + min(rank, rest)
        return range(start, start + share + (rank < rest))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
