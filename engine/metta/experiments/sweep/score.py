"""Scores of runs: the metric of a sweep at the end of a run, and the rewards by which a pruner compares trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from metta.checkpoint.policy_checkpoint import load_policy
from metta.config.sweep import SweepConfig
from metta.errors import CheckpointError, TrainingError
from metta.evaluation.evaluate import evaluate
from metta.experiments.sweep.summary import NOT_REACHED
from metta.run.device import find_device
from metta.run.metrics_file import valid_lines
from metta.run.run_directory import METRICS, newest_checkpoint
from metta.world.make_environment import make_environment

EVALUATION_EPISODES: Final = 32
"""Episodes of the metric `evaluation/mean_reward`: the same for all runs, not those of training or of `metta eval`."""


@dataclass(frozen=True)
class EpochReward:
    """The reward of an epoch."""

    agent_step: int
    episodes: int
    reward: float
    seconds: float

    @classmethod
    def of(cls, line: Mapping[str, Any], name: str) -> Self | None:
        """The reward `name` in a line of a metrics file; None if no episode ended in its epoch."""
        values: list[Any] = [line.get(key) for key in ("agent_step", "episodes", name, "seconds")]
        return cls(*values) if all(isinstance(value, int | float) for value in values) else None


def read_rewards(run_dir: Path, name: str, epochs: float = np.inf) -> list[EpochReward]:
    """The rewards `name` of the first `epochs` epochs in the metrics file of a run."""
    path = run_dir / METRICS
    lines = valid_lines(path) if path.is_file() else ()
    return [reward for line in lines if line["epoch"] <= epochs and (reward := EpochReward.of(line, name)) is not None]


def score_run(run_dir: Path, config: SweepConfig, device: str) -> float:
    """The metric of a finished run. Raises TrainingError if no episode ended, CheckpointError without a policy.

    The policy is evaluated on `device`.
    """
    if config.is_evaluation:
        return _evaluated(run_dir, config.policy, device)
    rewards = read_rewards(run_dir, config.reward_name)
    if not rewards:
        raise TrainingError("no episode ended during training; train longer, or lower env.game.max_steps")
    if config.reward_to_reach is not None:
        return seconds_to_reward(rewards, config.reward_to_reach)
    last = rewards[-max(1, round(len(rewards) / 10)) :]
    return float(np.mean([epoch.reward for epoch in last]))


def seconds_to_reward(rewards: Iterable[EpochReward], target: float) -> float:
    """Seconds of training until the reward of an epoch is at least `target`.

    If none is, `NOT_REACHED` times 1 plus the fraction of the target that the best epoch lacks, at most 2: worse than
    any run that reaches it, and the worse the further away.
    """
    best = -np.inf
    for epoch in rewards:
        if epoch.reward >= target:
            return float(epoch.seconds)
        best = max(best, epoch.reward)
    lacking = (target - best) / max(abs(target), 1e-9)
    return NOT_REACHED * (1 + min(1.0, float(lacking)))


def part_rewards(rewards: Sequence[EpochReward], total: int, num_parts: int) -> list[tuple[int, float]]:
    """(part, mean reward of its episodes) for each of `num_parts` equal parts of a run of `total` agent steps.

    A part without an episode is left out; an epoch belongs to the last part of which it reaches the end.
    """
    found = []
    episodes: list[EpochReward] = []
    reported = 0
    for epoch in rewards:
        episodes.append(epoch)
        part = min(num_parts, epoch.agent_step * num_parts // total)
        if part > reported:
            weights = [entry.episodes for entry in episodes]
            found.append((part, float(np.average([entry.reward for entry in episodes], weights=weights))))
            reported, episodes = part, []
    return found


def _evaluated(run_dir: Path, policy: str, device: str) -> float:
    """Mean reward of a finished run in its evaluation world: of the policy of this name, or with "" of all agents."""
    checkpoint = newest_checkpoint(run_dir)
    if checkpoint is None:
        raise CheckpointError(f"{run_dir} has no checkpoint")
    loaded = load_policy(checkpoint, find_device(device))
    env = make_environment(loaded.env_config)
    result = evaluate(loaded.team, env, EVALUATION_EPISODES, seed=0, split="validation")
    return result.policy_intervals[policy].mean if policy else result.mean_reward
