"""How cost grows with what it is measured over: a power law, and a straight line."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Growth:
    """Two fits of the same values.

    Attributes:
        factor, exponent: of ``factor * x ** exponent``, least squares of the logarithms.
        offset, slope: of ``offset + slope * x``, least squares.
        power_r2, line_r2: share of the variance (of the values, not their logarithms) explained.
        count: how many values were fitted.
    """

    factor: float
    exponent: float
    offset: float
    slope: float
    power_r2: float
    line_r2: float
    count: int

    @property
    def is_power(self) -> bool:
        """Whether the power law explains more than the line."""
        return self.power_r2 > self.line_r2

    def text(self, unit: str, per: str) -> str:
        """Both fits in words, the better one first.

        Args:
            unit: of the values.
            per: what one of x is, such as "query".
        """
        ends = ("", "") if self.count < 3 else tuple(
            f" (R² {r2:.3f})" for r2 in (self.power_r2, self.line_r2)
        )  # fmt: skip
        power = f"grows with the power {self.exponent:.2f}{ends[0]}"
        sign = "-" if self.offset < 0 else "+"
        line = f"{self.slope:.4g} {unit} per {per} {sign} {abs(self.offset):.4g} {unit}{ends[1]}"
        text = "; ".join((power, line) if self.is_power else (line, power))
        return text + ("; two values fit exactly" if self.count < 3 else "")


def growth(x: Sequence[float], y: Sequence[float]) -> Growth:
    """Fit values over two or more different positive numbers.

    Raises:
        ValueError: there are fewer, or something is not positive.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if len(np.unique(xs)) < 2 or (xs <= 0).any() or (ys <= 0).any():
        raise ValueError("a fit needs positive values at two or more different positive numbers")
    exponent, logarithm = np.polyfit(np.log(xs), np.log(ys), 1)
    slope, offset = np.polyfit(xs, ys, 1)
    factor = float(np.exp(logarithm))
    return Growth(
        factor,
        float(exponent),
        float(offset),
        float(slope),
        _explained(ys, factor * xs**exponent),
        _explained(ys, offset + slope * xs),
        len(xs),
    )


def _explained(values: np.ndarray, fitted: np.ndarray) -> float:
    total = ((values - values.mean()) ** 2).sum()
    left = ((values - fitted) ** 2).sum()
    return 1.0 if total == 0 else float(1 - left / total)
