"""What agents hold, what it is worth, and what an action costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.world.state.compiled_config import ABSENT
from metta.world.state.worlds import Worlds

Rows = NDArray[np.int64]
"""Distinct agent rows, unless said otherwise."""


def update_items(worlds: Worlds, rows: Rows, items: Rows | int, change: NDArray[np.int64]) -> NDArray[np.int64]:
    """Change an item of each agent within its cap, with counters and reward; the change that happened."""
    old = worlds.inventory[rows, items].astype(np.int64)
    new = np.clip(old + change, 0, worlds.compiled.groups.cap[worlds.group_row[rows], items])
    happened: NDArray[np.int64] = new - old
    worlds.inventory[rows, items] = new
    worlds.has_token[rows, items] = new > 0
    worlds.items_changed[rows] = True
    columns = worlds.agent_columns
    column = columns.lost + (columns.gained - columns.lost) * (happened > 0) + items
    worlds.count(rows, column, np.abs(happened))
    _reward_worth(worlds, rows)
    return happened


def _reward_worth(worlds: Worlds, rows: Rows) -> None:
    """Reward each agent with what the worth of its inventory has changed by.

    float32 in the order of the original: products rounded, then added in item order. Accumulating adds one by one
    where a sum may add in pairs.
    """
    groups, group_row = worlds.compiled.groups, worlds.group_row[rows]
    counted = np.minimum(worlds.inventory[rows].astype(np.float32), groups.reward_cap[group_row])
    worth = np.add.accumulate(groups.reward[group_row] * counted, axis=1)[:, -1]
    worlds.reward[rows] += worth - worlds.score[rows]
    worlds.score[rows] = worth


def check_items(
    worlds: Worlds, rows: Rows, needed: NDArray[np.int64], action_rows: Rows, items: list[int]
) -> NDArray[np.bool_]:
    """Whether each agent holds all that `needed [actions, items]` asks for its action, ABSENT: not asked.

    Only `items` are needed by anyone.

    Items are asked for one by one up to the first lack. Being asked for lists an item: it shows as a token, be it with
    amount 0.
    """
    enough = np.ones(len(rows), np.bool_)
    for item in items:
        amount = needed[:, item][action_rows]
        asked = (enough & (amount != ABSENT)).nonzero()[0]
        agents = rows[asked]
        fresh = agents[~worlds.has_token[:, item][agents]]
        if fresh.size:
            worlds.has_token[fresh, item] = True
            worlds.items_changed[fresh] = True
        enough[asked] = worlds.inventory[:, item][agents] >= amount[asked]
    return enough


def can_afford(worlds: Worlds, rows: Rows, action_rows: Rows) -> NDArray[np.bool_]:
    """Whether each agent's action is possible and it holds what that requires; asks without leaving a trace."""
    actions = worlds.compiled.actions
    affords = actions.possible[action_rows]
    for (
        item
    ) in worlds.compiled.priced_items:  # a column first: rows of a column take a third of the time of both at once
        affords &= worlds.inventory[:, item][rows] >= actions.required[:, item][action_rows]
    return affords


def pay(worlds: Worlds, rows: Rows, action_rows: Rows) -> NDArray[np.bool_]:
    """Check and take what each agent's action costs; whether it may go on.

    What is taken is lost even if the action then fails. An action that is not possible costs nothing.
    """
    actions, items = worlds.compiled.actions, worlds.compiled.priced_items
    may_act = actions.possible[action_rows]
    costly = (may_act & actions.has_cost[action_rows]).nonzero()[0]
    if costly.size:
        enough = check_items(worlds, rows[costly], actions.required, action_rows[costly], items)
        may_act[costly] = enough
        paying = costly[enough]
        if paying.size:
            _take(worlds, rows[paying], action_rows[paying])
    return may_act


def _take(worlds: Worlds, rows: Rows, action_rows: Rows) -> None:
    actions = worlds.compiled.actions
    for item in worlds.compiled.priced_items:
        consumed, required = actions.consumed[:, item][action_rows], actions.required[:, item][action_rows]
        # a required item is updated even when none of it is consumed
        touched = ((consumed != ABSENT) | (required != ABSENT)).nonzero()[0]
        if touched.size:
            update_items(worlds, rows[touched], item, -np.maximum(consumed[touched], 0))
