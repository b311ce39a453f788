"""An endless, numbered stream of samples: number p is the same on every run and worker."""

import itertools
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from .errors import BadFileError
from .mixing import Mixture

logger = logging.getLogger(__name__)

# Entries by which a worker process tells the main one.
_SKIPPED, _FATAL = "_skipped_files", "_bad_file"


class SampleStream(Dataset):
    """Position to sample.

    Epoch p // n of position p goes through the n images in an order that depends on (seed, epoch);
    where data sets are mixed, each in its own epochs (:class:`~.mixing.Mixture`). With
    ``on_bad_file="skip"`` an unusable file's place is taken by the next usable one in the epoch's
    order. What was skipped travels with the sample, and an error travels in a sample's
    place, so that :class:`ReportingLoader` can tell them in the main process.

    Args:
        records: Detectron2's standard dicts; kept pickled, so that worker processes share the
            memory.
        mapper: called with a record that has the ``position`` added.
        seed: of the order.
        on_bad_file: ``"stop"`` or ``"skip"``.
        shuffle: False goes through the images in their order.
        sizes: numbers of the records that belong to each data set, one data set after the other;
            empty for a single one.
        mix: weights of the data sets (``DATASETS.MIX``); empty takes all images alike.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        seed: int = 0,
        on_bad_file: str = "stop",
        shuffle: bool = True,
        sizes: Sequence[int] = (),
        mix: Sequence[int] = (),
    ) -> None:
        if not records:
            raise ValueError("there is no image to train on: DATASETS.TRAIN holds none")
        packed = [pickle.dumps(r, protocol=pickle.HIGHEST_PROTOCOL) for r in records]
        self._ends = np.cumsum([len(p) for p in packed])
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)
        self.mapper = mapper
        self.on_bad_file = on_bad_file
        self.mixture = Mixture(sizes or [len(records)], mix, seed, shuffle)

    def __len__(self) -> int:
        """Images of all data sets; unless these are mixed, positions per epoch."""
        return len(self._ends)

    def record(self, index: int) -> dict[str, Any]:
        """The data-set dict of an image."""
        start = self._ends[index - 1] if index else 0
        return pickle.loads(self._bytes[start : self._ends[index]].data)

    def order(self, epoch: int, part: int = 0) -> np.ndarray:
        """Indices (n,) in the order of an epoch: of all images, or of mixed data sets' ``part``."""
        return self.mixture.orders[part].order(epoch)

    def sample(self, index: int, position: int) -> dict[str, Any]:
        """What the mapper makes of an image at a position.

        Raises:
            BadFileError: it cannot be used.
        """
        return self.mapper({**self.record(index), "position": position})

    def __getitem__(self, position: int) -> dict[str, Any]:
        """The sample at a position, or the error in its place."""
        skipped: list[str] = []
        for index in self.mixture.candidates(int(position)):
            try:
                sample = self.sample(index, int(position))
            except BadFileError as error:
                if self.on_bad_file == "stop":
                    return {_FATAL: str(error)}
                skipped.append(str(error))
                continue
            return {**sample, _SKIPPED: skipped} if skipped else sample
        return {_FATAL: "no image can be used: " + skipped[0]}


class TellingMapper:
    """Wraps a test mapper: a bad file becomes an entry for :class:`ReportingLoader`."""

    def __init__(
        self, mapper: Callable[[dict[str, Any]], dict[str, Any]], on_bad_file: str
    ) -> None:
        self.mapper = mapper
        self.on_bad_file = on_bad_file

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """The mapped dict, or what was wrong with it."""
        try:
            return self.mapper(dataset_dict)
        except BadFileError as error:
            return {_FATAL: str(error)} if self.on_bad_file == "stop" else {_SKIPPED: [str(error)]}


class PositionSampler(Sampler):
    """Endless positions of one process: of each global batch, its share.

    The shares of all processes together are the batch that one process alone would see.

    Args:
        start: first position of the first global batch.
        batch_size: images per global batch.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        ValueError: the batch cannot be shared evenly.
    """

    def __init__(self, start: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH {batch_size} must be a positive multiple of the number of "
                f"processes ({world_size}), because every process takes the same number of images"
            )
        self.start = start
        self.batch_size = batch_size
        self.share = batch_size // world_size
        self.rank = rank

    def __iter__(self) -> Iterator[int]:
        """Positions of this process, without end."""
        for base in itertools.count(self.start, self.batch_size):
            first = base + self.rank * self.share
            yield from range(first, first + self.share)


class ReportingLoader:
    """A loader whose workers' errors are raised, and whose skipped files are told once, here."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.dataset = loader.dataset
        self._told: set[str] = set()

    def __len__(self) -> int:
        """Batches; an endless loader has no length."""
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Batches without the entries that only report.

        Raises:
            BadFileError: a file cannot be used and ``INPUT.ON_BAD_FILE`` is "stop", or none can.
        """
        for batch in self.loader:
            for sample in batch:
                self._tell(sample)
            usable = [sample for sample in batch if "image" in sample]
            if usable:
                yield usable

    def _tell(self, sample: dict[str, Any]) -> None:
        if _FATAL in sample:
            raise BadFileError(sample[_FATAL])
        for message in sample.pop(_SKIPPED, ()):
            if message not in self._told:
                self._told.add(message)
                logger.warning("left out (INPUT.ON_BAD_FILE skip): %s", message)
