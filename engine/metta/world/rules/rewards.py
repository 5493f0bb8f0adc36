"""Reward sharing within and between groups of agents, and the diversity bonus at the end of an episode."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.world.state.worlds import Worlds


def share_rewards(worlds: Worlds) -> NDArray[np.float32]:
    """The reward of each agent after sharing. `[agents] float32`

    Each agent gives fractions of its reward to its own group (`group_reward_pct`) and to other groups
    (`reward_sharing_groups`). What a group receives is divided equally among its agents in the same world.
    """
    compiled = worlds.compiled
    returned = worlds.reward.copy()
    if not compiled.rulesets.shares_rewards:
        return returned
    groups, count = compiled.groups, compiled.num_groups
    own = worlds.group_row % count
    first_group = worlds.world_of_agent * count  # groups are numbered across worlds: world * count + group
    sizes = np.bincount(first_group + own, minlength=worlds.num_worlds * count)
    received = np.zeros(worlds.num_worlds * count)  # by each agent of a group

    def give(share: NDArray[np.float32], receiver: NDArray[np.int64]) -> None:
        # float32 products and quotients, summed in float64 in agent order, to agree with MettaGrid bit for bit
        given = worlds.reward * share
        given[sizes[receiver] == 0] = 0  # the group has no agent in this world
        np.subtract(returned, given, out=returned)
        per_agent = np.divide(given, np.maximum(sizes[receiver], 1).astype(np.float32))
        received[:] += np.bincount(receiver, per_agent, len(received))

    give(groups.reward_share[worlds.group_row], first_group + own)
    for group in range(count):
        if groups.share_to[:, group].any():
            give(groups.share_to[worlds.group_row, group], first_group + group)
    returned += received[first_group + own].astype(np.float32)
    return returned


def add_diversity_bonus(worlds: Worlds, ended: NDArray[np.int64], rewards: NDArray[np.float32]) -> None:
    """Multiply the rewards `[agents]` of the worlds `ended`, where the bonus is enabled, by `diversity_factor`."""
    for world in ended.tolist():
        if worlds.compiled.configs[int(worlds.ruleset[world])].game.diversity_bonus_enabled:
            rewards[worlds.rows_of(world)] *= diversity_factor(worlds, world).astype(np.float32)


def diversity_factor(worlds: Worlds, world: int) -> NDArray[np.float64]:
    """Factor by which the diversity bonus multiplies the last reward of an episode. `[agents of the world] float64`

        1 + similarity_coef * s(own group) + diversity_coef * mean of (1 - s(g)) over the other groups g
        s(g) = exp(-|r - mean(g)| / (std(g) + 1e-6))

    r is the agent's individual reward over the episode; mean(g) and std(g) are over the agents of group g.
    """
    compiled = worlds.compiled
    game = compiled.configs[int(worlds.ruleset[world])].game
    rows = worlds.rows_of(world)
    own = worlds.group_row[rows]
    r = worlds.individual_rewards[rows].astype(np.float64)
    factor = np.ones(len(r))
    present = np.unique(own)
    similarity = {
        group: np.exp(-np.abs(r - r[own == group].mean()) / (r[own == group].std() + 1e-6))
        for group in present.tolist()
    }
    for group in present.tolist():
        members = own == group
        factor[members] += game.similarity_coef * similarity[group][members]
        others = [1 - similarity[other][members] for other in present.tolist() if other != group]
        if others:
            factor[members] += game.diversity_coef * np.mean(others, axis=0)
    return factor
