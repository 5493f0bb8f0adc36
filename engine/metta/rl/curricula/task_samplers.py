"""Task samplers: the probabilities of a curriculum's tasks, computed from the rewards of the episodes so far.

One class for each type of `[curriculum]`. Their states are numbers and lists of numbers, from which a run resumes
exactly.
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
"""(task, reward) of each episode, in the order they ended."""


class TaskSampler(Protocol):
    """Sampling probabilities of tasks that follow the episodes played."""

    def probabilities(self) -> NDArray[np.float64]:
        """`[tasks]`, sum 1: the probability of each task at the next reset."""
        ...

    def scores(self) -> dict[int, float]:
        """The quantity that the probabilities depend on, by task; without tasks that have no episode yet."""
        ...

    def update(self, episodes: Episodes, agent_steps: int) -> None:
        """Update from the episodes that ended in a batch of `agent_steps` agent steps."""
        ...

    def state(self) -> dict[str, Any]:
        """The state, in numbers and lists of numbers."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state()` returned. Raises CheckpointError if it does not fit the tasks."""
        ...


class FixedTaskSampler:
    """Probabilities that never change."""

    def __init__(self, weights: Sequence[float]):
        self._probabilities = np.array(weights, np.float64) / sum(weights)

    def probabilities(self) -> NDArray[np.float64]:
        """The weights, normalized."""
        return self._probabilities

    def scores(self) -> dict[int, float]:
        """Empty: the probabilities depend on nothing."""
        return {}

    def update(self, episodes: Episodes, agent_steps: int) -> None:
        """Do nothing."""

    def state(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


class LowRewardTaskSampler:
    """Samples tasks of low reward more often.

    With a_i the moving average of task i's reward, its score is (max a - a_i) / (max a - min a): 1 for the lowest
    average and 0 for the highest; 1 also for a task without an episode, and for all tasks while averages are equal.
    Probabilities are proportional to scores, mixed with the uniform distribution by `exploration`.
    """

    def __init__(self, config: LowRewardConfig, num_tasks: int):
        self.config = config
        self.averages = np.full(num_tasks, np.nan)

    def probabilities(self) -> NDArray[np.float64]:
        """Proportional to the scores, with exploration."""
        return _mix_with_uniform(self._scores(), self.config.exploration)

    def scores(self) -> dict[int, float]:
        """The score of each task that has an episode, 0 to 1."""
        return _select(self._scores(), ~np.isnan(self.averages))

    def update(self, episodes: Episodes, agent_steps: int) -> None:
        """Update the averages."""
        for task, reward in episodes:
            _update_average(self.averages, task, reward, self.config.average_rate)

    def state(self) -> dict[str, Any]:
        """The averages; NaN for a task without an episode."""
        return {"averages": self.averages.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the averages."""
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
    """Samples tasks whose reward changes, in either direction, more often.

    Learning progress of task i is |f_i - s_i|, the difference of a fast and a slow moving average of its reward (or
    success). A task with fewer than `min_episodes` episodes counts with the highest learning progress of the others.
    Probabilities are proportional to learning progress, or uniform while all of it is 0, mixed with the uniform
    distribution by `exploration`.
    """

    def __init__(self, config: LearningProgressConfig, num_tasks: int):
        self.config = config
        self.fast = np.full(num_tasks, np.nan)
        self.slow = np.full(num_tasks, np.nan)
        self.episodes = np.zeros(num_tasks, np.int64)

    def probabilities(self) -> NDArray[np.float64]:
        """Proportional to learning progress, with exploration."""
        progress = self._progress()
        is_measured = self.episodes >= self.config.min_episodes
        progress[~is_measured] = progress[is_measured].max() if is_measured.any() else 1.0
        return _mix_with_uniform(progress, self.config.exploration)

    def scores(self) -> dict[int, float]:
        """Learning progress of each task that has an episode."""
        return _select(self._progress(), self.episodes > 0)

    def update(self, episodes: Episodes, agent_steps: int) -> None:
        """Update both averages."""
        success_reward = self.config.success_reward
        for task, reward in episodes:
            value = reward if success_reward is None else float(reward >= success_reward)
            _update_average(self.fast, task, value, self.config.fast_rate)
            _update_average(self.slow, task, value, self.config.slow_rate)
            self.episodes[task] += 1

    def state(self) -> dict[str, Any]:
        """Both averages, NaN for a task without an episode, and the number of episodes."""
        return {"fast": self.fast.tolist(), "slow": self.slow.tolist(), "episodes": self.episodes.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore averages and counts."""
        self.fast, self.slow = _restored(state, "fast", self.fast), _restored(state, "slow", self.slow)
        self.episodes = _restored(state, "episodes", self.episodes)

    def _progress(self) -> NDArray[np.float64]:
        return np.where(self.episodes > 0, np.abs(self.fast - self.slow), 0.0)


class ProgressiveTaskSampler:
    """Samples one task after the other: the next one when the moving average of the reward reaches the threshold.

    Or after `agent_steps`. Only episodes of the current task count, not those of earlier tasks. At most one task is
    completed per batch.
    """

    def __init__(self, config: ProgressiveConfig, num_tasks: int):
        self.config = config
        self.averages = np.full(num_tasks, np.nan)
        self.level = 0
        """index of the current task"""
        self.episodes = 0
        """of the current task, since it is the current one"""
        self.agent_steps = 0
        """since it is the current one"""

    def probabilities(self) -> NDArray[np.float64]:
        """1 - `earlier_share` for the current task, the rest equally for the earlier ones."""
        probabilities = np.zeros(len(self.averages))
        earlier = self.config.earlier_share if self.level else 0.0
        if self.level:
            probabilities[: self.level] = earlier / self.level
        probabilities[self.level] = 1.0 - earlier
        return probabilities

    def scores(self) -> dict[int, float]:
        """The moving average of the reward of each task up to the current one; an earlier one's does not change."""
        return _select(self.averages, ~np.isnan(self.averages))

    def update(self, episodes: Episodes, agent_steps: int) -> None:
        """Update the average of the current task, and move to the next if it is completed."""
        self.agent_steps += agent_steps
        for task, reward in episodes:
            if task == self.level:
                _update_average(self.averages, task, reward, self.config.average_rate)
                self.episodes += 1
        if self.level < len(self.averages) - 1 and self._is_completed():
            self.level += 1
            self.episodes = self.agent_steps = 0

    def state(self) -> dict[str, Any]:
        """Averages, current task and counts."""
        return {
            "averages": self.averages.tolist(),
            "level": self.level,
            "episodes": self.episodes,
            "agent_steps": self.agent_steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore averages, current task and counts."""
        self.averages = _restored(state, "averages", self.averages)
        for name, most in (("level", len(self.averages) - 1), ("episodes", 2**53), ("agent_steps", 2**53)):
            if type(state.get(name)) is not int or not 0 <= state[name] <= most:
                raise CheckpointError(f"its curriculum's {name} must be an integer from 0 to {most}")
        self.level, self.episodes, self.agent_steps = state["level"], state["episodes"], state["agent_steps"]

    def _is_completed(self) -> bool:
        config = self.config
        if config.agent_steps and self.agent_steps >= config.agent_steps:
            return True
        if not config.thresholds or self.episodes < config.min_episodes:
            return False
        threshold = config.thresholds[self.level if len(config.thresholds) > 1 else 0]
        return bool(self.averages[self.level] >= threshold)


def _restored(state: Mapping[str, Any], name: str, fresh: NDArray[Any]) -> NDArray[Any]:
    """The numbers `state[name]` of all tasks, as an array like `fresh`. Raises CheckpointError if they do not fit.

    Averages may be NaN; counts are at least 0.
    """
    numbers, is_count = state.get(name), fresh.dtype.kind == "i"
    is_valid = (
        isinstance(numbers, list)
        and len(numbers) == len(fresh)
        and all(type(number) is (int if is_count else float) for number in numbers)
        and not any(math.isinf(number) for number in numbers)
        and not (is_count and any(not 0 <= number <= 2**53 for number in numbers))
    )
    if not is_valid:
        raise CheckpointError(f"its curriculum's {name} must be {len(fresh)} numbers, one for each task")
    return np.array(numbers, fresh.dtype)


def make_task_sampler(config: AnyCurriculum, scene_of: Sequence[int]) -> TaskSampler:
    """The sampler of `config.type`. `scene_of [tasks]` is the index of the scene that each task is made of."""
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
    """Update a task's exponential moving average in place; the first value initializes it."""
    old = averages[task]
    averages[task] = value if np.isnan(old) else old + rate * (value - old)


def _mix_with_uniform(scores: NDArray[np.float64], exploration: float) -> NDArray[np.float64]:
    """(1 - exploration) times probabilities proportional to `scores >= 0`, plus exploration times uniform ones.

    Uniform while all scores are 0.
    """
    uniform = np.full(len(scores), 1.0 / len(scores))
    total = scores.sum()
    return exploration * uniform + (1.0 - exploration) * (scores / total if total > 0 else uniform)


def _select(scores: NDArray[np.float64], is_selected: NDArray[np.bool_]) -> dict[int, float]:
    return {task: float(scores[task]) for task in is_selected.nonzero()[0].tolist()}
