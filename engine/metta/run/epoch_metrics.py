"""What an epoch amounted to: the numbers of one line of `metrics.jsonl`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from metta.rl.rollout import BatchInfo


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch in numbers. Seconds, steps per second and when evaluations come go by the clock; all else repeats."""

    epoch: int
    """epochs done, this one included"""
    agent_step: int
    """agent steps of the run so far"""
    episodes: int
    """episodes that ended in this epoch"""
    reward: float | None
    """mean over those episodes of the mean over agents of the episode's reward; None without an episode"""
    episode_length: float | None
    """mean steps of those episodes"""
    learning_rate: float
    """in this epoch"""
    losses: dict[str, float]
    """statistics of `update_policy`"""
    gradients: dict[str, float]
    """`compute_gradient_stats` of the last minibatch"""
    stats: dict[str, float]
    """each counter of the world: mean over episodes of the mean over agents"""
    task_rewards: dict[str, float] = field(default_factory=dict)
    """`reward` for each task that was played, where the curriculum has several"""
    task_probabilities: dict[str, float] = field(default_factory=dict)
    """how often each task is drawn from now on, where the curriculum has several"""
    task_scores: dict[str, float] = field(default_factory=dict)
    """what those probabilities follow from: see the type of `[curriculum]`"""
    opponent_reward: float | None = None
    """the same for agents that frozen policies played; None without them. `reward` is that of the agents that learn"""
    weights: dict[str, float] = field(default_factory=dict)
    """`analyze_weights`, every `agent.analyze_weights_interval` epochs"""
    evaluation: dict[str, float] = field(default_factory=dict)
    """of episodes played apart from training, where one was due"""
    seconds: float = 0.0
    """of training since the run began, without evaluations, checkpoints and the pauses of a resumed run"""
    steps_per_second: float = 0.0
    """agent steps of this epoch over its seconds"""
    seconds_simulate: float = 0.0
    """of this epoch in which the policy had to wait for the worlds"""
    seconds_infer: float = 0.0
    """of this epoch in which the policy chose actions"""
    seconds_learn: float = 0.0
    """of this epoch in which the policy was updated"""


def mean(values: Sequence[float] | None) -> float | None:
    """The mean, None of nothing."""
    return sum(values) / len(values) if values else None


def rewards_by_task(batch: BatchInfo, names: Sequence[str]) -> dict[str, float]:
    """The mean reward of the episodes of each task that ended in a batch, by the task's name."""
    rewards: defaultdict[int, list[float]] = defaultdict(list)
    for task, reward in zip(batch.episode_tasks, batch.episode_returns or (), strict=True):
        rewards[task].append(reward)
    return {names[task]: sum(values) / len(values) for task, values in sorted(rewards.items())}
