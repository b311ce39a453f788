"""The evaluators that a data set can ask for by name; a function's name is what it is called by."""

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from .build import EVALUATOR_REGISTRY
from .coco import CellCOCOEvaluator
from .coco_ap import COCO_AREAS, LIVECELL_AREAS, AreaRanges
from .isbi2014 import ISBI2014Evaluator
from .label_maps import LabelMapEvaluator
from .neurips22 import NeurIPS22Evaluator
from .overlap import OverlapEvaluator
from .predictions import PredictionStore
from .sartorius import SartoriusEvaluator

Built = list[DatasetEvaluator]

LIVECELL_LIMIT = 2000
"""Detections an image that LIVECell's own evaluation counts."""


def _coco_and_overlap(
    cfg: CfgNode,
    dataset_name: str,
    output_folder: str,
    store: PredictionStore,
    limit: int,
    areas: AreaRanges = COCO_AREAS,
    use_categories: bool = True,
) -> Built:
    coco_metrics = CellCOCOEvaluator(
        dataset_name,
        store,
        tasks=tuple(cfg.TEST.TASKS),
        limit=limit,
        areas=areas,
        use_categories=use_categories,
        output_folder=output_folder,
    )
    overlaps = OverlapEvaluator(
        dataset_name,
        store,
        limit=limit,
        score_threshold=cfg.TEST.SCORE_THRESH,
        use_categories=use_categories,
    )
    return [coco_metrics, overlaps]


@EVALUATOR_REGISTRY.register()
def coco(cfg: CfgNode, dataset_name: str, output_folder: str, store: PredictionStore) -> Built:
    """COCO's metrics at ``TEST.DETECTIONS_PER_IMAGE`` detections, and those of overlaps."""
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    return _coco_and_overlap(cfg, dataset_name, output_folder, store, limit)


@EVALUATOR_REGISTRY.register()
def livecell(cfg: CfgNode, dataset_name: str, output_folder: str, store: PredictionStore) -> Built:
    """LIVECell's: COCO's metrics at 2000 detections, its own areas, classes not told apart."""
    return _coco_and_overlap(
        cfg, dataset_name, output_folder, store, LIVECELL_LIMIT, LIVECELL_AREAS, False
    )


@EVALUATOR_REGISTRY.register()
def overlap(cfg: CfgNode, dataset_name: str, output_folder: str, store: PredictionStore) -> Built:
    """Overlapping and separate instances apart."""
    return coco(cfg, dataset_name, output_folder, store)[1:]


@EVALUATOR_REGISTRY.register()
def isbi2014(cfg: CfgNode, dataset_name: str, output_folder: str, store: PredictionStore) -> Built:
    """COCO's metrics, and those of the ISBI 2014 challenge."""
    own = ISBI2014Evaluator(dataset_name, store, cfg.TEST.SCORE_THRESH)
    return [*coco(cfg, dataset_name, output_folder, store), own]


@EVALUATOR_REGISTRY.register()
def neurips22(cfg: CfgNode, dataset_name: str, output_folder: str, store: PredictionStore) -> Built:
    """COCO's metrics, and those of the NeurIPS 2022 cell segmentation challenge."""
    own = NeurIPS22Evaluator(dataset_name, store, cfg.TEST.SCORE_THRESH)
    return [*coco(cfg, dataset_name, output_folder, store), own]


@EVALUATOR_REGISTRY.register()
def sartorius(cfg: CfgNode, dataset_name: str, output_folder: str, store: PredictionStore) -> Built:
    """COCO's metrics, and those of the Sartorius competition."""
    own = SartoriusEvaluator(dataset_name, store, cfg.TEST.SCORE_THRESH)
    return [*coco(cfg, dataset_name, output_folder, store), own]


@EVALUATOR_REGISTRY.register()
def label_map(cfg: CfgNode, dataset_name: str, output_folder: str, store: PredictionStore) -> Built:
    """Metrics of label maps: AJI, PQ, F1 and AP as Cellpose and StarDist have it."""
    return [LabelMapEvaluator(dataset_name, store, cfg.TEST.SCORE_THRESH)]
