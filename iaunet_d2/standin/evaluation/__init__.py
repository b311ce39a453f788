"""Run a model over a data set, and measure what it gives."""

from .. import left_out_class
from .coco_evaluation import COCOEvaluator
from .evaluator import DatasetEvaluator, DatasetEvaluators, inference_context, inference_on_dataset
from .testing import print_csv_format, verify_results

# Detectron2's own training scripts import them, and build them for other data sets than ours.
_ENTRY = "detectron2.evaluation.*"
COCOPanopticEvaluator = left_out_class("COCOPanopticEvaluator", _ENTRY)
CityscapesInstanceEvaluator = left_out_class("CityscapesInstanceEvaluator", _ENTRY)
CityscapesSemSegEvaluator = left_out_class("CityscapesSemSegEvaluator", _ENTRY)
LVISEvaluator = left_out_class("LVISEvaluator", _ENTRY)
PascalVOCDetectionEvaluator = left_out_class("PascalVOCDetectionEvaluator", _ENTRY)
SemSegEvaluator = left_out_class("SemSegEvaluator", _ENTRY)

__all__ = [
    "COCOEvaluator",
    "COCOPanopticEvaluator",
    "CityscapesInstanceEvaluator",
    "CityscapesSemSegEvaluator",
    "DatasetEvaluator",
    "DatasetEvaluators",
    "LVISEvaluator",
    "PascalVOCDetectionEvaluator",
    "SemSegEvaluator",
    "inference_context",
    "inference_on_dataset",
    "print_csv_format",
    "verify_results",
]
