"""95 % confidence intervals (Student's t) of the mean of independent values such as episode rewards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE_LEVEL: Final = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval, `mean` +- `half_width`."""

    mean: float
    half_width: float
    """NaN if the mean is that of a single value"""

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width


def mean_interval(values: ArrayLike) -> Interval:
    """The mean of `values [episodes]`, at least one, and its 95 % confidence interval, mean +- t s / sqrt(n).

    n is the number of values, s their sample standard deviation (divisor n - 1), and t the two-sided quantile of
    Student's t distribution with n - 1 degrees of freedom (Student, "The probable error of a mean", Biometrika 6,
    1908). The interval is exact for normally distributed values and approximate for others, for which about ten values
    suffice.
    """
    sample = np.asarray(values, np.float64)
    if len(sample) == 1:
        return Interval(float(sample[0]), math.nan)
    deviation = float(sample.std(ddof=1))
    return Interval(float(sample.mean()), student_t_quantile(len(sample) - 1) * deviation / math.sqrt(len(sample)))


def student_t_quantile(degrees_of_freedom: int) -> float:
    """The value t with P(|T| <= t) = 95 % for T distributed by Student's t, found by bisection over arctan."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halves pi / 2 down to the resolution of a float64
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _central_probability(middle, degrees_of_freedom) < CONFIDENCE_LEVEL else (low, middle)
        )
    return math.sqrt(degrees_of_freedom) * math.tan(low)


def _central_probability(angle: float, degrees_of_freedom: int) -> float:
    """P(|T| <= t) with t = sqrt(degrees_of_freedom) tan(angle).

    Computed by the finite sums 26.7.3 (odd degrees of freedom) and 26.7.4 (even) of Abramowitz and Stegun, "Handbook of
    Mathematical Functions", 1964.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees_of_freedom % 2
    term, total = cosine if is_odd else 1.0, 0.0
    for power in range(is_odd, degrees_of_freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total
