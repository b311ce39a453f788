"""Evaluators as Detectron2 ``DatasetEvaluator``s, found by the data set's metadata."""

from . import builders as builders
from .build import EVALUATOR_REGISTRY, build_evaluator, inference_folder
from .predictions import ImagePredictions, Predictions, PredictionStore
from .table import results_table

__all__ = [
    "EVALUATOR_REGISTRY",
    "ImagePredictions",
    "PredictionStore",
    "Predictions",
    "build_evaluator",
    "inference_folder",
    "results_table",
]
