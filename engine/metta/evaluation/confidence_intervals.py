"""How sure a mean is: its 95 % interval by Student's t, over episodes as independent draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE: Final = 0.95
"""Of a hundred such intervals, about so many hold the true mean."""


@dataclass(frozen=True)
class Interval:
    """A mean and how far the true one may be from it."""

    mean: float
    half_width: float
    """not a number for a single value, which says nothing of how much values vary"""

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half_width


def mean_interval(values: ArrayLike) -> Interval:
    """The mean of `[episodes]` and its 95 % interval, mean +- t s / sqrt(n).

    s is the standard deviation with n - 1 below the line, t the quantile of Student's distribution with n - 1 degrees
    of freedom ("The probable error of a mean", Biometrika 6, 1908). Exact for values that are normally distributed,
    close for others from some ten values on.
    """
    numbers = np.asarray(values, np.float64)
    if len(numbers) == 1:
        return Interval(float(numbers[0]), math.nan)
    spread = float(numbers.std(ddof=1))
    return Interval(float(numbers.mean()), student_quantile(len(numbers) - 1) * spread / math.sqrt(len(numbers)))


def student_quantile(freedom: int) -> float:
    """t with P(|T| <= t) = 95 % for Student's distribution with so many degrees of freedom."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halves: the angle is exact to a float's last digits
        middle = (low + high) / 2
        low, high = (middle, high) if _share_within(middle, freedom) < CONFIDENCE else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _share_within(angle: float, freedom: int) -> float:
    """P(|T| <= t) with t = sqrt(freedom) tan(angle): the finite sums 26.7.3 and 26.7.4 of Abramowitz and Stegun."""
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = freedom % 2
    term, total = cosine if is_odd else 1.0, 0.0
    for power in range(is_odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total
