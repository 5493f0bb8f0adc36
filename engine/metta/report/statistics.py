"""Statistics of runs that differ in their seed: averages, bootstrap intervals, probability of improvement.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021, arXiv:2108.13264.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metta.report.packages import from_extra

Average = Literal["mean", "iqm"]
"""`iqm`: interquartile mean, the mean without the lowest and the highest quarter of the runs (both rounded down)."""

CONFIDENCE_LEVEL: Final = 0.95
SCORE_RESAMPLES: Final = 20_000
CURVE_RESAMPLES: Final = 2_000
"""Number of bootstrap resamples for final scores and for each point of a curve."""

BATCH_VALUES: Final = 4_000_000
"""Maximum number of resampled values in memory at a time."""


class Estimate(NamedTuple):
    """Averages over runs and their 95 % intervals, each `[points] float64`."""

    average: NDArray[np.float64]
    low: NDArray[np.float64]
    """lower end of the interval, NaN for the average of a single run"""
    high: NDArray[np.float64]


class Comparison(NamedTuple):
    """The probability that a run of one group scores higher than a run of another, its 95 % interval, and a test."""

    probability: float
    low: float
    high: float
    p_value: float
    """two-sided Mann-Whitney U test of equal distributions"""


def average_over_runs(values: ArrayLike, average: Average, axis: int = 0) -> NDArray[np.float64]:
    """Mean or interquartile mean of `values` over the axis of runs."""
    array = np.asarray(values, np.float64)
    if average == "mean":
        return np.asarray(array.mean(axis))
    return np.asarray(from_extra("scipy.stats").trim_mean(array, 0.25, axis=axis))


def estimate_average(values: ArrayLike, average: Average, resamples: int = CURVE_RESAMPLES) -> Estimate:
    """Average over runs of `values [runs, points]`, with 95 % bootstrap intervals.

    The interval is from the 2.5 % to the 97.5 % quantile of the averages of `resamples` sets of as many runs, drawn
    with replacement (percentile bootstrap; a run is drawn with all of its points). NaN stands for a run without a value
    at a point; such a run is left out there, and a point without any value is NaN.
    """
    array = np.asarray(values, np.float64)
    result = Estimate(*np.full((3, array.shape[1]), np.nan))
    has_value = np.isfinite(array)
    masks, mask_of_point = np.unique(has_value, axis=1, return_inverse=True)
    for index, mask in enumerate(masks.T):
        points = np.flatnonzero(mask_of_point.ravel() == index)
        present = array[mask][:, points]
        if len(present):
            result.average[points] = average_over_runs(present, average)
        if len(present) > 1:
            result.low[points], result.high[points] = _bootstrap_interval(
                (present,), lambda sample, axis: average_over_runs(sample, average, axis), resamples
            )
    return result


def compare_scores(first: ArrayLike, second: ArrayLike) -> Comparison:
    """The probability that a run with a score of `first` improves on one with a score of `second`, both `[runs]`.

    P(X > Y) + P(X = Y) / 2 over all pairs of runs: the Mann-Whitney U statistic divided by the number of pairs. The
    interval is a stratified percentile bootstrap: the runs of each group are drawn from that group. Each group needs at
    least two runs.
    """
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    low, high = _bootstrap_interval((x, y), _fraction_of_pairs_won, SCORE_RESAMPLES)
    p_value = from_extra("scipy.stats").mannwhitneyu(x, y).pvalue
    return Comparison(float(_fraction_of_pairs_won(x, y, 0)), float(low), float(high), float(p_value))


def _fraction_of_pairs_won(x: NDArray[np.float64], y: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Fraction of pairs of a value of x and one of y in which that of x is larger; equal values count half."""
    difference = np.moveaxis(x, axis, -1)[..., :, None] - np.moveaxis(y, axis, -1)[..., None, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean((-2, -1)))


def _bootstrap_interval(
    samples: tuple[NDArray[np.float64], ...], statistic: Callable[..., NDArray[np.float64]], resamples: int
) -> tuple[Any, Any]:
    """(low, high) of the 95 % percentile bootstrap of `statistic` over axis 0. Equal samples give equal results."""
    interval = (
        from_extra("scipy.stats")
        .bootstrap(
            samples,
            statistic,
            axis=0,
            n_resamples=resamples,
            batch=max(1, BATCH_VALUES // max(1, sum(sample.size for sample in samples))),
            vectorized=True,
            confidence_level=CONFIDENCE_LEVEL,
            method="percentile",
            rng=0,
        )
        .confidence_interval
    )
    return interval.low, interval.high
