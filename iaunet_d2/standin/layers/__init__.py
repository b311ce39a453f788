"""Small helpers for networks."""

from .shape_spec import ShapeSpec
from .wrappers import cat, nonzero_tuple

__all__ = ["ShapeSpec", "cat", "nonzero_tuple"]
