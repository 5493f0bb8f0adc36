"""Match of two policies or teams: both control different agents of the same worlds, and their rewards are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metta.agent.policy import Policy
from metta.agent.team import Team, as_team, group_names, is_played
from metta.config.env.env_config import EnvConfig
from metta.config.self_play import agents_of_groups
from metta.errors import UsageError, did_you_mean
from metta.evaluation.confidence_intervals import Interval, mean_interval
from metta.evaluation.evaluate import action_generator, env_batches, mean_rewards, play_episodes
from metta.random_streams import RandomStream
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import EpisodeSummary


@dataclass(frozen=True)
class MatchResult:
    """The episodes of a match and the rewards of both policies."""

    episodes: tuple[EpisodeSummary, ...]
    is_policy_agent: np.ndarray
    """`[episodes, agents] bool`: True for agents that the policy controlled, False for those of the opponent"""

    @property
    def num_agents(self) -> tuple[int, int]:
        """(policy, opponent): agents per world that each of them controlled, the same number in every episode."""
        num_policy = int(self.is_policy_agent[0].sum())
        return num_policy, self.is_policy_agent.shape[1] - num_policy

    @property
    def policy_rewards(self) -> np.ndarray:
        """Total reward of each episode, mean over the policy's agents. `[episodes] float64`"""
        return mean_rewards(self.episodes, self.is_policy_agent)

    @property
    def opponent_rewards(self) -> np.ndarray:
        """Total reward of each episode, mean over the opponent's agents. `[episodes] float64`"""
        return mean_rewards(self.episodes, ~self.is_policy_agent)

    @property
    def policy_interval(self) -> Interval:
        """Mean of `policy_rewards` with its 95 % confidence interval."""
        return mean_interval(self.policy_rewards)

    @property
    def opponent_interval(self) -> Interval:
        """Mean of `opponent_rewards` with its 95 % confidence interval."""
        return mean_interval(self.opponent_rewards)

    @property
    def difference_interval(self) -> Interval:
        """Mean of `policy_rewards - opponent_rewards` with its 95 % confidence interval.

        Differences within an episode exclude the variance between maps, because both policies play on the same map.
        """
        return mean_interval(self.policy_rewards - self.opponent_rewards)


def play_match(
    policy: Policy | Team,
    opponent: Policy | Team,
    env: MettaGridEnv,
    num_episodes: int = 10,
    seed: int | None = None,
    share: float = 0.5,
    groups: Sequence[str] = (),
    deterministic: bool = False,
) -> MatchResult:
    """Play `num_episodes` episodes of two policies or teams in new worlds with the configs of `env`.

    If `groups` is not empty, `policy` controls the agents of these groups; otherwise it controls a fraction `share` of
    the agents of each world, rounded to whole agents and selected at random for each episode. `opponent` controls the
    other agents. A side that is a team plays each of its agents with the policy that plays this agent in the team. The
    same policies, configs and seed (by default the one that `env` was given, or 0) give the same result; maps are those
    that `evaluate` uses with the same seed. With `deterministic`, the agents of both policies take the most likely
    action instead of a sampled one.

    Raises UsageError if a policy was made for other observations or actions, one of the two has no agent, a group does
    not exist, `num_episodes` is below 1, or episodes never end.
    """
    teams = as_team(policy), as_team(opponent)
    for team in teams:
        team.check_fits(env.spec)
    seed = env.default_seed if seed is None else seed
    generator = action_generator(seed)
    side_generator = np.random.default_rng(RandomStream.MATCH_SIDES.sequence(seed))
    num_policy_agents = _num_policy_agents(env, share) if not groups else 0
    _check_groups(env, groups)
    episodes: list[EpisodeSummary] = []
    masks: list[np.ndarray] = []

    def assign(worlds: MettaGridEnv) -> list[tuple[Policy, NDArray[np.bool_]]]:
        if groups:
            is_policy_agent = is_played(group_names(worlds), groups)
        else:
            orders = [side_generator.permutation(env.num_agents) for _ in range(worlds.num_worlds)]
            is_policy_agent = np.stack(orders) < num_policy_agents
        masks.append(is_policy_agent)
        sides = is_policy_agent.ravel(), ~is_policy_agent.ravel()
        return [
            (player, is_its & side)
            for team, side in zip(teams, sides, strict=True)
            for player, is_its in team.assignments(worlds)
        ]

    for worlds in env_batches(env, num_episodes, seed):
        episodes += play_episodes(worlds, assign, generator, deterministic)
    return MatchResult(tuple(episodes), np.concatenate(masks))


def two_sides(env_config: EnvConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The groups of agents that are the two sides of a world: the first half of its groups, rounded down, and the rest.

    Both are empty for a world with one group: each side is then half of its agents, selected at random for each map.
    Raises UsageError if two policies cannot play against each other in this world.
    """
    game = env_config.game
    groups = tuple(group for group, count in agents_of_groups(env_config).items() if count)
    if game.is_endless:
        raise UsageError("episodes of this world never end: set env.game.max_steps or env.game.episode_lifetime")
    if game.num_agents < 2:
        raise UsageError("a match needs at least two agents, one for each policy; this world has one")
    if len(groups) > 1:
        return groups[: len(groups) // 2], groups[len(groups) // 2 :]
    if game.groups[groups[0]].group_reward_pct == 1:
        raise UsageError(
            "all agents of this world share all rewards evenly (group_reward_pct = 1 of its only group), so that every "
            "game is a draw; choose a world with two groups, or a smaller share"
        )
    return (), ()


def _num_policy_agents(env: MettaGridEnv, share: float) -> int:
    """The number of agents per world that `policy` controls. Raises UsageError if `policy` or its opponent has none."""
    agents = env.num_agents
    if agents == 1:
        raise UsageError("a match needs at least two agents per world, one for each policy; this environment has one")
    if not 0 < share < 1:
        raise UsageError(
            f"the policy's share must be more than 0 and less than 1, so that both policies play; got {share:g}"
        )
    num_policy_agents = round(share * agents)
    if not 0 < num_policy_agents < agents:
        side = "the policy" if not num_policy_agents else "the opponent"
        raise UsageError(
            f"a share of {share:g} leaves {side} none of the {agents} agents; "
            f"choose a share from {1 / agents:.3g} to {1 - 1 / agents:.3g}"
        )
    return num_policy_agents


def _check_groups(env: MettaGridEnv, groups: Sequence[str]) -> None:
    """Raise UsageError if a group does not exist in a world, or if the groups contain all agents of a world or none."""
    for config in env.configs:
        counts = agents_of_groups(config)
        for group in groups:
            if group not in counts:
                raise UsageError(f'this environment has no agent group "{group}"{did_you_mean(group, counts)}')
        num_policy_agents = sum(counts[group] for group in set(groups))
        if groups and not 0 < num_policy_agents < config.game.num_agents:
            side = "the opponent" if num_policy_agents else "the policy"
            raise UsageError(
                f"the policy's groups ({', '.join(groups)}) leave {side} no agent: "
                f"they contain {num_policy_agents} of {sum(counts.values())} agents"
            )
