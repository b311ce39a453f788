"""Colours that are told apart on a grey micrograph and beside each other."""

import colorsys

import numpy as np

__all__ = ["colormap", "random_color"]

# 72 hues in steps of the golden angle, so that neighbours in the list differ most, in
# three levels of (saturation, brightness).
_GOLDEN = 0.6180339887498949
_LEVELS = ((1.0, 0.95), (0.65, 1.0), (0.85, 0.75))
_PALETTE = np.array(
    [colorsys.hsv_to_rgb(i * _GOLDEN % 1.0, *_LEVELS[i % 3]) for i in range(72)], dtype=np.float32
)


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """All colours.

    Args:
        rgb: red first; by default blue first.
        maximum: 255 or 1, the largest value of a channel.

    Returns:
        float32 (N, 3).

    Raises:
        ValueError: ``maximum`` is something else.
    """
    if maximum not in (1, 255):
        raise ValueError(f"maximum must be 1 or 255, not {maximum}")
    scaled = _PALETTE * maximum
    return scaled if rgb else scaled[:, ::-1]


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """One colour (3,), drawn with NumPy's global random numbers."""
    colors = colormap(rgb, maximum)
    return colors[np.random.randint(len(colors))]  # follows seed_all_rng
