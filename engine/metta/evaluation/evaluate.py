"""Policy evaluation: mean reward, episode length and statistics over complete episodes in new worlds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from metta.agent.matmul_backend import fast_matmul
from metta.agent.policy import MettaAgent, Policy, check_policy_fits
from metta.errors import UsageError
from metta.evaluation.confidence_intervals import Interval, mean_interval
from metta.random_streams import RandomStream
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import EpisodeSummary

MAX_PARALLEL_AGENTS: Final = 4096
"""Agents that are simulated at the same time; further episodes are played in later batches."""


@dataclass(frozen=True)
class EvalResult:
    """The episodes of an evaluation and their statistics."""

    episodes: tuple[EpisodeSummary, ...]

    @property
    def episode_rewards(self) -> np.ndarray:
        """`[episodes] float64`: the mean over agents of the total reward."""
        return np.array([episode.rewards.mean(dtype=np.float64) for episode in self.episodes])

    @property
    def episode_lengths(self) -> np.ndarray:
        """`[episodes] int64`, in steps."""
        return np.array([episode.length for episode in self.episodes])

    @property
    def agent_rewards(self) -> np.ndarray:
        """`[agents] float64`: each agent's total reward, the mean over episodes."""
        rewards = np.stack([episode.rewards for episode in self.episodes])
        return np.asarray(rewards.mean(axis=0, dtype=np.float64))

    @property
    def mean_reward(self) -> float:
        """The mean of `episode_rewards`."""
        return float(self.episode_rewards.mean())

    @property
    def std_reward(self) -> float:
        """The standard deviation of `episode_rewards`."""
        return float(self.episode_rewards.std())

    @property
    def reward_interval(self) -> Interval:
        """The mean reward with its 95 % confidence interval (Student's t over episodes)."""
        return mean_interval(self.episode_rewards)

    @property
    def mean_length(self) -> float:
        """The mean of `episode_lengths`."""
        return float(self.episode_lengths.mean())

    @property
    def std_length(self) -> float:
        """The standard deviation of `episode_lengths`."""
        return float(self.episode_lengths.std())

    @property
    def stats(self) -> dict[str, float]:
        """Counters such as `heart.gained` or `action.move.success`, the mean over episodes and agents."""
        totals: Counter[str] = Counter()
        for episode in self.episodes:
            totals.update(episode.stats)
        return {name: totals[name] / len(self.episodes) for name in sorted(totals)}

    def summary(self) -> dict[str, float]:
        """`mean_reward`, `std_reward`, `mean_length` and `std_length`."""
        return {
            "mean_reward": self.mean_reward,
            "std_reward": self.std_reward,
            "mean_length": self.mean_length,
            "std_length": self.std_length,
        }


def evaluate(
    policy: Policy, env: MettaGridEnv, num_episodes: int = 10, seed: int | None = None, deterministic: bool = False
) -> EvalResult:
    """Evaluate a policy on `num_episodes` episodes in new worlds with the configs of `env`.

    Each world plays one episode, so that short episodes are not over-represented. The same policy, configs and seed (by
    default that of `env`) give the same result, on maps that training with that seed does not use. `deterministic`
    takes the most likely action instead of sampling. Neither `env` nor the policy is changed.

    Raises UsageError if the policy does not fit the worlds, `num_episodes` is below 1 or episodes never end.
    """
    check_policy_fits(policy, env.spec)
    worlds_seed, generator = worlds_seed_and_generator(env, seed)
    episodes: list[EpisodeSummary] = []
    for worlds in env_batches(env, num_episodes, worlds_seed):
        episodes += play_episodes(worlds, lambda _: [PolicyAssignment(policy)], generator, deterministic)
    return EvalResult(tuple(episodes))


def eval_policy(agent: MettaAgent, env: MettaGridEnv, num_episodes: int = 10) -> dict[str, float]:
    """`mean_reward`, `std_reward`, `mean_length` and `std_length` of `num_episodes` episodes, as by `evaluate`.

    The reward of an episode is the mean over its agents; means and standard deviations are over episodes.
    """
    return evaluate(agent, env, num_episodes).summary()


@dataclass(frozen=True)
class PolicyAssignment:
    """A policy and the agents that it controls."""

    policy: Policy
    is_controlled: np.ndarray | None = None
    """`[worlds * agents] bool`; None: all agents"""


def worlds_seed_and_generator(env: MettaGridEnv, seed: int | None) -> tuple[int, torch.Generator]:
    """The seed of an evaluation's worlds and the generator that samples its actions.

    Both follow from `seed`, by default that of `env`.
    """
    sequence = RandomStream.EVALUATION.sequence(env.seed if seed is None else seed)
    worlds_seed, policy_seed = sequence.generate_state(2, np.uint32).tolist()
    return worlds_seed, torch.Generator().manual_seed(policy_seed)


def env_batches(env: MettaGridEnv, num_episodes: int, worlds_seed: int) -> Iterator[MettaGridEnv]:
    """New envs with the configs of `env`, in batches of at most `MAX_PARALLEL_AGENTS`; one world for each episode."""
    if num_episodes < 1:
        raise UsageError(f"num_episodes must be at least 1; got {num_episodes}")
    for config in env.configs:
        if config.game.is_endless:
            raise UsageError("episodes never end here: set env.game.max_steps or env.game.episode_lifetime")
    batch_size = max(1, MAX_PARALLEL_AGENTS // env.num_agents)
    for first_world in range(0, num_episodes, batch_size):
        num_worlds = min(batch_size, num_episodes - first_world)
        worlds = MettaGridEnv(env.configs, num_worlds, worlds_seed, first_world, env.task_weights)
        yield worlds
        worlds.close()


def play_episodes(
    env: MettaGridEnv,
    assign: Callable[[MettaGridEnv], Sequence[PolicyAssignment]],
    generator: torch.Generator,
    deterministic: bool = False,
) -> list[EpisodeSummary]:
    """Play one episode in each world; the summaries in the order of worlds.

    `assign` is called after the reset, when the maps are known, and must assign each agent to one policy. Each policy
    has its own recurrent memory.
    """
    first_episodes: dict[int, EpisodeSummary] = {}
    observations, _ = env.reset()
    assignments = assign(env)
    rows = [slice(None) if it.is_controlled is None else it.is_controlled.nonzero()[0] for it in assignments]
    memories = [it.policy.initial_memory(len(observations[own])) for it, own in zip(assignments, rows, strict=True)]
    episode_starts = torch.zeros(env.agents, dtype=torch.bool)
    actions = np.zeros((env.agents, 2), np.int32)
    while len(first_episodes) < env.num_worlds:
        for index, (assignment, own) in enumerate(zip(assignments, rows, strict=True)):
            memory = memories[index]
            device = memory.hidden.device
            with fast_matmul(device):
                output = assignment.policy.act(
                    torch.from_numpy(observations[own]).to(device),
                    memory,
                    episode_starts[own].to(device),
                    generator,
                    deterministic,
                )
            memories[index] = output.memory
            actions[own] = output.actions.cpu().numpy()
        observations, _, terminated, truncated, info = env.step(actions)
        episode_starts = torch.from_numpy(terminated | truncated)
        for episode in info.episodes:
            # a world whose episode ended continues until all others have ended theirs; only its first one counts
            first_episodes.setdefault(episode.world, episode)
    return [first_episodes[world] for world in sorted(first_episodes)]
