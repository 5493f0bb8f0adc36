"""How tasks are drawn: what is known of each so far, and the probabilities that follow from it.

Plain arithmetic on the rewards of episodes in the order they ended; its state is lists of numbers, so that a run goes
on exactly where it stopped.
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
from metta.config.loading.curriculum_tasks import fixed_weights
from metta.errors import CheckpointError

Episodes = Sequence[tuple[int, float]]
"""(task, reward) of each episode, in the order they ended."""


class TaskSampler(Protocol):
    """What decides how often each task is drawn."""

    def probabilities(self) -> NDArray[np.float64]:
        """`[tasks]`, sum 1: how often each is drawn from now on."""
        ...

    def scores(self) -> dict[int, float]:
        """What the probabilities follow from, by task; none for a task of which nothing is known."""
        ...

    def learn(self, episodes: Episodes, agent_steps: int) -> None:
        """Take in the episodes that ended in a batch of so many agent steps."""
        ...

    def state(self) -> dict[str, Any]:
        """All that changes, in numbers and lists of numbers."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state()` was taken."""
        ...


class FixedTaskSampler:
    """Probabilities that never change."""

    def __init__(self, weights: Sequence[float]):
        self._probabilities = np.array(weights, np.float64) / sum(weights)

    def probabilities(self) -> NDArray[np.float64]:
        """The weights, as shares of 1."""
        return self._probabilities

    def scores(self) -> dict[int, float]:
        """None: nothing is measured."""
        return {}

    def learn(self, episodes: Episodes, agent_steps: int) -> None:
        """Nothing follows from episodes."""

    def state(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing has changed."""


class LowRewardTaskSampler:
    """The tasks of lowest reward most often.

    With a_i the moving average of task i's reward, its score is (max a - a_i) / (max a - min a): 1 for the worst task
    and 0 for the best; 1 also for a task that was not played yet, and for all while they are alike. Probabilities are
    proportional to scores, but for `exploration`, a share that is spread evenly.
    """

    def __init__(self, config: LowRewardConfig, num_tasks: int):
        self.config = config
        self.averages = np.full(num_tasks, np.nan)

    def probabilities(self) -> NDArray[np.float64]:
        """By scores."""
        return _mixed(self._scores(), self.config.exploration)

    def scores(self) -> dict[int, float]:
        """Of the tasks that were played: how far behind the best, 0 to 1."""
        return _known(self._scores(), ~np.isnan(self.averages))

    def learn(self, episodes: Episodes, agent_steps: int) -> None:
        """Move the averages."""
        for task, reward in episodes:
            _move(self.averages, task, reward, self.config.average_rate)

    def state(self) -> dict[str, Any]:
        """The averages."""
        return {"averages": self.averages.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The averages."""
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
    """The tasks whose reward changes most, most often, be it for better or worse.

    Learning progress of task i is |f_i - s_i|, the distance between a fast and a slow moving average of its episodes'
    reward (or success). Until it has had `min_episodes`, a task counts as the one with the most progress. Probabilities
    are proportional to progress, even while there is none, but for `exploration`, a share that is spread evenly.
    """

    def __init__(self, config: LearningProgressConfig, num_tasks: int):
        self.config = config
        self.fast = np.full(num_tasks, np.nan)
        self.slow = np.full(num_tasks, np.nan)
        self.episodes = np.zeros(num_tasks, np.int64)

    def probabilities(self) -> NDArray[np.float64]:
        """By learning progress."""
        scores = self._progress()
        judged = self.episodes >= self.config.min_episodes
        scores[~judged] = scores[judged].max() if judged.any() else 1.0
        return _mixed(scores, self.config.exploration)

    def scores(self) -> dict[int, float]:
        """Learning progress of the tasks that were played."""
        return _known(self._progress(), self.episodes > 0)

    def learn(self, episodes: Episodes, agent_steps: int) -> None:
        """Move both averages."""
        for task, reward in episodes:
            success = self.config.success_reward
            worth = reward if success is None else float(reward >= success)
            _move(self.fast, task, worth, self.config.fast_rate)
            _move(self.slow, task, worth, self.config.slow_rate)
            self.episodes[task] += 1

    def state(self) -> dict[str, Any]:
        """Both averages, and how many episodes they are of."""
        return {"fast": self.fast.tolist(), "slow": self.slow.tolist(), "episodes": self.episodes.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The same."""
        self.fast, self.slow = _restored(state, "fast", self.fast), _restored(state, "slow", self.slow)
        self.episodes = _restored(state, "episodes", self.episodes)

    def _progress(self) -> NDArray[np.float64]:
        return np.where(self.episodes > 0, np.abs(self.fast - self.slow), 0.0)


class ProgressiveTaskSampler:
    """One task after the other: the next when the moving average of this one's reward gets to its threshold.

    Or after `agent_steps`. Episodes of other tasks, begun before or drawn by `earlier_share`, do not count. At most
    one task is left behind in a batch.
    """

    def __init__(self, config: ProgressiveConfig, num_tasks: int):
        self.config = config
        self.averages = np.full(num_tasks, np.nan)
        self.level = 0
        """the task that is being learned"""
        self.episodes = 0
        """of that task"""
        self.agent_steps = 0
        """since it became that task"""

    def probabilities(self) -> NDArray[np.float64]:
        """The task being learned, and `earlier_share` for those before it."""
        probabilities = np.zeros(len(self.averages))
        earlier = self.config.earlier_share if self.level else 0.0
        if self.level:
            probabilities[: self.level] = earlier / self.level
        probabilities[self.level] = 1.0 - earlier
        return probabilities

    def scores(self) -> dict[int, float]:
        """The moving average of the reward of each task up to the one being learned, as it was when it was left."""
        return _known(self.averages, ~np.isnan(self.averages))

    def learn(self, episodes: Episodes, agent_steps: int) -> None:
        """Judge the task being learned, and go on to the next if it is done."""
        self.agent_steps += agent_steps
        for task, reward in episodes:
            if task == self.level:
                _move(self.averages, task, reward, self.config.average_rate)
                self.episodes += 1
        if self.level < len(self.averages) - 1 and self._is_done():
            self.level += 1
            self.episodes = self.agent_steps = 0

    def state(self) -> dict[str, Any]:
        """Where it stands."""
        return {
            "averages": self.averages.tolist(),
            "level": self.level,
            "episodes": self.episodes,
            "agent_steps": self.agent_steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The same."""
        self.averages = _restored(state, "averages", self.averages)
        for name, most in (("level", len(self.averages) - 1), ("episodes", 2**53), ("agent_steps", 2**53)):
            if type(state.get(name)) is not int or not 0 <= state[name] <= most:
                raise CheckpointError(f"its curriculum's {name} must be an integer from 0 to {most}")
        self.level, self.episodes, self.agent_steps = state["level"], state["episodes"], state["agent_steps"]

    def _is_done(self) -> bool:
        config = self.config
        if config.agent_steps and self.agent_steps >= config.agent_steps:
            return True
        if not config.thresholds or self.episodes < config.min_episodes:
            return False
        threshold = config.thresholds[self.level if len(config.thresholds) > 1 else 0]
        return bool(self.averages[self.level] >= threshold)


def _restored(state: Mapping[str, Any], name: str, fresh: NDArray[Any]) -> NDArray[Any]:
    """The saved numbers of all tasks, in place of `fresh`. Raises CheckpointError where they are others.

    NaN stands for a task that was not played yet; counts are at least 0.
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
    """How the curriculum draws tasks that are made of these scenes."""
    match config:
        case LowRewardConfig():
            return LowRewardTaskSampler(config, len(scene_of))
        case LearningProgressConfig():
            return LearningProgressTaskSampler(config, len(scene_of))
        case ProgressiveConfig():
            return ProgressiveTaskSampler(config, len(scene_of))
        case CurriculumConfig():
            return FixedTaskSampler(fixed_weights(config, scene_of))


def _move(averages: NDArray[np.float64], task: int, value: float, rate: float) -> None:
    """A step of a moving average towards a value; the first value is where it begins."""
    old = averages[task]
    averages[task] = value if np.isnan(old) else old + rate * (value - old)


def _mixed(scores: NDArray[np.float64], exploration: float) -> NDArray[np.float64]:
    """Probabilities by scores from 0, but for a share that is spread evenly; all of it while no score is above 0."""
    even = np.full(len(scores), 1.0 / len(scores))
    total = scores.sum()
    return exploration * even + (1.0 - exploration) * (scores / total if total > 0 else even)


def _known(scores: NDArray[np.float64], is_known: NDArray[np.bool_]) -> dict[int, float]:
    return {task: float(scores[task]) for task in is_known.nonzero()[0].tolist()}
