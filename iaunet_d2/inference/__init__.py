"""Using a trained model."""

from .predictor import Predictor

__all__ = ["Predictor"]
