"""The first pass of a step: attacks, and what comes with them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.world.inventory import Rows, can_afford, check_items, pay, update_items
from metta.world.rules import ABSENT, ATTACK_REACH, Kind
from metta.world.state import Worlds
from metta.world.turns import Turn, rounds

# "d cells ahead and o to the left" as (row, col) = d * AHEAD + o * LEFT, by orientation: up, down, left, right
AHEAD = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
LEFT = np.array([(0, -1), (0, 1), (1, 0), (-1, 0)])

NEAREST_ORDER = [(distance, side) for distance in range(1, ATTACK_REACH + 1) for side in (0, 1, -1)]
ARGUMENT_ORDER = [(distance, side) for distance in range(1, ATTACK_REACH + 1) for side in (1, 0, -1)]

NOBODY = -1


def attack_offsets(worlds: Worlds, order: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Grid offsets of (distance, side) places, by orientation. `[orientations, places]`"""
    places = np.array(order)
    steps = places[None, :, :1] * AHEAD[:, None, :] + places[None, :, 1:] * LEFT[:, None, :]
    offsets: NDArray[np.int64] = steps[..., 0] * worlds.stride + steps[..., 1]
    return offsets


def take_first_pass(worlds: Worlds, turn: Turn) -> None:
    """Attacks in turn order, and the first of the two penalties of an unknown action id.

    An attack changes nobody but the attacker and the victim, and nobody moves in this pass: so whom an attack would hit
    is known beforehand, and attacks with no agent in common can be carried out at once.
    """
    rows = np.flatnonzero(turn.attacks | ~turn.known)
    if not rows.size:
        return
    victims = np.full(len(rows), NOBODY)
    # who is frozen or cannot pay now will not be able to later in this pass, and touches nobody else
    able = np.flatnonzero(turn.valid[rows] & (worlds.freeze[rows] == 0))
    able = able[can_afford(worlds, rows[able], turn.action_row[rows[able]])]
    victims[able] = find_victims(worlds, turn, rows[able])
    locks = np.stack([rows, np.where(victims == NOBODY, rows, victims)], axis=1)
    for ready in rounds(worlds, turn, rows, locks):
        agents = rows[ready]
        is_valid = turn.valid[agents]
        punish_invalid(worlds, turn, agents[~is_valid])
        _attack(worlds, turn, agents[is_valid], victims[ready[is_valid]])


def find_victims(worlds: Worlds, turn: Turn, rows: Rows) -> NDArray[np.int64]:
    """The agent each attack would hit, NOBODY if none. `[rows]`"""
    victims = np.full(len(rows), NOBODY)
    is_nearest = turn.kind[rows] == Kind.ATTACK_NEAREST
    aimed = np.flatnonzero(~is_nearest & (turn.argument[rows] > 0))  # argument 0 aims at nothing
    if aimed.size:
        agents = rows[aimed]
        offsets = attack_offsets(worlds, ARGUMENT_ORDER)
        cells = worlds.cell_at(agents, offsets[worlds.orientation[agents], turn.argument[agents] - 1])
        victims[aimed] = worlds.agent_in(cells)
    nearest = np.flatnonzero(is_nearest)
    if nearest.size:
        agents = np.repeat(rows[nearest], len(NEAREST_ORDER))
        offsets = attack_offsets(worlds, NEAREST_ORDER)[worlds.orientation[rows[nearest]]]
        seen = worlds.agent_in(worlds.cell_at(agents, offsets.ravel())).reshape(offsets.shape)
        first = (seen != NOBODY).argmax(axis=1)
        victims[nearest] = seen[np.arange(len(nearest)), first]
    return victims


def punish_invalid(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    """Count and punish an action id or argument that does not exist."""
    if not rows.size:
        return
    columns, known = worlds.agent_columns, turn.known[rows]
    worlds.count(rows, np.where(known, columns.invalid_arg, columns.invalid_type))
    worlds.reward[rows] -= worlds.rules.groups.failure_penalty[worlds.group_row[rows]]
    for row, is_known in zip(rows.tolist(), known.tolist(), strict=True):
        what = "invalid_arg" if is_known else "invalid_type"
        worlds.invalid[row, what, int(turn.action[row]), int(turn.argument[row])] += 1


def begin(worlds: Worlds, turn: Turn, rows: Rows) -> NDArray[np.bool_]:
    """The start of every valid action: the frozen lose it, the others pay; who may go on. `[rows]`"""
    may_act = np.zeros(len(rows), np.bool_)
    is_frozen = worlds.freeze[rows] != 0
    frozen = rows[is_frozen]
    if frozen.size:
        worlds.count(frozen, worlds.agent_columns.frozen_ticks)
        counting = frozen[worlds.freeze[frozen] > 0]  # -1 is for ever
        worlds.freeze[counting] -= 1
        turn.thawed[counting] = worlds.freeze[counting] == 0
    moving = np.flatnonzero(~is_frozen)
    turn.acted[rows[moving]] = True
    may_act[moving] = pay(worlds, rows[moving], turn.action_row[rows[moving]])
    return may_act


def finish(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    """The end of every valid action: count how it went and take the penalty of those that failed."""
    rows = rows[turn.acted[rows]]
    success, columns = worlds.success[rows], worlds.agent_columns
    worlds.count(rows, np.where(success, columns.success, columns.failed) + turn.action[rows])
    failed = rows[~success]
    worlds.reward[failed] -= worlds.rules.groups.failure_penalty[worlds.group_row[failed]]


def _attack(worlds: Worlds, turn: Turn, rows: Rows, victims: Rows) -> None:
    """Attacks that have no agent in common, from the frozen check to the penalty. An agent may hit itself."""
    if not rows.size:
        return
    hits = begin(worlds, turn, rows) & (victims != NOBODY)
    worlds.success[rows[hits]] = True
    if hits.any():
        _hit(worlds, turn, rows[hits], victims[hits])
    finish(worlds, turn, rows)


def _hit(worlds: Worlds, turn: Turn, rows: Rows, victims: Rows) -> None:
    columns, groups = worlds.agent_columns, worlds.rules.num_groups
    own, other = worlds.group_row[rows] % groups, worlds.group_row[victims] % groups
    attack = np.searchsorted(columns.attacks, turn.action[rows])
    worlds.count(rows, columns.hit + attack * groups + other)

    was_frozen = worlds.freeze[victims] > 0  # being frozen for ever does not count as frozen here
    blocked = _defend(worlds, victims, turn.action_row[rows])
    worlds.count(rows[blocked], columns.blocked + other[blocked])

    struck = ~blocked
    worlds.freeze[victims[struck]] = worlds.rules.groups.freeze_duration[worlds.group_row[victims[struck]]]

    won = struck & ~was_frozen
    worlds.count(rows[won], columns.win + other[won])
    worlds.count(victims[won], columns.loss + own[won])
    _steal(worlds, rows[won], victims[won])


def _defend(worlds: Worlds, victims: Rows, action_rows: Rows) -> NDArray[np.bool_]:
    """Whether each victim holds all of the defense, which it then loses."""
    defense = worlds.rules.actions.defense[action_rows]
    has_defense = (defense != ABSENT).any(axis=1)
    blocked = np.zeros(len(victims), np.bool_)
    blocked[has_defense] = check_items(worlds, victims[has_defense], defense[has_defense])
    for item in np.flatnonzero((defense[blocked] != ABSENT).any(axis=0)).tolist():
        loses = np.flatnonzero(blocked & (defense[:, item] != ABSENT))
        update_items(worlds, victims[loses], np.full(len(loses), item), -defense[loses, item])
    return blocked


def _steal(worlds: Worlds, rows: Rows, victims: Rows) -> None:
    """Each attacker takes all its victim holds, item by item, as far as its caps allow."""
    columns = worlds.agent_columns
    listed = worlds.listed[victims]
    for item in np.flatnonzero(listed.any(axis=0)).tolist():
        robs = np.flatnonzero(listed[:, item])
        thieves, robbed, items = rows[robs], victims[robs], np.full(len(robs), item)
        taken = update_items(worlds, thieves, items, worlds.inventory[robbed, item].astype(np.int64))
        update_items(worlds, robbed, items, -taken)
        worlds.count(thieves, columns.stolen + item, taken)
        worlds.count(robbed, columns.stolen_from + item, taken)
