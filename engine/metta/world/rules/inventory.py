"""Agent inventories: changes within caps, the rewards of items, and the resources that actions require and consume."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.world.state.compiled_config import ABSENT
from metta.world.state.worlds import Worlds

Rows = NDArray[np.int64]
"""Rows of agents, distinct unless stated otherwise."""

IS_ABSENT = np.array(ABSENT)


def update_items(worlds: Worlds, rows: Rows, items: Rows | int, change: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add `change [rows]` to the amount of an item of each agent, clipped to [0, cap]; update counters and rewards.

    `items` is one item id, or one per agent. Returns the change after clipping. `[rows] int64`
    """
    old = worlds.inventory[rows, items].astype(np.int64)
    new = np.clip(old + change, 0, worlds.compiled.groups.cap[worlds.group_row[rows], items])
    actual: NDArray[np.int64] = new - old
    worlds.inventory[rows, items] = new
    worlds.has_token[rows, items] = new > 0
    worlds.items_changed[rows] = True
    columns = worlds.agent_columns
    column = columns.lost + (columns.gained - columns.lost) * (actual > 0) + items
    worlds.count(rows, column, np.abs(actual))
    _reward_inventory(worlds, rows)
    return actual


def _reward_inventory(worlds: Worlds, rows: Rows) -> None:
    """Add the change in the value of each agent's inventory to its reward.

    The value is a float32 sum of products in item order, to agree with MettaGrid bit for bit. `np.add.accumulate` adds
    sequentially, whereas `np.sum` may add pairwise.
    """
    groups, group_row = worlds.compiled.groups, worlds.group_row[rows]
    counted = np.minimum(worlds.inventory[rows].astype(np.float32), groups.reward_cap[group_row])
    score = np.add.accumulate(groups.reward[group_row] * counted, axis=1)[:, -1]
    worlds.reward[rows] += score - worlds.score[rows]
    worlds.score[rows] = score


def check_items(
    worlds: Worlds, rows: Rows, needed: NDArray[np.int64], action_rows: Rows, items: list[int]
) -> NDArray[np.bool_]:
    """Whether each agent holds the amounts that its action needs. `[rows] bool`

    `needed [actions, items]` are amounts or ABSENT; `items` are the item ids that any action needs. Items are checked
    in order up to the first one that the agent lacks. As in MettaGrid, a checked item gets a token in observations,
    even if its amount is 0.
    """
    enough = np.ones(len(rows), np.bool_)
    for item in items:
        amount = needed[:, item][action_rows]
        is_checked = enough & (amount != IS_ABSENT)
        is_untokened = is_checked & ~worlds.has_token[:, item][rows]
        if np.count_nonzero(is_untokened):
            untokened = rows[is_untokened]
            worlds.has_token[untokened, item] = True
            worlds.items_changed[untokened] = True
        enough &= worlds.inventory[:, item][rows] >= amount  # an amount that is ABSENT is below all others
    return enough


def can_afford(worlds: Worlds, rows: Rows, action_rows: Rows) -> NDArray[np.bool_]:
    """Whether each agent's action is enabled and the agent holds its required resources. `[rows] bool`

    Unlike `pay`, it changes no state.
    """
    actions = worlds.compiled.actions
    affords = actions.possible[action_rows]
    for item in worlds.compiled.cost_items:
        # `array[:, item][rows]` takes a third of the time of `array[rows, item]`
        affords &= worlds.inventory[:, item][rows] >= actions.required[:, item][action_rows]
    return affords


def pay(worlds: Worlds, rows: Rows, action_rows: Rows) -> NDArray[np.bool_]:
    """Check and consume the resources of each agent's action. Returns whether it can be executed. `[rows] bool`

    Resources are consumed even if the action then fails. A disabled action consumes nothing.
    """
    actions, items = worlds.compiled.actions, worlds.compiled.cost_items
    may_act = actions.possible[action_rows]
    costly = actions.pays[action_rows].nonzero()[0]
    if costly.size:
        enough = check_items(worlds, rows[costly], actions.required, action_rows[costly], items)
        may_act[costly] = enough
        if np.count_nonzero(enough):
            paying = costly[enough]
            _consume(worlds, rows[paying], action_rows[paying])
    return may_act


def _consume(worlds: Worlds, rows: Rows, action_rows: Rows) -> None:
    actions = worlds.compiled.actions
    for item in worlds.compiled.cost_items:
        consumed, required = actions.consumed[:, item][action_rows], actions.required[:, item][action_rows]
        # required items are updated even if nothing is consumed: the update removes tokens of amount 0
        touched = ((consumed != ABSENT) | (required != ABSENT)).nonzero()[0]
        if touched.size:
            update_items(worlds, rows[touched], item, -np.maximum(consumed[touched], 0))
