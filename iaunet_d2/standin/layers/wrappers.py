"""Tensor operations under the names that Detectron2 projects import."""

from collections.abc import Sequence

import torch
from torch import Tensor


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Concatenate along ``dim``; a single tensor is returned as it is, without a copy."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)


def nonzero_tuple(x: Tensor) -> tuple[Tensor, ...]:
    """Indices of the non-zero elements: one int64 vector per dimension; a scalar counts as (1,)."""
    return x.reshape(1).nonzero(as_tuple=True) if x.dim() == 0 else x.nonzero(as_tuple=True)
