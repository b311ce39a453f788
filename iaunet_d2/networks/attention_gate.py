"""Attention gates of a U-net's skip connections."""

import torch
from torch import Tensor, nn


class LiteralGate(nn.Module):
    """The gate of IAU-net, equation 2: A(x, g) = (1 + sigmoid(W_x x + W_g g + b)) * x.

    x is the "input feature map", the decoder's after upsampling; g is the "corresponding level in
    the encoder". That is the reverse of Oktay's gate, and the factor is never below 1: it cannot
    suppress what it passes, as the text says, only raise the rest above it. The paper gives no
    shapes; W_x and W_g are 1x1 convolutions from C to C channels, so there is a factor per channel.

    Args:
        channels: C of both maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_decoder = nn.Conv2d(channels, channels, 1)
        self.of_skip = nn.Conv2d(channels, channels, 1, bias=False)

    def factor(self, decoder: Tensor, skip: Tensor) -> Tensor:
        """What the decoder's map is multiplied by: two (B, C, H, W) -> (B, C, H, W)."""
        return 1 + (self.of_decoder(decoder) + self.of_skip(skip)).sigmoid()

    def forward(self, decoder: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Both maps (B, C, H, W), the decoder's gated."""
        return self.factor(decoder, skip) * decoder, skip


class OktayGate(nn.Module):
    """The gate of Attention U-Net (Oktay et al. 2018, equations 1 and 2).

    The skip is multiplied by sigmoid(psi(relu(W_x x + W_g g + b)) + b_psi), one factor per pixel,
    with x the skip and g the decoder's map. Here g is at the skip's size already, so that nothing
    is resampled; the layers between have C / 2 channels.

    Args:
        channels: C of both maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.of_decoder = nn.Conv2d(channels, inner, 1)
        self.of_skip = nn.Conv2d(channels, inner, 1, bias=False)
        self.psi = nn.Conv2d(inner, 1, 1)

    def factor(self, decoder: Tensor, skip: Tensor) -> Tensor:
        """What the skip is multiplied by: two (B, C, H, W) -> (B, 1, H, W)."""
        return self.psi((self.of_decoder(decoder) + self.of_skip(skip)).relu()).sigmoid()

    def forward(self, decoder: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Both maps (B, C, H, W), the skip gated."""
        return decoder, self.factor(decoder, skip) * skip


class NoGate(nn.Module):
    """A plain U-net's skip connection.

    Args:
        channels: of both maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, decoder: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Both maps (B, C, H, W) as they are."""
        return decoder, skip


GATES: dict[str, type[nn.Module]] = {"literal": LiteralGate, "oktay": OktayGate, "none": NoGate}


def build_gate(name: str, channels: int) -> nn.Module:
    """A gate by its name in :data:`GATES`.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in GATES:
        raise ValueError(f"attention gate {name!r} is unknown; it is one of {tuple(GATES)}")
    return GATES[name](channels)


def joined(gate: nn.Module, decoder: Tensor, skip: Tensor) -> Tensor:
    """Both maps (B, C, H, W), gated, one after the other: (B, 2 C, H, W)."""
    return torch.cat(gate(decoder, skip), dim=1)
