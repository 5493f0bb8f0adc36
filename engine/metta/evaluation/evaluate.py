"""Evaluation of a policy or a team: rewards, lengths and statistics of complete episodes in new worlds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from metta.agent.matmul_backend import fast_matmul
from metta.agent.policy import MettaAgent, Policy
from metta.agent.team import Players, Team, as_team
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
    players: Mapping[str, NDArray[np.bool_]]
    """name of each policy -> agents that it played, `[episodes, agents]`; a policy without a team has an empty name"""

    @property
    def episode_rewards(self) -> np.ndarray:
        """Total reward of each episode, mean over its agents. `[episodes] float64`"""
        return np.array([episode.rewards.mean(dtype=np.float64) for episode in self.episodes])

    @property
    def episode_lengths(self) -> np.ndarray:
        """Length of each episode, in steps. `[episodes] int64`"""
        return np.array([episode.length for episode in self.episodes])

    @property
    def policy_rewards(self) -> dict[str, np.ndarray]:
        """Total reward of each episode, mean over the agents of a policy, by its name. `[episodes] float64`

        Episodes in which a policy had no agents are left out.
        """
        return {name: self.rewards_of(agents) for name, agents in self.players.items() if agents.any()}

    def rewards_of(self, agents: NDArray[np.bool_]) -> np.ndarray:
        """Total reward of each episode, mean over the given `agents [episodes, agents]`. `[episodes] float64`

        Episodes without any of them are left out.
        """
        has_agents = np.asarray(agents.any(axis=1))
        episodes = [episode for episode, has_any in zip(self.episodes, has_agents, strict=True) if has_any]
        return mean_rewards(episodes, agents[has_agents])

    @property
    def policy_intervals(self) -> dict[str, Interval]:
        """Mean of `policy_rewards` with its 95 % confidence interval, by the name of the policy."""
        return {name: mean_interval(rewards) for name, rewards in self.policy_rewards.items()}

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
    policy: Policy | Team,
    env: MettaGridEnv,
    num_episodes: int = 10,
    seed: int | None = None,
    deterministic: bool = False,
    split: EpisodeSplit = "test",
) -> EvalResult:
    """Evaluate a policy, or a team, on `num_episodes` episodes in new worlds with the configs of `env`.

    Each world contributes its first episode only, so that short episodes are not over-represented. `seed`, by default
    the one that `env` was given or 0, determines maps, turn orders and sampled actions: the same policy, configs and
    seed give the same result. Training uses other maps, whatever its seed, and so do evaluations during training: see
    `split` of `MettaGridEnv`. With `deterministic`, each agent takes the most likely action (of equally likely ones the
    first in `spec.flat_actions`) instead of a sampled one. Neither `env` nor the policy is changed.

    Raises UsageError if a policy was made for other observations or actions, an agent has no policy or more than one,
    `num_episodes` is below 1, or episodes never end.
    """
    team = as_team(policy)
    team.check_fits(env.spec)
    seed = env.default_seed if seed is None else seed
    generator = action_generator(seed, split)
    episodes: list[EpisodeSummary] = []
    masks: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in team.policies}

    def assign(worlds: MettaGridEnv) -> list[tuple[Policy, NDArray[np.bool_]]]:
        assignments = team.assignments(worlds)
        for name, (_, is_its) in zip(masks, assignments, strict=True):
            masks[name].append(is_its.reshape(worlds.num_worlds, -1))
        return assignments

    for worlds in env_batches(env, num_episodes, seed, split):
        episodes += play_episodes(worlds, assign, generator, deterministic)
    return EvalResult(tuple(episodes), {name: np.concatenate(parts) for name, parts in masks.items()})


def eval_policy(agent: MettaAgent | Team, env: MettaGridEnv, num_episodes: int = 10) -> dict[str, float]:
    """`mean_reward`, `std_reward`, `mean_length` and `std_length` of a policy, or of a team: see `evaluate`.

    The reward of an episode is its total reward, averaged over its agents; means and standard deviations are over
    episodes; lengths are in steps.
    """
    return evaluate(agent, env, num_episodes).summary()


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
    assign: Callable[[MettaGridEnv], Sequence[tuple[Policy, NDArray[np.bool_]]]],
    generator: torch.Generator,
    deterministic: bool = False,
) -> list[EpisodeSummary]:
    """Play one episode in each world and return the summaries in the order of worlds.

    `assign` returns policies with masks of their agents, `[worlds * agents] bool`; see `Players`. It is called once,
    after the reset, so that it can depend on the maps.
    """
    first_episodes: dict[int, EpisodeSummary] = {}
    observations, _ = env.reset()
    players = Players(assign(env))
    episode_starts = torch.zeros(env.agents, dtype=torch.bool)
    while len(first_episodes) < env.num_worlds:
        masks = env.action_masks() if players.uses_action_masks else None
        with fast_matmul(players.device):
            actions = players.act(observations, masks, episode_starts, generator, deterministic)
        observations, _, terminated, truncated, info = env.step(actions)
        episode_starts = torch.from_numpy(terminated | truncated)
        for episode in info.episodes:
            # worlds are reset automatically and play on until all have finished one episode; later ones are ignored
            first_episodes.setdefault(episode.world, episode)
    return [first_episodes[world] for world in sorted(first_episodes)]


def mean_rewards(episodes: Sequence[EpisodeSummary], is_included: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Total reward of each episode, mean over the agents `is_included [episodes, agents]`. `[episodes]`"""
    rewards = np.stack([episode.rewards for episode in episodes])
    return np.asarray(rewards.mean(axis=1, dtype=np.float64, where=is_included))
