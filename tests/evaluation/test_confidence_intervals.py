"""Confidence intervals: hand-worked numbers, printed tables, and how often they contain the mean."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metta.evaluation.confidence_intervals import mean_interval, student_t_quantile
from metta.evaluation.evaluate import evaluate


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.706205),
        (2, 4.302653),
        (3, 3.182446),
        (4, 2.776445),
        (5, 2.570582),
        (9, 2.262157),
        (10, 2.228139),
        (19, 2.093024),
        (30, 2.042272),
        (120, 1.979930),
        (10_000, 1.960201),
    ],
)
def test_quantiles_are_those_of_printed_tables(freedom, quantile):
    assert student_t_quantile(freedom) == pytest.approx(quantile, abs=1e-6)


def test_an_interval_worked_by_hand():
    """1 ... 5: mean 3, squares around it 10, s = sqrt(10 / 4), and 2.776445 s / sqrt(5) = 1.963243."""
    interval = mean_interval([1, 2, 3, 4, 5])
    assert interval.mean == 3
    assert interval.half_width == pytest.approx(1.963243, abs=1e-6)
    assert (interval.low, interval.high) == pytest.approx((1.036757, 4.963243), abs=1e-6)


def test_the_interval_of_equal_values_is_empty_and_that_of_one_value_is_nan():
    assert mean_interval([2.5] * 4).half_width == 0
    assert mean_interval([2.5]).mean == 2.5
    assert math.isnan(mean_interval([2.5]).half_width)


def test_ninety_five_of_a_hundred_hold_the_mean():
    """4,000 intervals of 8 normal values: 95 % within four standard errors, sqrt(0.95 x 0.05 / 4000) = 0.0034."""
    draws = np.random.default_rng(0).normal(7.0, 2.0, size=(4_000, 8))
    held = [interval.low <= 7.0 <= interval.high for interval in map(mean_interval, draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=4 * 0.0034)


def test_an_evaluation_has_the_interval_of_its_episodes(busy_env, set_up):
    agent, _ = set_up()
    result = evaluate(agent, busy_env, num_episodes=6)
    interval = result.reward_interval
    assert interval.mean == result.mean_reward
    # std_reward divides by n, the interval by n - 1
    assert interval.half_width == pytest.approx(2.570582 * result.std_reward / math.sqrt(5), rel=1e-5)
