"""Pictures of validation images with the ground truth beside the prediction."""

import colorsys
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as rle
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from torch import nn

from ..data import BadFileError, IAUNetDatasetMapper, dataset_records
from ..data.segmentation import compressed_rle, is_rle
from .evaluate import unwrapped
from .hooks import Evaluated

logger = logging.getLogger(__name__)

LONGEST_SIDE = 1024  # of one panel, in pixels
READABLE_SIDE = 384  # smaller images are enlarged by a whole number
FILL = 0.25
CAPTION = 24
GAP = 6


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


def side_by_side(
    image: np.ndarray, truth: list[np.ndarray], predicted: list[np.ndarray], threshold: float
) -> np.ndarray:
    """Ground truth on the left, prediction on the right, each under its number of instances.

    Args:
        image: (H, W, 3) uint8.
        truth, predicted: masks (H, W), bool.
        threshold: score from which predictions were taken, for the caption.

    Returns:
        (H', W', 3) uint8; each panel at most ``LONGEST_SIDE`` long.
    """
    panels = []
    captions = (f"truth: {len(truth)}", f"prediction: {len(predicted)} (score >= {threshold:g})")
    for masks, caption in zip((truth, predicted), captions, strict=True):
        panel = draw_instances(image, masks)
        strip = np.full((CAPTION, panel.shape[1], 3), 255, np.uint8)
        cv2.putText(
            strip, caption, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA
        )
        panels.append(np.concatenate([strip, panel]))
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def draw_instances(image: np.ndarray, masks: Iterable[np.ndarray]) -> np.ndarray:
    """Draw each mask tinted and outlined, so that overlapping ones stay tellable apart.

    Args:
        image: (H, W, 3) uint8, left as it is.
        masks: (H, W), bool.

    Returns:
        (H', W', 3) uint8, its longer side between ``READABLE_SIDE`` / 2 and ``LONGEST_SIDE``.
    """
    longest = max(image.shape[:2])
    scale = min(max(1, READABLE_SIDE // longest), LONGEST_SIDE / longest)
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    canvas = cv2.resize(image, (width, height), interpolation=method)
    for index, mask in enumerate(masks):
        small = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        color = _color(index)
        inside = small.astype(bool)
        canvas[inside] = (1 - FILL) * canvas[inside] + FILL * np.array(color)
        outlines, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, color, 1, cv2.LINE_AA)
    return canvas


def _color(index: int) -> tuple[int, int, int]:
    """Bright colours, neighbours in number far apart in hue (steps of the golden ratio)."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def displayable(image: np.ndarray) -> np.ndarray:
    """Make an image (H, W, C) uint8 of any number of channels an RGB picture (H, W, 3).

    One channel becomes grey; of two, the third stays black; of more than three, three are shown.
    """
    if image.shape[2] == 1:
        image = image.repeat(3, axis=2)
    elif image.shape[2] == 2:
        image = np.concatenate([image, np.zeros_like(image[:, :, :1])], axis=2)
    return np.ascontiguousarray(image[:, :, :3])


def annotation_masks(record: dict[str, Any], ignored: tuple[int, ...] = ()) -> Iterator[np.ndarray]:
    """Masks (H, W), bool, of a record's annotations, in its own frame: polygons or run lengths.

    Args:
        record: Detectron2's standard data-set dict.
        ignored: values of ``iscrowd`` that are left out.
    """
    height, width = record["height"], record["width"]
    for annotation in record.get("annotations", ()):
        shape = annotation.get("segmentation")
        if not shape or annotation.get("iscrowd", 0) in ignored:
            continue
        if is_rle(shape):
            encoded = compressed_rle(shape)
        else:
            encoded = rle.merge(rle.frPyObjects([list(p) for p in shape], height, width))
        yield rle.decode(encoded).astype(bool)
