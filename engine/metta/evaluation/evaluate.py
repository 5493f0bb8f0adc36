"""Evaluation of a policy: rewards, lengths and statistics of complete episodes in new worlds."""

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
from metta.random_streams import EVALUATION_STREAMS, EpisodeSplit
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import EpisodeSummary

MAX_PARALLEL_AGENTS: Final = 4096
"""Maximum number of agents simulated at the same time; more episodes than that allows are played in several batches."""


@dataclass(frozen=True)
class EvalResult:
    """The episodes of an evaluation and their statistics."""

    episodes: tuple[EpisodeSummary, ...]

    @property
    def episode_rewards(self) -> np.ndarray:
        """Total reward of each episode, mean over its agents. `[episodes] float64`"""
        return np.array([episode.rewards.mean(dtype=np.float64) for episode in self.episodes])

    @property
    def episode_lengths(self) -> np.ndarray:
        """Length of each episode, in steps. `[episodes] int64`"""
        return np.array([episode.length for episode in self.episodes])

    @property
    def agent_rewards(self) -> np.ndarray:
        """Total reward per episode of each agent, mean over episodes. `[agents] float64`"""
        rewards = np.stack([episode.rewards for episode in self.episodes])
        return np.asarray(rewards.mean(axis=0, dtype=np.float64))

    @property
    def mean_reward(self) -> float:
        """Mean of `episode_rewards`."""
        return float(self.episode_rewards.mean())

    @property
    def std_reward(self) -> float:
        """Population standard deviation of `episode_rewards`."""
        return float(self.episode_rewards.std())

    @property
    def reward_interval(self) -> Interval:
        """Mean of `episode_rewards` with its 95 % confidence interval (Student's t over episodes)."""
        return mean_interval(self.episode_rewards)

    @property
    def mean_length(self) -> float:
        """Mean of `episode_lengths`, in steps."""
        return float(self.episode_lengths.mean())

    @property
    def std_length(self) -> float:
        """Population standard deviation of `episode_lengths`, in steps."""
        return float(self.episode_lengths.std())

    @property
    def stats(self) -> dict[str, float]:
        """Counters by name, mean over episodes: per agent, such as `heart.gained`, and of the whole game."""
        totals: Counter[str] = Counter()
        for episode in self.episodes:
            totals.update(episode.stats)
        return {name: totals[name] / len(self.episodes) for name in sorted(totals)}

    @property
    def reward_terms(self) -> dict[str, float]:
        """Sum of each custom reward over an episode by name: mean over episodes of the mean over agents."""
        totals: Counter[str] = Counter()
        for episode in self.episodes:
            totals.update(episode.reward_terms)
        return {name: total / len(self.episodes) for name, total in totals.items()}

    def summary(self) -> dict[str, float]:
        """`mean_reward`, `std_reward`, `mean_length` and `std_length`."""
        return {
            "mean_reward": self.mean_reward,
            "std_reward": self.std_reward,
            "mean_length": self.mean_length,
            "std_length": self.std_length,
        }


def evaluate(
    policy: Policy,
    env: MettaGridEnv,
    num_episodes: int = 10,
    seed: int | None = None,
    deterministic: bool = False,
    split: EpisodeSplit = "test",
) -> EvalResult:
    """Evaluate a policy on `num_episodes` episodes in new worlds with the configs of `env`.

    Each world contributes its first episode only, so that short episodes are not over-represented. `seed`, by default
    the one that `env` was given or 0, determines maps, turn orders and sampled actions: the same policy, configs and
    seed give the same result. Training uses other maps, whatever its seed, and so do evaluations during training: see
    `split` of `MettaGridEnv`. With `deterministic`, each agent takes the most likely action (of equally likely ones the
    first in `spec.flat_actions`) instead of a sampled one. Neither `env` nor the policy is changed.

    Raises UsageError if the policy was made for other observations or actions, `num_episodes` is below 1, or episodes
    never end.
    """
    check_policy_fits(policy, env.spec)
    seed = env.default_seed if seed is None else seed
    generator = action_generator(seed, split)
    episodes: list[EpisodeSummary] = []
    for worlds in env_batches(env, num_episodes, seed, split):
        episodes += play_episodes(worlds, lambda _: [PolicyAssignment(policy)], generator, deterministic)
    return EvalResult(tuple(episodes))


def eval_policy(agent: MettaAgent, env: MettaGridEnv, num_episodes: int = 10) -> dict[str, float]:
    """Evaluate a policy with `evaluate` and return `mean_reward`, `std_reward`, `mean_length` and `std_length`.

    The reward of an episode is its total reward, averaged over its agents; means and standard deviations are over
    episodes; lengths are in steps.
    """
    return evaluate(agent, env, num_episodes).summary()


@dataclass(frozen=True)
class PolicyAssignment:
    """A policy and the agents that it controls."""

    policy: Policy
    is_controlled: np.ndarray | None = None
    """mask of these agents, `[worlds * agents] bool`; None for all agents"""


def action_generator(seed: int, split: EpisodeSplit = "test") -> torch.Generator:
    """The generator that samples the actions of an evaluation or a match."""
    return torch.Generator().manual_seed(EVALUATION_STREAMS[split].seed(seed))


def env_batches(
    env: MettaGridEnv, num_episodes: int, seed: int, split: EpisodeSplit = "test"
) -> Iterator[MettaGridEnv]:
    """Yield new envs with the configs of `env` that have `num_episodes` worlds in total.

    Each env has at most `MAX_PARALLEL_AGENTS` agents, but at least one world, and is closed when the next one is
    requested. Raises UsageError if `num_episodes` is below 1 or episodes never end.
    """
    if num_episodes < 1:
        raise UsageError(f"num_episodes must be at least 1; got {num_episodes}")
    for config in env.configs:
        if config.game.is_endless:
            raise UsageError(
                "episodes of this environment never end: set env.game.max_steps or env.game.episode_lifetime"
            )
    batch_size = max(1, MAX_PARALLEL_AGENTS // env.num_agents)
    for first_world in range(0, num_episodes, batch_size):
        num_worlds = min(batch_size, num_episodes - first_world)
        worlds = MettaGridEnv(env.configs, num_worlds, seed, first_world, env.task_weights, split=split)
        yield worlds
        worlds.close()


def play_episodes(
    env: MettaGridEnv,
    assign: Callable[[MettaGridEnv], Sequence[PolicyAssignment]],
    generator: torch.Generator,
    deterministic: bool = False,
) -> list[EpisodeSummary]:
    """Play one episode in each world and return the summaries in the order of worlds.

    `assign` is called once, after the reset, so that it can depend on the maps; it must assign each agent to exactly
    one policy. Each assignment has its own recurrent memory.
    """
    first_episodes: dict[int, EpisodeSummary] = {}
    observations, _ = env.reset()
    assignments = assign(env)
    agents_by_policy = [
        slice(None) if assignment.is_controlled is None else assignment.is_controlled.nonzero()[0]
        for assignment in assignments
    ]
    needs_masks = any(assignment.policy.uses_action_masks for assignment in assignments)
    memories = [
        assignment.policy.initial_memory(len(observations[agents]))
        for assignment, agents in zip(assignments, agents_by_policy, strict=True)
    ]
    episode_starts = torch.zeros(env.agents, dtype=torch.bool)
    actions = np.zeros((env.agents, 2), np.int32)
    while len(first_episodes) < env.num_worlds:
        masks = env.action_masks() if needs_masks else None
        for index, (assignment, agents) in enumerate(zip(assignments, agents_by_policy, strict=True)):
            memory = memories[index]
            device, uses_masks = memory.device, assignment.policy.uses_action_masks
            with fast_matmul(device):
                output = assignment.policy.act(
                    torch.from_numpy(observations[agents]).to(device),
                    memory,
                    episode_starts[agents].to(device),
                    generator,
                    deterministic,
                    None if masks is None or not uses_masks else torch.from_numpy(masks[agents]).to(device),
                )
            memories[index] = output.memory
            actions[agents] = output.actions.cpu().numpy()
        observations, _, terminated, truncated, info = env.step(actions)
        episode_starts = torch.from_numpy(terminated | truncated)
        for episode in info.episodes:
            # worlds are reset automatically and play on until all have finished one episode; later ones are ignored
            first_episodes.setdefault(episode.world, episode)
    return [first_episodes[world] for world in sorted(first_episodes)]
