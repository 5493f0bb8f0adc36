"""How well a policy plays: whole episodes in worlds of their own."""

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

AGENTS_AT_ONCE: Final = 4096
"""Agents that are evaluated side by side, about; more episodes are played one lot after the other."""


@dataclass(frozen=True)
class EvalResult:
    """What came of the episodes."""

    episodes: tuple[EpisodeSummary, ...]

    @property
    def episode_rewards(self) -> np.ndarray:
        """`[episodes] float64`: the mean over agents of the episode's reward."""
        return np.array([episode.rewards.mean(dtype=np.float64) for episode in self.episodes])

    @property
    def episode_lengths(self) -> np.ndarray:
        """`[episodes] int64`: steps."""
        return np.array([episode.length for episode in self.episodes])

    @property
    def agent_rewards(self) -> np.ndarray:
        """`[agents] float64`: each agent's reward, the mean over episodes."""
        rewards = np.stack([episode.rewards for episode in self.episodes])
        return np.asarray(rewards.mean(axis=0, dtype=np.float64))

    @property
    def mean_reward(self) -> float:
        """The mean over episodes of the mean over agents of the episode's reward."""
        return float(self.episode_rewards.mean())

    @property
    def std_reward(self) -> float:
        """The standard deviation of the same over episodes."""
        return float(self.episode_rewards.std())

    @property
    def reward_interval(self) -> Interval:
        """The mean reward with its 95 % interval, by Student's t over episodes."""
        return mean_interval(self.episode_rewards)

    @property
    def mean_length(self) -> float:
        """Steps of an episode, the mean."""
        return float(self.episode_lengths.mean())

    @property
    def std_length(self) -> float:
        """Steps of an episode, the standard deviation."""
        return float(self.episode_lengths.std())

    @property
    def stats(self) -> dict[str, float]:
        """Counters such as `heart.gained` or `action.move.success`: mean over episodes of the mean over agents."""
        totals: Counter[str] = Counter()
        for episode in self.episodes:
            totals.update(episode.stats)
        return {name: totals[name] / len(self.episodes) for name in sorted(totals)}

    def summary(self) -> dict[str, float]:
        """The four numbers that `eval_policy` promises."""
        return {
            "mean_reward": self.mean_reward,
            "std_reward": self.std_reward,
            "mean_length": self.mean_length,
            "std_length": self.std_length,
        }


def evaluate(
    policy: Policy, env: MettaGridEnv, num_episodes: int = 10, seed: int | None = None, deterministic: bool = False
) -> EvalResult:
    """Play `num_episodes` in fresh worlds like `env`'s; neither env nor policy is disturbed.

    Each world plays one episode, so that short ones are not counted more often. The same policy, config and seed (by
    default the env's) give the same result, on maps that training with that seed does not see. `deterministic` takes
    the most likely action instead of sampling.
    """
    check_policy_fits(policy, env.spec)
    worlds_seed, generator = worlds_seed_and_generator(env, seed)
    episodes: list[EpisodeSummary] = []
    for worlds in env_batches(env, num_episodes, worlds_seed):
        episodes += first_episodes(worlds, [PolicyAssignment(policy)], generator, deterministic)
    return EvalResult(tuple(episodes))


def worlds_seed_and_generator(env: MettaGridEnv, seed: int | None) -> tuple[int, torch.Generator]:
    """The seed of the worlds of an evaluation, whose maps training does not see, and the generator of actions.

    Both follow from `seed`, or from the env's if it is None.
    """
    sequence = RandomStream.EVALUATION.sequence(env.seed if seed is None else seed)
    worlds_seed, policy_seed = sequence.generate_state(2, np.uint32).tolist()
    return worlds_seed, torch.Generator().manual_seed(policy_seed)


def eval_policy(agent: MettaAgent, env: MettaGridEnv, num_episodes: int = 10) -> dict[str, float]:
    """`mean_reward`, `std_reward`, `mean_length`, `std_length` of episodes played in parallel worlds like `env`'s.

    An episode's reward is the mean over its agents; means and standard deviations are over episodes.
    """
    return evaluate(agent, env, num_episodes).summary()


@dataclass(frozen=True)
class PolicyAssignment:
    """A policy and the agents it plays."""

    policy: Policy
    is_played: np.ndarray | None = None
    """`[worlds * agents] bool`; None: it plays all"""


def env_batches(env: MettaGridEnv, num_episodes: int, worlds_seed: int) -> Iterator[MettaGridEnv]:
    """Fresh worlds like `env`'s, one for each episode, as many at once as may be."""
    if num_episodes < 1:
        raise UsageError(f"num_episodes must be at least 1; got {num_episodes}")
    for config in env.configs:
        if config.game.is_endless:
            raise UsageError("episodes never end here: set env.game.max_steps or env.game.episode_lifetime")
    at_once = max(1, AGENTS_AT_ONCE // env.num_agents)
    for first_world in range(0, num_episodes, at_once):
        num_worlds = min(at_once, num_episodes - first_world)
        worlds = MettaGridEnv(env.configs, num_worlds, worlds_seed, first_world, env.task_weights)
        yield worlds
        worlds.close()


def first_episodes(
    env: MettaGridEnv,
    sides: Sequence[PolicyAssignment] | Callable[[MettaGridEnv], Sequence[PolicyAssignment]],
    generator: torch.Generator,
    deterministic: bool = False,
) -> list[EpisodeSummary]:
    """The first episode of each world, in the order of worlds.

    `sides` play every agent between them, each with a memory of its own; or say, given the maps, who plays whom.
    """
    first_of: dict[int, EpisodeSummary] = {}
    observations, _ = env.reset()
    sides = sides(env) if callable(sides) else sides
    rows = [slice(None) if side.is_played is None else side.is_played.nonzero()[0] for side in sides]
    memories = [side.policy.initial_memory(len(observations[played])) for side, played in zip(sides, rows, strict=True)]
    episode_starts = torch.zeros(env.agents, dtype=torch.bool)
    actions = np.zeros((env.agents, 2), np.int32)
    while len(first_of) < env.num_worlds:
        for index, (side, played) in enumerate(zip(sides, rows, strict=True)):
            memory = memories[index]
            device = memory.hidden.device
            with fast_matmul(device):
                decision = side.policy.act(
                    torch.from_numpy(observations[played]).to(device),
                    memory,
                    episode_starts[played].to(device),
                    generator,
                    deterministic,
                )
            memories[index] = decision.memory
            actions[played] = decision.actions.cpu().numpy()
        observations, _, terminated, truncated, info = env.step(actions)
        episode_starts = torch.from_numpy(terminated | truncated)
        for episode in info.episodes:
            first_of.setdefault(episode.world, episode)
    return [first_of[world] for world in sorted(first_of)]
