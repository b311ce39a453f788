"""Models side by side on one data set: accuracy, size, speed, memory, pictures."""

from .run import Options, compare
from .spec import ModelSpec, model_specs

__all__ = ["ModelSpec", "Options", "compare", "model_specs"]
