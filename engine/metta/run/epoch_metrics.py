"""Metrics of an epoch: the values of one line of `metrics.jsonl`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from metta.evaluation.evaluate import EvalResult
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.optimizer import compute_gradient_stats
from metta.rl.rollout import BatchInfo
from metta.run.learners.learner import Learner

POLICY_KEYS = ("reward", "opponent_reward", "learning_rate")
"""Metrics at the top level of a line that each policy with a name has too, such as `reward/hunters`."""


@dataclass(frozen=True)
class EpochProgress:
    """Progress of a run after an epoch, and the duration of the epoch."""

    epoch: int
    """epochs done"""
    agent_step: int
    """agent steps of the run so far"""
    learning_rates: dict[str, float]
    """learning rate of this epoch of each policy"""
    seconds: float
    """seconds of training since the run started"""
    seconds_collect: float
    """seconds of this epoch in which the batch was collected"""
    seconds_learn: float
    """seconds of this epoch in which the policy was updated"""
    batch: BatchInfo
    """statistics of the epoch's batch, of all policies in training together"""


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of one epoch. Seconds, steps per second and whether an evaluation was due vary between identical runs.

    Of a policy with a name, `losses`, `gradients` and `weights` have the name before each key: `hunters/entropy`.
    """

    epoch: int
    """epochs done, this one included"""
    agent_step: int
    """agent steps of the run so far"""
    episodes: int
    """episodes that ended in this epoch"""
    reward: float | None
    """mean over those episodes of the mean over agents of the episode's reward; None without an episode. The agents are
    those from whose steps a policy learns"""
    episode_length: float | None
    """mean length of those episodes, in steps; None without an episode"""
    learning_rate: float | None
    """learning rate of this epoch; None with `[policies]`, see `learning_rates`"""
    losses: dict[str, float]
    """statistics of `update_policy`"""
    gradients: dict[str, float]
    """`compute_gradient_stats` of the last minibatch"""
    stats: dict[str, float]
    """each counter of the environment: mean over episodes of the mean over agents"""
    reward_terms: dict[str, float] = field(default_factory=dict)
    """sum of each custom reward over an episode, times its weight: mean over episodes of the mean over agents"""
    task_rewards: dict[str, float] = field(default_factory=dict)
    """`reward` of each task with an episode that ended in this epoch, where the curriculum has several"""
    task_probabilities: dict[str, float] = field(default_factory=dict)
    """probability of each task after this epoch, where the curriculum has several"""
    task_scores: dict[str, float] = field(default_factory=dict)
    """score of each task, from which its probability follows; depends on `curriculum.type`"""
    opponent_reward: float | None = None
    """`reward` of the agents that opponents of self-play controlled; None without them"""
    rewards: dict[str, float | None] = field(default_factory=dict)
    """`reward` of the agents of each policy with a name, frozen ones included"""
    opponent_rewards: dict[str, float | None] = field(default_factory=dict)
    """`opponent_reward` of each policy with a name and opponents"""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """`learning_rate` of each policy with a name"""
    weights: dict[str, float] = field(default_factory=dict)
    """`analyze_weights`, every `agent.analyze_weights_interval` epochs"""
    evaluation: dict[str, float] = field(default_factory=dict)
    """`evaluation_metrics` of `TrainingRun.evaluate` after this epoch; empty if no evaluation was due"""
    seconds: float = 0.0
    """seconds of training since the run started, without evaluations, checkpoints and the time between resumes"""
    steps_per_second: float = 0.0
    """agent steps of this epoch divided by its seconds"""
    seconds_simulate: float = 0.0
    """seconds of this epoch in which the policy waited for the environments"""
    seconds_infer: float = 0.0
    """seconds of this epoch in which the policy computed actions"""
    seconds_learn: float = 0.0
    """seconds of this epoch in which the policy was updated"""

    def line(self) -> dict[str, Any]:
        """The metrics as a line of `metrics.jsonl`: the reward of the policy `hunters` is `reward/hunters`."""
        values = asdict(self)
        for key in POLICY_KEYS:
            values |= {f"{key}/{name}": value for name, value in values.pop(f"{key}s").items()}
        return values

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Self:
        """The metrics of a line of `metrics.jsonl`; unknown entries, of other versions, are left out."""
        known = {entry.name for entry in fields(cls)}
        values = {key: value for key, value in line.items() if key in known}
        for key in POLICY_KEYS:
            prefix = f"{key}/"
            values[f"{key}s"] = {name.removeprefix(prefix): line[name] for name in line if name.startswith(prefix)}
        return cls(**values)


def epoch_metrics(
    progress: EpochProgress,
    batches: Mapping[str, BatchInfo],
    losses: Mapping[str, Mapping[str, float]],
    learners: Mapping[str, Learner],
    curriculum: Curriculum,
) -> EpochMetrics:
    """Compute the metrics of the epoch that collected `batches`. Learners and curriculum are read after it."""
    has_tasks = len(curriculum.names) > 1
    batch, rates = progress.batch, progress.learning_rates
    named = {name: each for name, each in batches.items() if name}
    return EpochMetrics(
        epoch=progress.epoch,
        agent_step=progress.agent_step,
        episodes=len(batch.episode_returns or ()),
        reward=_mean(batch.episode_returns),
        opponent_reward=_mean(batch.opponent_returns),
        rewards={name: _mean(each.episode_returns) for name, each in named.items()},
        opponent_rewards={
            name: _mean(named[name].opponent_returns)
            for name, learner in learners.items()
            if name and learner.opponents is not None
        },
        episode_length=_mean(batch.episode_lengths),
        learning_rate=rates.get(""),
        learning_rates={name: rate for name, rate in rates.items() if name},
        losses=_by_name(losses),
        gradients=_by_name({name: compute_gradient_stats(learner.agent) for name, learner in learners.items()}),
        stats=batch.stats,
        reward_terms=batch.reward_terms,
        task_rewards=_task_rewards(batch, curriculum.names) if has_tasks else {},
        task_probabilities=curriculum.probabilities if has_tasks else {},
        task_scores=curriculum.scores if has_tasks else {},
        weights=_by_name({name: learner.analyze_weights(progress.epoch) for name, learner in learners.items()}),
        seconds=progress.seconds,
        steps_per_second=batch.total_env_steps / (progress.seconds_collect + progress.seconds_learn),
        seconds_simulate=max(0.0, progress.seconds_collect - batch.seconds_infer),
        seconds_infer=batch.seconds_infer,
        seconds_learn=progress.seconds_learn,
    )


def evaluation_metrics(result: EvalResult) -> dict[str, float]:
    """The metrics of an evaluation: of all agents, and the mean reward of each policy with a name."""
    own = {f"{name}/mean_reward": interval.mean for name, interval in result.policy_intervals.items() if name}
    return result.summary() | own


def _by_name(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Values of policies, with the name of the policy before each key; those of a policy without a name as they are."""
    return {f"{name}/{key}" if name else key: value for name, own in values.items() for key, value in own.items()}


def _mean(values: Sequence[float] | None) -> float | None:
    """The mean; None without values."""
    return sum(values) / len(values) if values else None


def _task_rewards(batch: BatchInfo, names: Sequence[str]) -> dict[str, float]:
    """Mean reward of the episodes that ended in a batch, by task name."""
    rewards: defaultdict[int, list[float]] = defaultdict(list)
    for task, reward in zip(batch.episode_tasks, batch.episode_returns or (), strict=True):
        rewards[task].append(reward)
    return {names[task]: sum(values) / len(values) for task, values in sorted(rewards.items())}
