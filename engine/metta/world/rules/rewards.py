"""The rewards that `step` returns: sharing within and between groups, and the diversity bonus."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.world.state.worlds import Worlds


def share_rewards(worlds: Worlds) -> NDArray[np.float32]:
    """The reward of each agent after sharing. `[agents] float32`

    Each agent gives a fraction of its reward to its own group (`group_reward_pct`) and to other groups
    (`reward_sharing_groups`). The sum that a group receives is split evenly among its agents in the same world.
    """
    compiled = worlds.compiled
    returned = worlds.reward.copy()
    if not compiled.rulesets.shares_rewards:
        return returned
    groups, count = compiled.groups, compiled.num_groups
    own = worlds.group_row % count
    first_pot = worlds.world_of_agent * count  # a pot per group and world: the sum that it receives
    sizes = np.bincount(first_pot + own, minlength=worlds.num_worlds * count)
    pots = np.zeros(worlds.num_worlds * count)

    def give(share: NDArray[np.float32], pot: NDArray[np.int64]) -> None:
        # float32 products and quotients, summed in float64 in the order of agents, as in the original
        given = worlds.reward * share
        given[sizes[pot] == 0] = 0  # the group has no agent in this world
        np.subtract(returned, given, out=returned)
        split = given / np.maximum(sizes[pot], 1).astype(np.float32)
        pots[:] += np.bincount(pot, split, len(pots))

    give(groups.reward_share[worlds.group_row], first_pot + own)
    for taker in range(count):
        if groups.share_to[:, taker].any():
            give(groups.share_to[worlds.group_row, taker], first_pot + taker)
    returned += pots[first_pot + own].astype(np.float32)
    return returned


def diversity_factor(worlds: Worlds, world: int) -> NDArray[np.float64]:
    """The factor of the diversity bonus on the last reward of an episode, for each agent of a world. `[agents]`

    1 + similarity_coef * exp(-|r - own mean| / own std) + diversity_coef * mean over the other groups of
    (1 - exp(-|r - their mean| / their std)), with r the agent's individual reward of the episode.
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
