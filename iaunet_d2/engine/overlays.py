"""Pictures of validation images with the ground truth beside the prediction."""

import logging
import re
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from torch import nn

from ..data import BadFileError, IAUNetDatasetMapper, dataset_records
from ..data.segmentation import annotation_masks
from ..drawing import displayable, side_by_side
from .evaluate import unwrapped
from .hooks import Evaluated

logger = logging.getLogger(__name__)


class OverlayWriter:
    """Draw the first ``TEST.NUM_OVERLAYS`` images of ``DATASETS.TEST[0]`` at each evaluation.

    The files are ``OUTPUT_DIR/overlays/iter_<iteration>/<index>_<image name>.png``.

    Args:
        cfg: the run's config.
        model: the model, wrapped for several processes or not; the main process alone uses it here.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        self.cfg = cfg
        self.model = model

    def __call__(self, event: Evaluated) -> None:
        if (
            not comm.is_main_process()
            or not self.cfg.TEST.NUM_OVERLAYS
            or not self.cfg.DATASETS.TEST
        ):
            return
        folder = Path(self.cfg.OUTPUT_DIR) / "overlays" / f"iter_{event.iteration:07d}"
        paths = write_overlays(self.cfg, self.model, folder)
        logger.info("Wrote %d overlays to %s", len(paths), folder)


def write_overlays(cfg: CfgNode, model: nn.Module, folder: Path) -> list[Path]:
    """Draw images of the first data set of ``DATASETS.TEST`` into ``folder``.

    Returns:
        The files written; with ``INPUT.ON_BAD_FILE: skip`` there is none for a bad image.

    Raises:
        BadFileError: an image cannot be used, and ``INPUT.ON_BAD_FILE`` is "stop".
    """
    folder.mkdir(parents=True, exist_ok=True)
    mapper = IAUNetDatasetMapper(cfg, False)
    model = unwrapped(model)
    paths = []
    records = dataset_records(cfg, cfg.DATASETS.TEST[0])[: cfg.TEST.NUM_OVERLAYS]
    ignored = () if cfg.INPUT.CROWD == "instance" else (1,)
    with inference_context(model), torch.no_grad():
        for index, record in enumerate(records):
            try:
                sample, image = mapper(record), mapper.read(record)
            except BadFileError as error:
                if cfg.INPUT.ON_BAD_FILE == "stop":
                    raise
                logger.warning("No overlay: %s", error)
                continue
            found = model([sample])[0]["instances"].to("cpu")
            found = found[found.scores >= cfg.TEST.OVERLAY_SCORE_THRESH]
            picture = side_by_side(
                displayable(image[..., ::-1] if cfg.INPUT.FORMAT == "BGR" else image),
                list(annotation_masks(record, ignored)),
                [np.asarray(mask) for mask in found.pred_masks],
                cfg.TEST.OVERLAY_SCORE_THRESH,
            )
            stem = re.sub(r"[^\w.-]+", "_", Path(record["file_name"]).stem)
            paths.append(folder / f"{index:02d}_{stem}.png")
            _, encoded = cv2.imencode(".png", picture[:, :, ::-1])
            paths[-1].write_bytes(encoded.tobytes())
    return paths
