"""Task samplers: the probabilities of a curriculum's tasks, computed from the rewards of past episodes.

There is one class for each `type` of `[curriculum]`, and `make_task_sampler` selects it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metta.config.curriculum import (
    AnyCurriculum,
    CurriculumConfig,
    LearningProgressConfig,
    LowRewardConfig,
    ProgressiveConfig,
)
from metta.config.loading.curriculum_tasks import fixed_probabilities
from metta.errors import CheckpointError

Episodes = Sequence[tuple[int, float]]
"""(task index, mean reward per learner) of each episode, in the order in which they ended."""


class TaskSampler(Protocol):
    """Computes sampling probabilities of tasks from the episodes played."""

    def probabilities(self) -> NDArray[np.float64]:
        """Probability of each task at the next reset of a world, `[tasks] float64`; the sum is 1."""
        ...

    def scores(self) -> dict[int, float]:
        """The score from which the probabilities are computed, by the index of each task with an episode."""
        ...

    def update(self, episodes: Episodes, agent_steps: int) -> None:
        """Update from the episodes that ended in a batch of `agent_steps` steps, summed over agents."""
        ...

    def state(self) -> dict[str, Any]:
        """The state, as numbers and lists of numbers; restoring it resumes bit-identically."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state()` returned. Raises CheckpointError if it is invalid for these tasks."""
        ...


class FixedTaskSampler:
    """Samples tasks with constant probabilities."""

    def __init__(self, weights: Sequence[float]):
        self._probabilities = np.array(weights, np.float64) / sum(weights)

    def probabilities(self) -> NDArray[np.float64]:
        """The weights, normalized to the sum 1."""
        return self._probabilities

    def scores(self) -> dict[int, float]:
        """Empty: the probabilities do not depend on episodes."""
        return {}

    def update(self, episodes: Episodes, agent_steps: int) -> None:
        """Do nothing."""

    def state(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


class LowRewardTaskSampler:
    """Samples tasks with low rewards more often.

    The score of task i is (max a - a_i) / (max a - min a), with a_i the moving average of its reward: 1 for the lowest
    average, 0 for the highest. A task without an episode has the score 1, and so do all tasks while the averages are
    equal. p = (1 - exploration) * scores / sum(scores) + exploration / tasks.
    """

    def __init__(self, config: LowRewardConfig, num_tasks: int):
        self.config = config
        self.averages = np.full(num_tasks, np.nan)

    def probabilities(self) -> NDArray[np.float64]:
        """Proportional to the scores, mixed with the uniform distribution."""
        return _mix_with_uniform(self._scores(), self.config.exploration)

    def scores(self) -> dict[int, float]:
        """The score of each task with an episode, 0 to 1."""
        return _select(self._scores(), ~np.isnan(self.averages))

    def update(self, episodes: Episodes, agent_steps: int) -> None:
        """Update the moving averages."""
        for task, reward in episodes:
            _update_average(self.averages, task, reward, self.config.average_rate)

    def state(self) -> dict[str, Any]:
        """The moving averages; NaN for a task without an episode."""
        return {"averages": self.averages.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the moving averages."""
        self.averages = _restored(state, "averages", self.averages)

    def _scores(self) -> NDArray[np.float64]:
        scores = np.ones(len(self.averages))
        known = ~np.isnan(self.averages)
        if known.any():
            highest, lowest = self.averages[known].max(), self.averages[known].min()
            if highest > lowest:
                scores[known] = (highest - self.averages[known]) / (highest - lowest)
        return scores


class LearningProgressTaskSampler:
    """Samples tasks whose reward is rising or falling more often.

    The learning progress of task i is |fast_i - slow_i|, the absolute difference of two moving averages of its reward,
    or of its success (1 if the reward is at least `success_reward`, otherwise 0). A task with fewer than `min_episodes`
    episodes is sampled like the task with the highest learning progress.
    p = (1 - exploration) * progress / sum(progress) + exploration / tasks, or uniform while all progress is 0.
    """

    def __init__(self, config: LearningProgressConfig, num_tasks: int):
        self.config = config
        self.fast = np.full(num_tasks, np.nan)
        self.slow = np.full(num_tasks, np.nan)
        self.episodes = np.zeros(num_tasks, np.int64)

    def probabilities(self) -> NDArray[np.float64]:
        """Proportional to the learning progress, mixed with the uniform distribution."""
        progress = self._progress()
        is_measured = self.episodes >= self.config.min_episodes
        progress[~is_measured] = np.max(progress[is_measured]) if is_measured.any() else 1.0
        return _mix_with_uniform(progress, self.config.exploration)

    def scores(self) -> dict[int, float]:
        """The learning progress of each task with an episode."""
        return _select(self._progress(), self.episodes > 0)

    def update(self, episodes: Episodes, agent_steps: int) -> None:
        """Update both moving averages."""
        success_reward = self.config.success_reward
        for task, reward in episodes:
            value = reward if success_reward is None else float(reward >= success_reward)
            _update_average(self.fast, task, value, self.config.fast_rate)
            _update_average(self.slow, task, value, self.config.slow_rate)
            self.episodes[task] += 1

    def state(self) -> dict[str, Any]:
        """Both moving averages, NaN for a task without an episode, and the number of episodes of each task."""
        return {"fast": self.fast.tolist(), "slow": self.slow.tolist(), "episodes": self.episodes.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore moving averages and numbers of episodes."""
        self.fast, self.slow = _restored(state, "fast", self.fast), _restored(state, "slow", self.slow)
        self.episodes = _restored(state, "episodes", self.episodes)

    def _progress(self) -> NDArray[np.float64]:
        return np.where(self.episodes > 0, np.abs(self.fast - self.slow), 0.0)


class ProgressiveTaskSampler:
    """Samples the tasks in their given order, one at a time.

    The current task is completed when the moving average of its reward reaches the threshold, after at least
    `min_episodes` episodes, or after `agent_steps` agent steps. At most one task is completed per batch.
    """

    def __init__(self, config: ProgressiveConfig, num_tasks: int):
        self.config = config
        self.averages = np.full(num_tasks, np.nan)
        self.level = 0
        """index of the current task"""
        self.episodes = 0
        """episodes of the current task since it became current"""
        self.agent_steps = 0
        """agent steps of all tasks since the current task became current"""

    def probabilities(self) -> NDArray[np.float64]:
        """1 - `earlier_share` for the current task; `earlier_share` divided equally among the earlier tasks."""
        probabilities = np.zeros(len(self.averages))
        earlier = self.config.earlier_share if self.level else 0.0
        if self.level:
            probabilities[: self.level] = earlier / self.level
        probabilities[self.level] = 1.0 - earlier
        return probabilities

    def scores(self) -> dict[int, float]:
        """The moving average of the reward of each task with an episode; constant for completed tasks."""
        return _select(self.averages, ~np.isnan(self.averages))

    def update(self, episodes: Episodes, agent_steps: int) -> None:
        """Update the moving average of the current task; if that completes it, advance to the next task."""
        self.agent_steps += agent_steps
        for task, reward in episodes:
            if task == self.level:
                _update_average(self.averages, task, reward, self.config.average_rate)
                self.episodes += 1
        if self.level < len(self.averages) - 1 and self._is_completed():
            self.level += 1
            self.episodes = self.agent_steps = 0

    def state(self) -> dict[str, Any]:
        """Moving averages, index of the current task, and its counts."""
        return {
            "averages": self.averages.tolist(),
            "level": self.level,
            "episodes": self.episodes,
            "agent_steps": self.agent_steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore moving averages, index of the current task, and its counts."""
        self.averages = _restored(state, "averages", self.averages)
        for name, maximum in (("level", len(self.averages) - 1), ("episodes", 2**53), ("agent_steps", 2**53)):
            if type(state.get(name)) is not int or not 0 <= state[name] <= maximum:
                raise CheckpointError(f"its curriculum's {name} must be an integer from 0 to {maximum}")
        self.level, self.episodes, self.agent_steps = state["level"], state["episodes"], state["agent_steps"]

    def _is_completed(self) -> bool:
        config = self.config
        if config.agent_steps and self.agent_steps >= config.agent_steps:
            return True
        if not config.thresholds or self.episodes < config.min_episodes:
            return False
        threshold = config.thresholds[self.level if len(config.thresholds) > 1 else 0]
        return bool(self.averages[self.level] >= threshold)


def _restored(state: Mapping[str, Any], name: str, initial: NDArray[Any]) -> NDArray[Any]:
    """The list `state[name]`, one number per task, as an array with the shape and dtype of `initial`.

    Raises CheckpointError for another length or type, an infinite average (NaN is valid), or a count below 0.
    """
    numbers, is_count = state.get(name), initial.dtype.kind == "i"
    is_valid = (
        isinstance(numbers, list)
        and len(numbers) == len(initial)
        and all(type(number) is (int if is_count else float) for number in numbers)
        and not any(math.isinf(number) for number in numbers)
        and not (is_count and any(not 0 <= number <= 2**53 for number in numbers))
    )
    if not is_valid:
        raise CheckpointError(f"its curriculum's {name} must be {len(initial)} numbers, one for each task")
    return np.array(numbers, initial.dtype)


def make_task_sampler(config: AnyCurriculum, scene_of: Sequence[int]) -> TaskSampler:
    """Make the sampler of `config.type`. `scene_of [tasks]` is the scene index of each task."""
    match config:
        case LowRewardConfig():
            return LowRewardTaskSampler(config, len(scene_of))
        case LearningProgressConfig():
            return LearningProgressTaskSampler(config, len(scene_of))
        case ProgressiveConfig():
            return ProgressiveTaskSampler(config, len(scene_of))
        case CurriculumConfig():
            return FixedTaskSampler(fixed_probabilities(config, scene_of))


def _update_average(averages: NDArray[np.float64], task: int, value: float, rate: float) -> None:
    """Update a task's exponential moving average in place; the first value replaces NaN."""
    average = averages[task]
    averages[task] = value if np.isnan(average) else average + rate * (value - average)


def _mix_with_uniform(scores: NDArray[np.float64], exploration: float) -> NDArray[np.float64]:
    """(1 - exploration) * scores / sum(scores) + exploration / tasks; uniform if all scores are 0."""
    uniform = np.full(len(scores), 1.0 / len(scores))
    total = scores.sum()
    return exploration * uniform + (1.0 - exploration) * (scores / total if total > 0 else uniform)


def _select(scores: NDArray[np.float64], is_selected: NDArray[np.bool_]) -> dict[int, float]:
    return {task: float(scores[task]) for task in is_selected.nonzero()[0].tolist()}
