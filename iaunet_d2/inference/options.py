"""What a run is asked for, and what it did."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np

from .model_folder import fingerprint
from .segmenter import Segmenter


@dataclass(frozen=True)
class Options:
    """How images are predicted and written.

    Attributes:
        formats: keys of :data:`~.outputs.FORMATS`.
        tile, axes, channels, pixel_size: see :meth:`.segmenter.Segmenter.predict`.
        points: places (x, y) by an image's name: the cell at each is found, in place of all cells;
            None finds all.
        batch_size: images of a size, or tiles, at a time.
        workers: threads that read and write while the model works.
    """

    formats: tuple[str, ...] = ("labels", "csv", "overlay")
    tile: str | int = "auto"
    axes: str = ""
    channels: tuple[int, ...] = ()
    pixel_size: tuple[float, ...] | None = None
    points: Mapping[str, np.ndarray] | None = None
    batch_size: int = 1
    workers: int = 2

    def for_device(self, batch_size: int | None, device: str) -> "Options":
        """With a batch size; None takes what does on the device."""
        return replace(self, batch_size=batch_size or (1 if device == "cpu" else 4))

    def for_results(self) -> dict[str, Any]:
        """Those that the results depend on, as JSON gives them back."""
        left_out = ("batch_size", "workers", "points")
        own = {k: v for k, v in asdict(self).items() if k not in left_out}
        if self.points is not None:
            # All of them would stand in each image's record.
            text = repr([(name, places.tolist()) for name, places in self.points.items()])
            own["points"] = sha256(text.encode()).hexdigest()[:16]
        own["formats"] = sorted(self.formats)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}


@dataclass
class Summary:
    """What a run did.

    Attributes:
        done: images that this process did.
        elsewhere: images that other processes did meanwhile.
        before: images that were done before the run.
        cells: found in all of these.
        failed: images that could not be done, by any process, with the reason.
        notes: what else is to be told of images.
    """

    done: int = 0
    elsewhere: int = 0
    before: int = 0
    cells: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


def made_with(segmenter: Segmenter, options: Options) -> dict[str, Any]:
    """Model and settings that results depend on, as they stand in records and report."""
    return {
        "weights": segmenter.weights.name,
        "model": fingerprint(segmenter.cfg),
        "score_thresh": segmenter.score_thresh,
        **options.for_results(),
    }
