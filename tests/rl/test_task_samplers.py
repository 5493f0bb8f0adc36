"""Task samplers: probabilities against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from metta.config.curriculum import CurriculumConfig, LearningProgressConfig, LowRewardConfig, ProgressiveConfig
from metta.rl.curricula.task_samplers import (
    LearningProgressTaskSampler,
    LowRewardTaskSampler,
    ProgressiveTaskSampler,
    TaskSampler,
    make_task_sampler,
)


def low_reward(tasks: int = 3, **settings: Any) -> LowRewardTaskSampler:
    return LowRewardTaskSampler(LowRewardConfig.model_validate({"type": "low_reward"} | settings), tasks)


def learning_progress(tasks: int = 2, **settings: Any) -> LearningProgressTaskSampler:
    config = LearningProgressConfig.model_validate({"type": "learning_progress", "min_episodes": 1} | settings)
    return LearningProgressTaskSampler(config, tasks)


def progressive(tasks: int = 3, **settings: Any) -> ProgressiveTaskSampler:
    return ProgressiveTaskSampler(ProgressiveConfig.model_validate({"type": "progressive"} | settings), tasks)


def assert_draws(sampler: TaskSampler, *probabilities: float) -> None:
    np.testing.assert_allclose(sampler.probabilities(), probabilities, rtol=1e-12)


def test_fixed_divides_a_scenes_weight_equally_among_its_tasks() -> None:
    sampler = make_task_sampler(CurriculumConfig(scenes=["a", "b"], weights=[1, 3]), (0, 0, 1, 1, 1))
    assert_draws(sampler, 1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4)
    sampler.update([(0, 100.0)], 1000)
    assert_draws(sampler, 1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4)
    assert sampler.scores() == {}
    assert_draws(make_task_sampler(CurriculumConfig(), (0,)), 1.0)


def test_low_reward_samples_the_task_of_lowest_reward_most() -> None:
    sampler = low_reward(exploration=0.1, average_rate=0.5)
    assert_draws(sampler, 1 / 3, 1 / 3, 1 / 3)
    sampler.update([(0, 4.0), (1, 0.0), (0, 2.0), (2, 1.0)], 0)
    # averages 3, 0, 1; scores 0, 1, 2/3 with the sum 5/3; 0.9 by score and 0.1 uniform
    assert sampler.scores() == pytest.approx({0: 0.0, 1: 1.0, 2: 2 / 3})
    assert_draws(sampler, 0.1 / 3, 0.9 * 3 / 5 + 0.1 / 3, 0.9 * 2 / 5 + 0.1 / 3)


def test_low_reward_treats_a_task_without_an_episode_as_the_lowest() -> None:
    sampler = low_reward(exploration=0.0)
    sampler.update([(0, 4.0), (2, 1.0)], 0)
    assert_draws(sampler, 0.0, 0.5, 0.5)
    assert set(sampler.scores()) == {0, 2}


def test_low_reward_updates_averages_with_the_rate() -> None:
    sampler = low_reward(average_rate=0.1)
    sampler.update([(0, 1.0), (0, 2.0), (0, 2.0)], 0)
    assert sampler.averages[0] == pytest.approx(1 + 0.1 + 0.09)


def test_learning_progress_is_the_difference_of_two_averages() -> None:
    sampler = learning_progress(fast_rate=0.5, slow_rate=0.25, exploration=0.2)
    sampler.update([(0, 0.0), (1, 1.0)], 0)
    assert_draws(sampler, 0.5, 0.5)  # nothing has changed yet
    sampler.update([(0, 1.0), (0, 1.0), (1, 0.0)], 0)
    # task 0: fast 3/4, slow 7/16, difference 5/16; task 1, whose reward fell: fast 1/2, slow 3/4, difference 1/4
    assert sampler.scores() == pytest.approx({0: 5 / 16, 1: 1 / 4})
    assert_draws(sampler, 0.8 * 5 / 9 + 0.1, 0.8 * 4 / 9 + 0.1)


def test_learning_progress_is_equal_until_tasks_are_measured() -> None:
    sampler = learning_progress(3, fast_rate=0.5, slow_rate=0.25, exploration=0.0, min_episodes=2)
    sampler.update([(0, 0.0), (0, 4.0), (1, 7.0)], 0)
    assert sampler.scores() == pytest.approx({0: 1.0, 1: 0.0})
    assert_draws(sampler, 1 / 3, 1 / 3, 1 / 3)  # tasks 1 and 2 are sampled like the task of highest progress
    sampler.update([(1, 8.0), (2, 0.0), (2, 0.0)], 0)
    assert_draws(sampler, 0.8, 0.2, 0.0)


def test_a_task_with_few_episodes_has_the_highest_learning_progress() -> None:
    """Not the progress of the task with the highest reward, which is constant, nor its current progress."""
    sampler = learning_progress(4, fast_rate=0.5, slow_rate=0.25, exploration=0.0, min_episodes=3)
    still, improving = [(0, 9.0)] * 3, [(1, 0.0), (1, 0.0), (1, 4.0)]
    few = [(2, 0.0), (2, 2.0)]  # progress 0.5; task 3 has no episode
    sampler.update(still + improving + few, 0)
    assert sampler.scores() == pytest.approx({0: 0.0, 1: 1.0, 2: 0.5})
    assert_draws(sampler, 0, 1 / 3, 1 / 3, 1 / 3)
    sampler.update([(2, 2.0), (3, 0.0)], 0)  # task 2: fast 0, 1, 3/2; slow 0, 1/2, 7/8
    assert_draws(sampler, 0, 1 / 2.625, 0.625 / 2.625, 1 / 2.625)


def test_success_reward_measures_the_fraction_of_successful_episodes() -> None:
    sampler = learning_progress(fast_rate=0.5, slow_rate=0.25, success_reward=3.0)
    sampler.update([(0, 2.9), (0, 3.0), (1, 1.0), (1, 2.5)], 0)
    assert sampler.scores() == pytest.approx({0: 0.25, 1: 0.0})


def test_progressive_advances_when_the_threshold_is_reached() -> None:
    sampler = progressive(thresholds=[2.0], min_episodes=2, average_rate=0.5)
    assert_draws(sampler, 1, 0, 0)
    sampler.update([(0, 5.0)], 100)
    assert_draws(sampler, 1, 0, 0)  # one episode is not enough
    sampler.update([(0, 1.0), (1, 9.0)], 100)
    assert_draws(sampler, 0, 1, 0)  # the average is 3
    sampler.update([(0, 9.0), (0, 9.0), (1, 1.0), (1, 2.9)], 100)
    assert_draws(sampler, 0, 1, 0)  # average 1.95; episodes of earlier tasks do not count
    sampler.update([(1, 2.1)], 100)
    assert_draws(sampler, 0, 0, 1)
    assert sampler.scores() == pytest.approx({0: 3.0, 1: 2.025})
    sampler.update([(2, 9.0)] * 9, 100)
    assert_draws(sampler, 0, 0, 1)  # the last task


def test_progressive_can_have_a_threshold_for_each_task() -> None:
    sampler = progressive(thresholds=[1.0, 5.0], min_episodes=1)
    sampler.update([(0, 2.0)], 0)
    sampler.update([(1, 2.0)], 0)
    assert_draws(sampler, 0, 1, 0)


def test_progressive_advances_after_agent_steps() -> None:
    sampler = progressive(agent_steps=250)
    for expected in (0, 0, 0, 1, 1, 1, 2, 2, 2, 2):
        assert sampler.level == expected
        sampler.update([], 100)


def test_progressive_can_keep_playing_earlier_tasks() -> None:
    sampler = progressive(agent_steps=1, earlier_share=0.3)
    assert_draws(sampler, 1, 0, 0)
    sampler.update([], 1)
    assert_draws(sampler, 0.3, 0.7, 0)
    sampler.update([], 1)
    assert_draws(sampler, 0.15, 0.15, 0.7)


@pytest.mark.parametrize(
    "config",
    [
        LowRewardConfig(type="low_reward"),
        LearningProgressConfig(type="learning_progress", min_episodes=3),
        ProgressiveConfig(type="progressive", thresholds=[0.0], min_episodes=4),
    ],
    ids=lambda config: config.type,
)
def test_a_restored_sampler_continues_exactly(
    config: LowRewardConfig | LearningProgressConfig | ProgressiveConfig,
) -> None:
    generator = np.random.default_rng(0)
    episodes = [(int(generator.integers(3)), float(generator.normal())) for _ in range(60)]
    straight, resumed = make_task_sampler(config, (0, 0, 1, 2)), make_task_sampler(config, (0, 0, 1, 2))
    straight.update(episodes[:25], 10)
    resumed.load_state(straight.state())
    for sampler in (straight, resumed):
        assert math.isclose(sampler.probabilities().sum(), 1.0)
        sampler.update(episodes[25:], 10)
    assert straight.probabilities().tolist() == resumed.probabilities().tolist()
    assert repr(straight.state()) == repr(resumed.state())
    assert straight.scores() == resumed.scores() != {}
