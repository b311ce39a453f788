"""Mean and standard deviation of the training images, instead of figures copied from elsewhere."""

import logging

import numpy as np
from detectron2.config import CfgNode
from tqdm import tqdm

from ..data import BadFileError, IAUNetDatasetMapper, dataset_records

logger = logging.getLogger(__name__)

LIMIT = 500  # images that are read; of more, evenly spaced ones


def fill_pixel_statistics(cfg: CfgNode) -> None:
    """Set ``MODEL.PIXEL_MEAN`` and ``PIXEL_STD`` from ``DATASETS.TRAIN``, if the config says so.

    With ``MODEL.PIXEL_STATISTICS: train`` the mean of the images' means and the mean of their
    standard deviations per channel are taken (as the paper's authors did), of at most 500 images.
    They become part of every checkpoint, so that an evaluation needs no training images. With
    ``config``, nothing is done.

    Raises:
        ValueError: the key has another value.
        BadFileError: no training image can be read.
    """
    how = cfg.MODEL.PIXEL_STATISTICS
    if how not in ("config", "train"):
        raise ValueError(f"MODEL.PIXEL_STATISTICS is {how!r}; it is 'config' or 'train'")
    if how == "config":
        return
    records = [r for name in cfg.DATASETS.TRAIN for r in dataset_records(cfg, name)]
    step = max(1, len(records) / LIMIT)
    chosen = [records[int(k * step)] for k in range(min(LIMIT, len(records)))]
    mapper = IAUNetDatasetMapper(cfg, is_train=False)
    means, deviations = [], []
    for record in tqdm(chosen, desc="mean and deviation of the pixels", unit="image"):
        try:
            pixels = mapper.read(record).astype(np.float64)
        except BadFileError:
            if cfg.INPUT.ON_BAD_FILE == "stop":
                raise
            continue
        means.append(pixels.mean(axis=(0, 1)))
        deviations.append(pixels.std(axis=(0, 1)))
    if not means:
        raise BadFileError(
            f"{', '.join(cfg.DATASETS.TRAIN)}: no training image can be read, so their mean is "
            "not known. Set MODEL.PIXEL_STATISTICS config, PIXEL_MEAN and PIXEL_STD."
        )
    cfg.MODEL.PIXEL_MEAN = [round(float(v), 3) for v in np.mean(means, axis=0)]
    # An image of one colour everywhere has none; dividing by it would give no number.
    cfg.MODEL.PIXEL_STD = [max(round(float(v), 3), 1e-3) for v in np.mean(deviations, axis=0)]
