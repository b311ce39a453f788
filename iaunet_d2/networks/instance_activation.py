"""Instance Activation layers: queries guided by the image (IAUNet v1, section 5)."""

import torch
from torch import Tensor, nn

from .layers import init_normal


def activation_maps(logits: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Softmax over space of each map (equation 1).

    The equation does not say over which axis the softmax runs. Over the pixels of a map, as in the
    authors' code, every query is a weighted average of pixels; over the maps, the same pixel would
    have to be shared out among the queries.

    Args:
        logits: (B, N, L), L pixels.
        allowed: bool, broadcastable to (B, N, L), True on image and False on padding; every row
            needs one True.

    Returns:
        (B, N, L) float32, each map's sum is 1; 0 on padding.
    """
    logits = logits.float()
    if allowed is not None:
        logits = logits.masked_fill(~allowed, float("-inf"))
    return logits.softmax(-1)


def weighted_means(maps: Tensor, features: Tensor) -> Tensor:
    """Averages of pixel features, weighted by each map: (B, N, L) and (B, L, C) to (B, N, C).

    The paper calls it both a selection of queries and an element-wise multiplication; its formula
    ``q = a X^T`` is this product.
    """
    return maps @ features


class InstanceActivation(nn.Module):
    """A 3x3 convolution to N maps, and the queries that they average from the features.

    The authors' convolution has a bias, and their code adds a learned number to the maps: both are
    constant over space, where the softmax takes no notice of them, and are left out.

    Args:
        dim: channels of the features and the queries.
        num_queries: N.
    """

    def __init__(self, dim: int, num_queries: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, num_queries, 3, padding=1, bias=False)
        init_normal(self.conv)

    def forward(self, features: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Make queries.

        Args:
            features: (B, C, H, W).
            allowed: (B, 1, L), see :func:`activation_maps`.

        Returns:
            queries (B, N, C) and the activation maps (B, N, H, W), both float32.
        """
        logits = self.conv(features)
        # Weights of a fine map are too small for half precision.
        with torch.autocast(features.device.type, enabled=False):
            maps = activation_maps(logits.flatten(2), allowed)
            queries = weighted_means(maps, features.float().flatten(2).transpose(1, 2))
        return queries, maps.unflatten(2, (features.shape[2], features.shape[3]))
