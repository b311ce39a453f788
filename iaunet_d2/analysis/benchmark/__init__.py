"""Cost of models over batch size, image size, queries, instances, precision and device."""

from .points import Axes, Point, plan
from .run import Settings, benchmark

__all__ = ["Axes", "Point", "Settings", "benchmark", "plan"]
