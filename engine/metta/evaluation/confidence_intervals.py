"""Confidence intervals of a mean: 95 %, by Student's t, over independent values such as episode rewards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE_LEVEL: Final = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    half_width: float
    """NaN for a single value, whose variance is unknown"""

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half_width


def mean_interval(values: ArrayLike) -> Interval:
    """The mean of `values [episodes]` and its 95 % confidence interval, mean +- t s / sqrt(n).

    s is the sample standard deviation (with n - 1) and t the quantile of Student's t distribution with n - 1 degrees of
    freedom (Student, "The probable error of a mean", Biometrika 6, 1908). The interval is exact for normally
    distributed values and a good approximation for others from about ten values on.
    """
    sample = np.asarray(values, np.float64)
    if len(sample) == 1:
        return Interval(float(sample[0]), math.nan)
    deviation = float(sample.std(ddof=1))
    return Interval(float(sample.mean()), student_t_quantile(len(sample) - 1) * deviation / math.sqrt(len(sample)))


def student_t_quantile(degrees_of_freedom: int) -> float:
    """The t with P(|T| <= t) = 95 % for Student's t distribution, by bisection."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # until the angle is exact to the last bits of a float
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _central_probability(middle, degrees_of_freedom) < CONFIDENCE_LEVEL else (low, middle)
        )
    return math.sqrt(degrees_of_freedom) * math.tan(low)


def _central_probability(angle: float, degrees_of_freedom: int) -> float:
    """P(|T| <= t) with t = sqrt(degrees_of_freedom) tan(angle).

    The finite sums 26.7.3 and 26.7.4 of Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees_of_freedom % 2
    term, total = cosine if is_odd else 1.0, 0.0
    for power in range(is_odd, degrees_of_freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total
