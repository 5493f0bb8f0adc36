"""What agents hold, what it is worth, and what an action costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.world.rules import ABSENT
from metta.world.state import Worlds

Rows = NDArray[np.int64]
"""Distinct agent rows, unless said otherwise."""


def update_items(worlds: Worlds, rows: Rows, items: Rows, change: NDArray[np.int64]) -> NDArray[np.int64]:
    """Change one item of each agent within its cap, with counters and reward; the change that happened."""
    old = worlds.inventory[rows, items].astype(np.int64)
    new = np.clip(old + change, 0, worlds.rules.groups.cap[worlds.group_row[rows], items])
    happened: NDArray[np.int64] = new - old
    worlds.inventory[rows, items] = new
    worlds.listed[rows, items] = new > 0
    worlds.items_changed[rows] = True
    columns = worlds.agent_columns
    worlds.count(rows, np.where(happened > 0, columns.gained, columns.lost) + items, np.abs(happened))
    _reward_worth(worlds, rows)
    return happened


def _reward_worth(worlds: Worlds, rows: Rows) -> None:
    """Reward each agent with what the worth of its inventory has changed by.

    float32 in the order of the original: products rounded, then added in item order. Accumulating adds one by one
    where a sum may add in pairs.
    """
    groups, group_row = worlds.rules.groups, worlds.group_row[rows]
    counted = np.minimum(worlds.inventory[rows].astype(np.float32), groups.reward_cap[group_row])
    worth = np.add.accumulate(groups.reward[group_row] * counted, axis=1)[:, -1]
    worlds.reward[rows] += worth - worlds.score[rows]
    worlds.score[rows] = worth


def check_items(worlds: Worlds, rows: Rows, needed: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each agent holds all it needs, `[rows, items]`, ABSENT: not asked.

    Items are asked for one by one up to the first lack. Being asked for lists an item: it shows as a
    token, be it with amount 0.
    """
    enough = np.ones(len(rows), np.bool_)
    for item in np.flatnonzero((needed != ABSENT).any(axis=0)).tolist():
        asked = np.flatnonzero(enough & (needed[:, item] != ABSENT))
        agents = rows[asked]
        worlds.listed[agents, item] = True
        worlds.items_changed[agents] = True
        enough[asked] = worlds.inventory[agents, item] >= needed[asked, item]
    return enough


def can_afford(worlds: Worlds, rows: Rows, action_rows: Rows) -> NDArray[np.bool_]:
    """Whether each agent holds what its action requires; asks without leaving a trace."""
    required = worlds.rules.actions.required[action_rows]
    return worlds.rules.actions.possible[action_rows] & (worlds.inventory[rows] >= required).all(axis=1)


def pay(worlds: Worlds, rows: Rows, action_rows: Rows) -> NDArray[np.bool_]:
    """Check and take what each agent's action costs; whether it may go on.

    What is taken is lost even if the action then fails.
    """
    actions = worlds.rules.actions
    may_act = actions.possible[action_rows].copy()
    costly = np.flatnonzero(may_act & actions.has_cost[action_rows])
    if costly.size:
        required = actions.required[action_rows[costly]]
        enough = check_items(worlds, rows[costly], required)
        may_act[costly] = enough
        paying = costly[enough]
        taken = actions.consumed[action_rows[paying]]
        # a required item is updated even when none of it is consumed
        touched = (taken != ABSENT) | (required[enough] != ABSENT)
        for item in np.flatnonzero(touched.any(axis=0)).tolist():
            takes = np.flatnonzero(touched[:, item])
            agents = rows[paying[takes]]
            update_items(worlds, agents, np.full(len(agents), item), -np.maximum(taken[takes, item], 0))
    return may_act
