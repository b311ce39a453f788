"""A data set by name, with its images as the network's mapper reads them, one after the other."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from ..data import BadFileError, IAUNetDatasetMapper, check_files, ensure_registered, read_image

logger = logging.getLogger(__name__)


class SplitReader:
    """A data set by name, and its images as the network's mapper reads them.

    Args:
        cfg: ``INPUT`` says how files are read, and what is done about bad ones.
        name: a registered name, ``coco:<json>:<image folder>`` or synthetic cells.

    Raises:
        BadFileError: the data set cannot be used.
        ValueError: the name is unknown.
    """

    def __init__(self, cfg: CfgNode, name: str) -> None:
        options = cfg.INPUT
        ensure_registered([name], options.CROWD, options.ON_BAD_FILE)
        self.name = name
        self.on_bad_file = options.ON_BAD_FILE
        self.is_bgr = options.FORMAT == "BGR"
        self.records: list[dict[str, Any]] = check_files(
            DatasetCatalog.get(name), options.CHECK_FILES, options.ON_BAD_FILE
        )
        if not self.records:
            raise BadFileError(f"data set {name!r}: has no image.")
        cfg = cfg.clone()
        cfg.defrost()
        _fit_channels(cfg, self.records[0])
        self._mapper = IAUNetDatasetMapper(cfg, is_train=False)
        self._ignored = () if options.CROWD == "instance" else (1,)

    def class_names(self) -> list[str]:
        """``thing_classes``, or numbers where the data set does not name its classes."""
        named = list(MetadataCatalog.get(self.name).get("thing_classes", None) or ())
        numbers = (a["category_id"] for r in self.records for a in r.get("annotations", ()))
        highest = max(numbers, default=-1)
        return named + [f"class {k}" for k in range(len(named), highest + 1)]

    def annotations(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Those of the record's annotations that are instances."""
        return [
            a
            for a in record.get("annotations", ())
            if a.get("segmentation") and a.get("iscrowd", 0) not in self._ignored
        ]

    def images(
        self, records: Sequence[dict[str, Any]] | None = None, progress: bool = True
    ) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Each record with its image, (H, W, C) ``uint8``.

        Args:
            records: some of ``self.records``; None takes all.
            progress: show a progress bar.

        Raises:
            BadFileError: an image cannot be read, and ``INPUT.ON_BAD_FILE`` is "stop".
        """
        chosen = self.records if records is None else records
        for record in tqdm(chosen, desc="reading images", unit="image", disable=not progress):
            try:
                image = self._mapper.read(record)
            except BadFileError as error:
                if self.on_bad_file == "stop":
                    raise
                logger.warning("Left out: %s", error)
                continue
            yield record, image


def _fit_channels(cfg: CfgNode, record: dict[str, Any]) -> None:
    """As many entries of ``MODEL.PIXEL_MEAN`` as the files have channels; of grey ones it has 3."""
    channels = read_image(record["file_name"], cfg.INPUT.CHANNELS).shape[2]
    if channels != 1:
        cfg.MODEL.PIXEL_MEAN = [0.0] * channels
