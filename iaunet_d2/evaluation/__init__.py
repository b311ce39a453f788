"""Evaluators as Detectron2 ``DatasetEvaluator``s, found by the data set's ``evaluator_type``."""

from .build import EVALUATOR_REGISTRY, build_evaluator, inference_folder

__all__ = ["EVALUATOR_REGISTRY", "build_evaluator", "inference_folder"]
