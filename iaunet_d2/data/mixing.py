"""Which image of which data set stands at a position of the training stream."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def mix_problem(mix: Sequence[Any], names: Sequence[str]) -> str:
    """What is wrong with ``DATASETS.MIX`` for the data sets of these names; empty if nothing is."""
    if not len(mix):
        return ""
    if len(mix) != len(names):
        return (
            f"DATASETS.MIX {tuple(mix)} has {len(mix)} weights, DATASETS.TRAIN names "
            f"{len(names)} data sets; one weight for each is needed, such as (5, 1), or ()"
        )
    # True and False are whole numbers to Python.
    if not all(isinstance(w, int) and not isinstance(w, bool) and w > 0 for w in mix):
        return f"DATASETS.MIX {tuple(mix)} must be whole numbers over 0, such as (5, 1), or ()"
    return ""


def mix_pattern(weights: Sequence[int]) -> np.ndarray:
    """The numbers of the data sets (W,) in one period, W being the sum of the reduced weights.

    Sample k of the w of a data set stands where (k + 1/2) / w of the period is over, so that each
    data set is spread evenly, and small batches too hold about their share. Every period is alike:
    then any W consecutive samples, not only aligned ones, hold each data set exactly so often.

    Args:
        weights: one per data set, whole numbers over 0; (10, 2) is the same as (5, 1).
    """
    divisor = math.gcd(*weights)
    reduced = [w // divisor for w in weights]
    # As fractions over the common denominator 2 * product: exact, so that ties are ties.
    common = math.lcm(*reduced)
    places = [
        ((2 * k + 1) * (common // w), part) for part, w in enumerate(reduced) for k in range(w)
    ]
    return np.array([part for _, part in sorted(places)])


class EpochOrders:
    """The endless epochs of one data set, each in an order that depends on (seed, epoch) alone.

    Args:
        size: number of images.
        seed: of the order.
        key: further numbers that the order depends on.
        shuffle: False goes through the images in their order.
    """

    def __init__(
        self, size: int, seed: int = 0, key: Sequence[int] = (), shuffle: bool = True
    ) -> None:
        self.size = size
        self.seed = seed
        self.key = tuple(key)
        self.shuffle = shuffle
        self._kept: dict[int, np.ndarray] = {}

    def order(self, epoch: int) -> np.ndarray:
        """Indices of the images (n,) in the order of an epoch."""
        if not self.shuffle:
            return np.arange(self.size)
        if epoch not in self._kept:
            while len(self._kept) > 1:  # a batch may reach into the next epoch: two are kept
                del self._kept[min(self._kept)]
            random = np.random.default_rng([self.seed, epoch, *self.key])
            self._kept[epoch] = random.permutation(self.size)
        return self._kept[epoch]

    def candidates(self, number: int) -> Iterator[int]:
        """Index of the sample ``number``, then the others as they follow it in its epoch."""
        epoch, place = divmod(number, self.size)
        order = self.order(epoch)
        for step in range(self.size):
            yield int(order[(place + step) % self.size])


class Mixture:
    """Position to index, over the images of several data sets one after the other.

    Without weights all images are alike: one epoch goes through those of all data sets. With
    weights, each data set goes through epochs of its own, at the pace of its weight: 5 labelled
    images to each pseudo-labelled one are (5, 1) (VSM, section 2.2.3), 8 labelled and 8 unlabelled
    ones in a batch of 16 are (1, 1) (MAUNet, table 3).

    Args:
        sizes: images of each data set, all over 0.
        weights: see :func:`mix_pattern`; empty for none.
        seed: of the orders.
        shuffle: False goes through each data set in its order.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[int] = (), seed: int = 0, shuffle: bool = True
    ) -> None:
        if not weights:
            sizes, weights = [sum(sizes)], [1]
            keys: list[tuple[int, ...]] = [()]
        else:
            keys = [(part,) for part in range(len(sizes))]
        self._pattern = mix_pattern(weights)
        own = [self._pattern == part for part in range(len(sizes))]
        self._per_period = [int(mask.sum()) for mask in own]
        # How often the data set of a place stood earlier in the period.
        self._before = np.array([np.cumsum(own[p])[i] - 1 for i, p in enumerate(self._pattern)])
        self._first = [0, *np.cumsum(sizes).tolist()]
        self.orders = [
            EpochOrders(size, seed, key, shuffle) for size, key in zip(sizes, keys, strict=True)
        ]

    def candidates(self, position: int) -> Iterator[int]:
        """Index of the image at a position, then of those that may take its place, in turn.

        These are the other images of the same data set: the ratio stays.
        """
        period, place = divmod(position, len(self._pattern))
        part = int(self._pattern[place])
        number = period * self._per_period[part] + int(self._before[place])
        for index in self.orders[part].candidates(number):
            yield self._first[part] + index

    def part_of(self, index: int) -> tuple[int, int]:
        """First index, and the one after the last, of the data set that an image belongs to.

        Without weights these are all images.
        """
        part = int(np.searchsorted(self._first, index, side="right")) - 1
        return self._first[part], self._first[part + 1]
