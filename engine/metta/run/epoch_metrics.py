"""Metrics of an epoch: the values of one line of `metrics.jsonl`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from metta.agent.policy import MettaAgent
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.experience import Experience
from metta.rl.optimizer import compute_gradient_stats
from metta.rl.rollout import BatchInfo
from metta.rl.weight_analysis import analyze_weights


@dataclass(frozen=True)
class EpochProgress:
    """Progress of a run after an epoch, and the duration of the epoch."""

    epoch: int
    """epochs done"""
    agent_step: int
    """agent steps of the run so far"""
    learning_rate: float
    """learning rate of this epoch"""
    seconds: float
    """seconds of training since the run started"""
    seconds_collect: float
    """seconds of this epoch in which the batch was collected"""
    seconds_learn: float
    """seconds of this epoch in which the policy was updated"""


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of one epoch. Seconds, steps per second and whether an evaluation was due vary between identical runs."""

    epoch: int
    """epochs done, this one included"""
    agent_step: int
    """agent steps of the run so far"""
    episodes: int
    """episodes that ended in this epoch"""
    reward: float | None
    """mean over those episodes of the mean over agents of the episode's reward; None without an episode"""
    episode_length: float | None
    """mean length of those episodes, in steps; None without an episode"""
    learning_rate: float
    """learning rate of this epoch"""
    losses: dict[str, float]
    """statistics of `update_policy`"""
    gradients: dict[str, float]
    """`compute_gradient_stats` of the last minibatch"""
    stats: dict[str, float]
    """each counter of the environment: mean over episodes of the mean over agents"""
    task_rewards: dict[str, float] = field(default_factory=dict)
    """`reward` of each task with an episode that ended in this epoch, where the curriculum has several"""
    task_probabilities: dict[str, float] = field(default_factory=dict)
    """probability of each task after this epoch, where the curriculum has several"""
    task_scores: dict[str, float] = field(default_factory=dict)
    """score of each task, from which its probability follows; depends on `curriculum.type`"""
    opponent_reward: float | None = None
    """`reward` of the agents that frozen policies controlled; None without them. `reward` is that of the learners"""
    weights: dict[str, float] = field(default_factory=dict)
    """`analyze_weights`, every `agent.analyze_weights_interval` epochs"""
    evaluation: dict[str, float] = field(default_factory=dict)
    """`TrainingRun.evaluate` after this epoch; empty if no evaluation was due"""
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


def epoch_metrics(
    progress: EpochProgress,
    batch: BatchInfo,
    losses: dict[str, float],
    agent: MettaAgent,
    curriculum: Curriculum,
    experience: Experience,
) -> EpochMetrics:
    """Compute the metrics of the epoch that collected `batch`. Agent, curriculum and experience are read after it."""
    has_tasks = len(curriculum.names) > 1
    interval = agent.config.analyze_weights_interval
    return EpochMetrics(
        epoch=progress.epoch,
        agent_step=progress.agent_step,
        episodes=len(batch.episode_returns or ()),
        reward=_mean(batch.episode_returns),
        opponent_reward=_mean(batch.opponent_returns),
        episode_length=_mean(batch.episode_lengths),
        learning_rate=progress.learning_rate,
        losses=losses,
        gradients=compute_gradient_stats(agent),
        stats=batch.stats,
        task_rewards=_task_rewards(batch, curriculum.names) if has_tasks else {},
        task_probabilities=curriculum.probabilities if has_tasks else {},
        task_scores=curriculum.scores if has_tasks else {},
        weights=analyze_weights(agent, experience) if interval and progress.epoch % interval == 0 else {},
        seconds=progress.seconds,
        steps_per_second=batch.total_env_steps / (progress.seconds_collect + progress.seconds_learn),
        seconds_simulate=max(0.0, progress.seconds_collect - batch.seconds_infer),
        seconds_infer=batch.seconds_infer,
        seconds_learn=progress.seconds_learn,
    )


def _mean(values: Sequence[float] | None) -> float | None:
    """The mean; None without values."""
    return sum(values) / len(values) if values else None


def _task_rewards(batch: BatchInfo, names: Sequence[str]) -> dict[str, float]:
    """Mean reward of the episodes that ended in a batch, by task name."""
    rewards: defaultdict[int, list[float]] = defaultdict(list)
    for task, reward in zip(batch.episode_tasks, batch.episode_returns or (), strict=True):
        rewards[task].append(reward)
    return {names[task]: sum(values) / len(values) for task, values in sorted(rewards.items())}
