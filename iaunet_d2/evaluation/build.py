"""The evaluator of a data set, chosen by what the data set says of itself."""

import re
from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.utils.registry import Registry

from .._seam import uses_standin

EVALUATOR_REGISTRY = Registry("EVALUATOR")
EVALUATOR_REGISTRY.__doc__ = """
Builders of evaluators: ``builder(cfg, dataset_name, output_folder) -> DatasetEvaluator``,
registered under the value of ``MetadataCatalog.get(dataset_name).evaluator_type`` that they serve.
"""

Builder = Callable[[CfgNode, str, str], DatasetEvaluator]


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """Build the evaluator for ``dataset_name``.

    Args:
        cfg: ``TEST.TASKS`` and ``TEST.DETECTIONS_PER_IMAGE`` are used.
        dataset_name: a registered data set.
        output_folder: where the evaluator may write predictions.

    Raises:
        ValueError: the data set's ``evaluator_type`` has no builder.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    known = sorted(name for name, _ in EVALUATOR_REGISTRY)
    if kind not in known:
        raise ValueError(
            f"data set {dataset_name!r} asks for evaluator_type {kind!r}, which has no evaluator; "
            "known are: "
            f"{', '.join(known)}. Set MetadataCatalog.get(name).evaluator_type, or register a "
            "builder in "
            "iaunet_d2.evaluation.EVALUATOR_REGISTRY."
        )
    builder: Builder = EVALUATOR_REGISTRY.get(kind)
    return builder(cfg, dataset_name, output_folder)


def inference_folder(cfg: CfgNode, dataset_name: str) -> str:
    """Folder for predictions below ``OUTPUT_DIR/inference``, named without slash or colon."""
    return str(Path(cfg.OUTPUT_DIR) / "inference" / re.sub(r"[^\w.-]+", "_", dataset_name))


def build_coco_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """COCO's average precision over ``TEST.DETECTIONS_PER_IMAGE`` detections an image."""
    return COCOEvaluator(
        dataset_name,
        tasks=tuple(cfg.TEST.TASKS),
        distributed=True,
        output_dir=output_folder,
        max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        # Detectron2's own fast path needs its compiled code; the stand-in's is faster-coco-eval.
        use_fast_impl=uses_standin(),
    )


EVALUATOR_REGISTRY._do_register("coco", build_coco_evaluator)
