"""A match: two policies in the same worlds, each playing some of the agents, and by how much one is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metta.agent.policy import Policy, check_policy_fits
from metta.config.self_play import agents_of_groups
from metta.errors import UsageError, did_you_mean
from metta.evaluation.confidence_intervals import Interval, mean_interval
from metta.evaluation.evaluate import PolicyAssignment, env_batches, first_episodes, worlds_seed_and_generator
from metta.random_streams import RandomStream
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import EpisodeSummary


@dataclass(frozen=True)
class MatchResult:
    """What came of the episodes of a match."""

    episodes: tuple[EpisodeSummary, ...]
    is_own: np.ndarray
    """`[episodes, agents] bool`: whom the policy played; the opponent played the others"""

    @property
    def agents(self) -> tuple[int, int]:
        """How many agents of a world each side played: as many in every episode."""
        own = int(self.is_own[0].sum())
        return own, self.is_own.shape[1] - own

    @property
    def own_rewards(self) -> np.ndarray:
        """`[episodes] float64`: the mean of the episode's reward over the agents that the policy played."""
        return self._means(self.is_own)

    @property
    def opponent_rewards(self) -> np.ndarray:
        """`[episodes] float64`: the same over those that the opponent played."""
        return self._means(~self.is_own)

    @property
    def own(self) -> Interval:
        """The policy's mean reward."""
        return mean_interval(self.own_rewards)

    @property
    def opponent(self) -> Interval:
        """The opponent's mean reward."""
        return mean_interval(self.opponent_rewards)

    @property
    def difference(self) -> Interval:
        """The policy's less the opponent's, paired by episode: what both find on a map is no difference."""
        return mean_interval(self.own_rewards - self.opponent_rewards)

    def _means(self, is_counted: np.ndarray) -> np.ndarray:
        rewards = np.stack([episode.rewards for episode in self.episodes])
        return np.asarray(rewards.mean(axis=1, dtype=np.float64, where=is_counted))


def play_match(
    policy: Policy,
    opponent: Policy,
    env: MettaGridEnv,
    num_episodes: int = 10,
    seed: int | None = None,
    share: float = 0.5,
    groups: Sequence[str] = (),
) -> MatchResult:
    """Play `num_episodes` in fresh worlds like `env`'s; `policy` plays a share of the agents and `opponent` the others.

    Who is played by whom is drawn for each episode, unless `groups` of agents are named for the policy. The same
    policies, config and seed give the same result, on the maps that `evaluate` plays with that seed.
    """
    for side in (policy, opponent):
        check_policy_fits(side, env.spec)
    worlds_seed, generator = worlds_seed_and_generator(env, seed)
    side_generator = np.random.default_rng(RandomStream.MATCH_SIDES.sequence(env.seed if seed is None else seed))
    num_own = _num_own(env, share) if not groups else 0
    _check_groups(env, groups)
    episodes: list[EpisodeSummary] = []
    played: list[np.ndarray] = []

    def sides(worlds: MettaGridEnv) -> list[PolicyAssignment]:
        if groups:
            is_own = _of_groups(worlds, groups)
        else:
            orders = [side_generator.permutation(env.num_agents) for _ in range(worlds.num_worlds)]
            is_own = np.stack(orders) < num_own
        played.append(is_own)
        return [PolicyAssignment(policy, is_own.ravel()), PolicyAssignment(opponent, ~is_own.ravel())]

    for worlds in env_batches(env, num_episodes, worlds_seed):
        episodes += first_episodes(worlds, sides, generator)
    return MatchResult(tuple(episodes), np.concatenate(played))


def _num_own(env: MettaGridEnv, share: float) -> int:
    """How many agents of a world are a share of them. Raises UsageError where a side would have none."""
    agents = env.num_agents
    if agents == 1:
        raise UsageError("a match needs at least two agents in a world, one for each side; here is one")
    if not 0 < share < 1:
        raise UsageError(
            f"the policy's share must be more than 0 and less than 1, so that both sides play; got {share:g}"
        )
    own = round(share * agents)
    if not 0 < own < agents:
        side = "the policy" if not own else "the opponent"
        raise UsageError(
            f"a share of {share:g} of {agents} agents leaves {side} none; "
            f"it must be from {1 / agents:.3g} to {1 - 1 / agents:.3g} here"
        )
    return own


def _check_groups(env: MettaGridEnv, groups: Sequence[str]) -> None:
    """Raise UsageError for groups that a world has not, or that are all of its agents or none."""
    for config in env.configs:
        counts = agents_of_groups(config)
        for group in groups:
            if group not in counts:
                raise UsageError(f'there is no group "{group}" of agents here{did_you_mean(group, counts)}')
        own = sum(counts[group] for group in set(groups))
        if groups and not 0 < own < config.game.num_agents:
            side = "the opponent" if own else "the policy"
            raise UsageError(
                f"the groups {', '.join(groups)} leave {side} no agent: they have {own} of {sum(counts.values())}"
            )


def _of_groups(env: MettaGridEnv, groups: Sequence[str]) -> np.ndarray:
    """`[worlds, agents] bool`: who is of one of the groups, on the maps as they are."""
    of_world = env.groups.reshape(env.num_worlds, env.num_agents)
    names = [list(env.configs[task].game.groups) for task in env.tasks]
    return np.stack(
        [np.isin(row, [known.index(group) for group in groups]) for row, known in zip(of_world, names, strict=True)]
    )
