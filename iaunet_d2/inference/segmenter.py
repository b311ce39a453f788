"""A trained model for people's images: of any format, any depth, any size."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from ..data import BadFileError, IAUNetDatasetMapper
from ..data.readers import Limits, pixel_limits, stretched
from ..networks.scored_masks import ScoredMasks
from .cells import Cells
from .large import segment_large
from .loaded import Loaded, batches_with, scaled_mapper
from .model_folder import class_names, find_model, model_config, sees_frame
from .predictor import Predictor, find_instances
from .prompts import answers_at, answers_in_tiles, checked_points
from .sources import array_planes, open_planes
from .sources.base import ArrayPlane, Plane
from .stretch import plane_limits, plane_pixels
from .tiling import choose_overlap

logger = logging.getLogger(__name__)

KEPT_PIXELS = 64 * 10**6
"""Of larger planes the values are not kept: no intensities are measured, no picture is drawn."""

WHOLE_UP_TO = 1.5
"""Times the typical side of the training images: larger planes are cut into tiles."""

WHOLE_UP_TO_UNKNOWN = 2.0
"""The same where that side is not known, times the side of the network's input."""

SHOWN_AT_LEAST = 512
"""Side of a tile in pixels of the network's input, where a larger one changes nothing but speed."""

Image = np.ndarray | str | os.PathLike[str]
Progress = Callable[[int, int], None]


class Segmenter:
    """Finds the cells of images with a trained model.

    ``Segmenter("output/quickstart").predict("scan.tif").to_geojson("scan.geojson")``

    Args:
        model: a folder that training wrote, or a config (with ``weights``).
        weights: the weights; None takes the best of the folder, see
            :func:`~.model_folder.find_model`.
        device: "auto" (a GPU of Nvidia's, else the CPU), "cpu", "cuda", "cuda:1", "mps".
        score_thresh: cells with a lower score are left out; None takes ``TEST.SCORE_THRESH``. The
            model's own threshold (``MODEL....SCORE_THRESH``) stays in force.
        opts: config keys and values in turn that replace those of the model's config.

    Attributes:
        cfg: the config.
        model: the network, in evaluation mode.
        weights: path of the weights' file.
        training: what the model was trained on; None where that is not known.
        class_names: of the model's classes.

    Raises:
        FileNotFoundError: folder, config or weights do not exist.
        ConfigError: the config is of another version, or the device is not there.
        CheckpointError: the weights are damaged, or of another architecture.
        ValueError: the score threshold is not in 0..1.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        weights: str | os.PathLike[str] | None = None,
        device: str = "auto",
        score_thresh: float | None = None,
        opts: Sequence[str] = (),
    ) -> None:
        files = find_model(model, weights)
        self.cfg: CfgNode = model_config(files, device, opts)
        self.score_thresh = self.cfg.TEST.SCORE_THRESH if score_thresh is None else score_thresh
        if not 0 <= self.score_thresh <= 1:
            raise ValueError(f"score threshold {self.score_thresh}: a number in 0..1 is needed")
        predictor = Predictor(self.cfg)
        self.model = predictor.model
        self.weights, self.training = files.weights, files.training
        self.class_names = class_names(self.cfg, self.training.classes if self.training else ())
        self._mapper = predictor.mapper
        self._overlaps: dict[int, int] = {}  # by side of the tiles; what is odd is told once
        # The mapper sets NumPy's global random state for a moment.
        self._mapping = threading.Lock()
        logger.info("Weights: %s, on %s", self.weights, self.cfg.MODEL.DEVICE)

    def predict(
        self,
        image: Image,
        tile: str | int = "auto",
        axes: str = "",
        channels: Sequence[int] = (),
        pixel_size: float | Sequence[float] | None = None,
    ) -> Cells:
        """Find the cells of one image.

        Args:
            image: a file of any format that is read, or an array (H, W) or (H, W, C), colours as
                red, green, blue. What is not 8-bit is stretched as ``INPUT.PERCENTILES`` says.
            tile: "auto" shows an image whole that is about as large as those of the training, and
                cuts a larger one into tiles of their size, or larger ones for a model with seeded
                queries, which does not see how large a tile is; a number cuts it into tiles of so
                many pixels of the file, shown at the scale of the training; "off" shows it whole.
            axes: of file or array, one letter each, such as "CYX"; empty takes what the file says.
            channels: numbers of the channels to take, from 0; empty takes ``INPUT.CHANNELS``.
            pixel_size: µm, or µm vertically and horizontally; None takes what the file says.

        Raises:
            BadFileError: the file cannot be used, or has other channels than the model takes.
            ValueError: an argument is wrong, or the file holds several planes.
        """
        planes = self.planes(image, axes, channels, pixel_size)
        if len(planes) != 1:
            raise ValueError(
                f"{planes[0].name}: is one of {len(planes)} planes; predict_planes gives the "
                "cells of each"
            )
        return self.find(self.load(planes[0], tile))

    def predict_planes(
        self,
        image: Image,
        tile: str | int = "auto",
        axes: str = "",
        channels: Sequence[int] = (),
        pixel_size: float | Sequence[float] | None = None,
    ) -> Iterator[Cells]:
        """Find the cells of each plane of a stack, one after the other; see :meth:`predict`."""
        for plane in self.planes(image, axes, channels, pixel_size):
            yield self.find(self.load(plane, tile))

    def predict_batch(
        self,
        images: Sequence[Image],
        batch_size: int = 8,
        tile: str | int = "auto",
        axes: str = "",
        channels: Sequence[int] = (),
        pixel_size: float | Sequence[float] | None = None,
    ) -> list[Cells]:
        """Find the cells of several images, up to ``batch_size`` of a size at a time.

        The other arguments and errors are those of :meth:`predict`.
        """
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size}: at least 1 is needed")
        found: list[Cells] = []
        waiting: list[Loaded] = []
        for image in images:
            planes = self.planes(image, axes, channels, pixel_size)
            if len(planes) != 1:
                raise ValueError(
                    f"{planes[0].name}: is one of {len(planes)} planes; one is needed per image"
                )
            one = self.load(planes[0], tile)
            if waiting and not (len(waiting) < batch_size and batches_with(waiting[-1], one)):
                found += self._find_all(waiting, batch_size)
                waiting = []
            waiting.append(one)
        return found + self._find_all(waiting, batch_size)

    def masks_at(
        self,
        image: Image,
        points: Sequence[Sequence[float]] | np.ndarray,
        tile: str | int = "auto",
        axes: str = "",
        channels: Sequence[int] = (),
        pixel_size: float | Sequence[float] | None = None,
    ) -> Cells:
        """Find the cell at each point: one mask and score per point, in the points' order.

        A click on a cell is answered by its mask; the score is the mask's mean probability. A point
        that nothing answers gets its own pixel, with the score 0. ``score_thresh`` is not applied.

        Args:
            points: (P, 2), x and y in pixels of the image.

        The other arguments and errors are those of :meth:`predict`.

        Raises:
            PointsError: the model is not one with seeded queries.
            ValueError: a point lies outside the image.
        """
        planes = self.planes(image, axes, channels, pixel_size)
        if len(planes) != 1:
            raise ValueError(f"{planes[0].name}: is one of {len(planes)} planes; give one of them")
        return self.find_at(self.load(planes[0], tile), points)

    def find_at(self, one: Loaded, points: Sequence[Sequence[float]] | np.ndarray) -> Cells:
        """Find the cell at each point of a plane; see :meth:`masks_at`."""
        plane = one.plane
        height, width, _ = plane.shape
        places = checked_points(points, (height, width), plane.name)
        if one.entry is not None:
            found = answers_at(self.model, one.entry, places)
        else:
            mapper = scaled_mapper(self._mapper, self._scale(one.tile))
            found = answers_in_tiles(
                self.model,
                plane,
                places,
                one.tile,
                lambda pixels: self._tile_entry(pixels, one, mapper),
            )
        return self._about(self._as_cells(found), plane)

    def _find_all(self, several: Sequence[Loaded], batch_size: int) -> list[Cells]:
        """Those of planes that go together; a tiled one is always alone."""
        if len(several) == 1:
            return [self.find(several[0], batch_size)]
        return self.find_together(several)

    def planes(
        self,
        image: Image,
        axes: str = "",
        channels: Sequence[int] = (),
        pixel_size: float | Sequence[float] | None = None,
    ) -> list[Plane]:
        """The planes of an image, with the channels that the model takes; nothing is read yet."""
        chosen = tuple(channels) or tuple(self.cfg.INPUT.CHANNELS)
        if isinstance(image, np.ndarray):
            planes = array_planes(image, axes=axes, channels=chosen, pixel_size=pixel_size)
        else:
            planes = open_planes(image, axes=axes, channels=chosen, pixel_size=pixel_size)
        for plane in planes:
            self._require_channels(plane)
        return planes

    def load(self, plane: Plane, tile: str | int = "auto") -> Loaded:
        """Make a plane ready: read it unless it is large, measure its grey values, resize it.

        May be called in a thread while the model works.
        """
        height, width, _ = plane.shape
        side = self.tile_side((height, width), tile)
        pixels = np.zeros((0, 0, 0), np.uint8)
        if not side or height * width <= KEPT_PIXELS:
            pixels = plane.read(0, 0, height, width)
            about = plane.name, plane.pixel_size, plane.channel_names
            plane = ArrayPlane(pixels, *about)
        if side:
            limits = plane_limits(plane, self.cfg.INPUT.PERCENTILES)
            return Loaded(plane, side, limits, self._statistics(plane, limits))
        limits = pixel_limits(pixels, self.cfg.INPUT.PERCENTILES)
        entry = self._entry(pixels, limits, self._mapper, plane.name)
        return Loaded(plane, 0, limits, entry=entry)

    def find(self, one: Loaded, batch_size: int = 1, progress: Progress | None = None) -> Cells:
        """Find the cells of a plane.

        Args:
            one: from :meth:`load`.
            batch_size: tiles at a time.
            progress: called with how many tiles are done, and of how many.
        """
        if not one.tile:
            return self.find_together([one])[0]
        plane = one.plane
        mapper = scaled_mapper(self._mapper, self._scale(one.tile))

        def segment(tiles: list[np.ndarray]) -> list[Cells]:
            entries = [self._tile_entry(pixels, one, mapper) for pixels in tiles]
            return [self._cells(found) for found in find_instances(self.model, entries)]

        overlap = self._overlap(one.tile, plane)
        cells = segment_large(
            plane, segment, one.tile, overlap, batch_size=batch_size, progress=progress
        )
        return self._about(cells, plane)

    def find_together(self, several: Sequence[Loaded]) -> list[Cells]:
        """Find the cells of planes that :func:`batches_with` allows in one pass."""
        entries = [one.entry for one in several if one.entry is not None]
        if not entries:
            return []
        found = find_instances(self.model, entries)
        return [
            self._about(self._cells(masks), one.plane)
            for masks, one in zip(found, several, strict=True)
        ]

    def tile_side(self, size: tuple[int, int], tile: str | int = "auto") -> int:
        """Side of the tiles of a plane in its pixels; 0 where it is shown whole.

        Raises:
            ValueError: ``tile`` is neither "auto" nor "off" nor a number.
        """
        if tile == "off":
            return 0
        if tile != "auto":
            if not str(tile).isdecimal() or int(tile) < 1:
                raise ValueError(f"tile {tile!r}: 'auto', 'off' or a number of pixels is needed")
            return int(tile)
        typical, shown = self._typical_side(), self.cfg.INPUT.IMAGE_SIZE
        limit = WHOLE_UP_TO * typical if typical else WHOLE_UP_TO_UNKNOWN * shown
        if max(size) <= limit:
            return 0
        larger = 1.0 if sees_frame(self.cfg) else max(SHOWN_AT_LEAST / shown, 1.0)
        return round(typical * larger) if typical else shown

    def _typical_side(self) -> float | None:
        return self.training.image_side if self.training else None

    def _scale(self, tile: int) -> float:
        """From a file's pixels to those the network sees: as in training, where that is known."""
        return self.cfg.INPUT.IMAGE_SIZE / (self._typical_side() or tile)

    def _overlap(self, tile: int, plane: Plane) -> int:
        """How far tiles overlap: for the cells of the training, else a quarter of the tile."""
        if max(plane.shape[:2]) <= tile:
            return 0
        if tile not in self._overlaps:
            sides = self.training.cell_side if self.training else {}
            try:
                self._overlaps[tile] = choose_overlap(sides.get("99", tile / 8), tile)
            except ValueError as error:
                logger.warning("%s They overlap by half now; cells may be cut.", error)
                self._overlaps[tile] = tile // 2
        return self._overlaps[tile]

    def _entry(
        self, pixels: np.ndarray, limits: Limits, mapper: IAUNetDatasetMapper, name: str
    ) -> dict[str, Any]:
        image = mapper.adapt(stretched(pixels, limits), name)
        with self._mapping:
            return mapper.map(image, {})

    def _tile_entry(
        self, pixels: np.ndarray, one: Loaded, mapper: IAUNetDatasetMapper
    ) -> dict[str, Any]:
        entry = self._entry(pixels, one.limits, mapper, one.plane.name)
        return entry if one.statistics is None else {**entry, "statistics": one.statistics}

    def _statistics(self, plane: Plane, limits: Limits) -> torch.Tensor | None:
        """Those of the whole plane: a tile of background alone would be stretched to noise."""
        if self.cfg.INPUT.NORMALIZE != "image":
            return None
        pixels = self._mapper.adapt(stretched(plane_pixels(plane), limits), plane.name)
        values = torch.from_numpy(np.ascontiguousarray(pixels)).flatten(0, -2).float()
        return torch.stack([values.mean(0), values.std(0, unbiased=False)])

    def _require_channels(self, plane: Plane) -> None:
        count, taken = plane.shape[2], len(self.cfg.MODEL.PIXEL_MEAN)
        if count == taken or (count == 1 and taken == 3):
            return
        example = ",".join(map(str, range(taken)))
        raise BadFileError(
            f"{plane.name}: has {count} channels, the model takes {taken}. Choose {taken}, such as "
            f"channels={tuple(range(taken))}, on the command line --channels {example}."
        )

    def _cells(self, found: ScoredMasks) -> Cells:
        """Those with a pixel and enough score."""
        scores = found.scores.numpy()
        kept = [
            i
            for i, crop in enumerate(found.crops)
            if crop.numel() and scores[i] >= self.score_thresh
        ]
        return self._as_cells(found.take(kept))

    def _as_cells(self, found: ScoredMasks) -> Cells:
        classes = found.classes.numpy()
        highest = int(classes.max(initial=0))
        more = (f"class {k}" for k in range(len(self.class_names), highest + 1))
        return Cells(
            [crop.numpy() for crop in found.crops],
            found.corners.numpy().reshape(-1, 2),
            found.scores.numpy().astype(np.float32),
            classes.astype(np.int64),
            found.size,
            (*self.class_names, *more),
        )

    def _about(self, cells: Cells, plane: Plane) -> Cells:
        height, width, _ = plane.shape
        pixels = None
        if isinstance(plane, ArrayPlane) and height * width <= KEPT_PIXELS:
            pixels = plane.pixels
        return replace(
            cells,
            name=plane.name,
            pixel_size=plane.pixel_size,
            channel_names=tuple(plane.channel_names),
            pixels=pixels,
        )
