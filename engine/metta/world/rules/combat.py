"""The first pass of a step: attacks, and what comes with them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta.geometry import COUNTERCLOCKWISE, STEPS
from metta.world.rules.inventory import Rows, can_afford, check_items, pay, update_items
from metta.world.rules.turn_order import Turn, conflict_free_batches
from metta.world.state.compiled_config import ABSENT, ATTACK_REACH, FIRST_PASS, Kind
from metta.world.state.worlds import Worlds

# by orientation, (rows, cols) of one cell ahead and of one cell to the left: "d cells ahead and o cells to the left" is
# d * AHEAD + o * LEFT
AHEAD = np.array(STEPS)
LEFT = AHEAD[list(COUNTERCLOCKWISE)]

NEAREST_ORDER = [(distance, side) for distance in range(1, ATTACK_REACH + 1) for side in (0, 1, -1)]
ARGUMENT_ORDER = [(distance, side) for distance in range(1, ATTACK_REACH + 1) for side in (1, 0, -1)]

NOBODY = -1


def attack_offsets(worlds: Worlds, order: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Grid offsets of (distance, side) places, by orientation. `[orientations, places]`"""
    places = np.array(order)
    steps = places[None, :, :1] * AHEAD[:, None, :] + places[None, :, 1:] * LEFT[:, None, :]
    offsets: NDArray[np.int64] = steps[..., 0] * worlds.stride + steps[..., 1]
    return offsets


def run_attack_phase(worlds: Worlds, turn: Turn) -> None:
    """Attacks in turn order, and the first of the two penalties of an unknown action id.

    An attack changes nobody but the attacker and the victim, and nobody moves in this pass: so whom an attack would hit
    is known beforehand, and attacks with no agent in common can be carried out at once.
    """
    rows = turn.rows_of(FIRST_PASS)
    if not rows.size:
        return
    # who is frozen or cannot pay now will not be able to later in this pass, and touches nobody else
    able = ((turn.kind[rows] >= Kind.ATTACK) & (worlds.freeze[rows] == 0)).nonzero()[0]
    attackers = rows[able]
    able = able[can_afford(worlds, attackers, turn.action_row[attackers])]
    if not able.size:
        _take_turns(worlds, turn, rows, None)
        return
    victims = np.full(len(rows), NOBODY)
    victims[able] = find_victims(worlds, turn, rows[able])
    locks = (rows, np.where(victims == NOBODY, rows, victims))
    for ready in conflict_free_batches(worlds, turn, rows, locks):
        _take_turns(worlds, turn, rows[ready], victims[ready])


def _take_turns(worlds: Worlds, turn: Turn, rows: Rows, victims: Rows | None) -> None:
    """Turns of the first pass that have no agent in common, from beginning to end; `victims` None: nobody is hit.

    An agent may hit itself.
    """
    is_attack = turn.kind[rows] >= Kind.ATTACK
    punish_invalid(worlds, turn, rows[~is_attack])
    if np.count_nonzero(worlds.freeze):
        hold_frozen(worlds, turn, rows[is_attack])
        is_attack = turn.kind[rows] >= Kind.ATTACK
    attackers = rows[is_attack]
    pays = pay(worlds, attackers, turn.action_row[attackers])
    if victims is not None:
        hits = (pays & (victims[is_attack] != NOBODY)).nonzero()[0]
        if hits.size:
            worlds.success[attackers[hits]] = True
            _hit(worlds, turn, attackers[hits], victims[is_attack][hits])
    punish_failed(worlds, attackers)


def find_victims(worlds: Worlds, turn: Turn, rows: Rows) -> NDArray[np.int64]:
    """The agent each attack would hit, NOBODY if none. `[rows]`"""
    victims = np.full(len(rows), NOBODY)
    is_nearest = turn.kind[rows] == Kind.ATTACK_NEAREST
    aimed = np.flatnonzero(~is_nearest & (turn.argument[rows] > 0))  # argument 0 aims at nothing
    if aimed.size:
        agents = rows[aimed]
        offsets = attack_offsets(worlds, ARGUMENT_ORDER)
        _, entities = worlds.look_at(agents, offsets[worlds.orientation[agents], turn.argument[agents] - 1])
        victims[aimed] = worlds.agent_in(entities)
    nearest = np.flatnonzero(is_nearest)
    if nearest.size:
        agents = np.repeat(rows[nearest], len(NEAREST_ORDER))
        offsets = attack_offsets(worlds, NEAREST_ORDER)[worlds.orientation[rows[nearest]]]
        _, entities = worlds.look_at(agents, offsets.ravel())
        seen = worlds.agent_in(entities).reshape(offsets.shape)
        first = (seen != NOBODY).argmax(axis=1)
        victims[nearest] = seen[np.arange(len(nearest)), first]
    return victims


def punish_invalid(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    """Count and punish an action id or argument that does not exist."""
    if not rows.size:
        return
    columns, is_unknown = worlds.agent_columns, turn.kind[rows] == Kind.UNKNOWN
    worlds.count(rows, np.where(is_unknown, columns.invalid_type, columns.invalid_arg))
    worlds.reward[rows] -= worlds.compiled.groups.failure_penalty[worlds.group_row[rows]]
    pairs = zip(
        rows.tolist(), is_unknown.tolist(), turn.action[rows].tolist(), turn.argument[rows].tolist(), strict=True
    )
    for row, unknown, action, argument in pairs:
        worlds.invalid[row, "invalid_type" if unknown else "invalid_arg", action, argument] += 1


def punish_failed(worlds: Worlds, rows: Rows) -> None:
    """Take the penalty from those of `rows` that did not succeed."""
    if worlds.compiled.has_penalty:
        failed = rows[~worlds.success[rows]]
        worlds.reward[failed] -= worlds.compiled.groups.failure_penalty[worlds.group_row[failed]]


def hold_frozen(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    """Whoever is frozen loses this turn, and one of the turns it has to lose."""
    frozen = rows[worlds.freeze[rows] != 0]
    if frozen.size:
        turn.kind[frozen] = Kind.FROZEN
        worlds.count(frozen, worlds.agent_columns.frozen_ticks)
        counting = frozen[worlds.freeze[frozen] > 0]  # -1 is for ever
        worlds.freeze[counting] -= 1
        turn.thawed[counting] = worlds.freeze[counting] == 0


def _hit(worlds: Worlds, turn: Turn, rows: Rows, victims: Rows) -> None:
    columns, groups = worlds.agent_columns, worlds.compiled.num_groups
    own, other = worlds.group_row[rows] % groups, worlds.group_row[victims] % groups
    attack = np.searchsorted(columns.attacks, turn.action[rows])
    worlds.count(rows, columns.hit + attack * groups + other)

    was_frozen = worlds.freeze[victims] > 0  # being frozen for ever does not count as frozen here
    blocked = _defend(worlds, victims, turn.action_row[rows])
    worlds.count(rows[blocked], columns.blocked + other[blocked])

    struck = ~blocked
    worlds.freeze[victims[struck]] = worlds.compiled.groups.freeze_duration[worlds.group_row[victims[struck]]]

    won = struck & ~was_frozen
    worlds.count(rows[won], columns.win + other[won])
    worlds.count(victims[won], columns.loss + own[won])
    _steal(worlds, rows[won], victims[won])


def _defend(worlds: Worlds, victims: Rows, action_rows: Rows) -> NDArray[np.bool_]:
    """Whether each victim holds all of the defense, which it then loses."""
    defense = worlds.compiled.actions.defense[action_rows]
    items: list[int] = np.flatnonzero((defense != ABSENT).any(axis=0)).tolist()
    has_defense = (defense != ABSENT).any(axis=1)
    blocked = np.zeros(len(victims), np.bool_)
    blocked[has_defense] = check_items(
        worlds, victims[has_defense], worlds.compiled.actions.defense, action_rows[has_defense], items
    )
    for item in items:
        loses = (blocked & (defense[:, item] != ABSENT)).nonzero()[0]
        if loses.size:
            update_items(worlds, victims[loses], item, -defense[loses, item])
    return blocked


def _steal(worlds: Worlds, rows: Rows, victims: Rows) -> None:
    """Each attacker takes all its victim holds, item by item, as far as its caps allow."""
    columns = worlds.agent_columns
    has_token = worlds.has_token[victims]
    for item in np.flatnonzero(has_token.any(axis=0)).tolist():
        robs = has_token[:, item].nonzero()[0]
        thieves, robbed = rows[robs], victims[robs]
        taken = update_items(worlds, thieves, item, worlds.inventory[robbed, item].astype(np.int64))
        update_items(worlds, robbed, item, -taken)
        worlds.count(thieves, columns.stolen + item, taken)
        worlds.count(robbed, columns.stolen_from + item, taken)
