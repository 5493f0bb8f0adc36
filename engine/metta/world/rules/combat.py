"""Attack phase of a step: attacks, freezing, stealing; also the penalties of failed and invalid actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metta.config.env.objects import ATTACK_RANGE, ATTACK_TARGETS
from metta.geometry import COUNTERCLOCKWISE, STEPS
from metta.world.rules.inventory import Rows, can_afford, check_items, pay, update_items
from metta.world.rules.turn_order import Turns, conflict_free_batches
from metta.world.state.compiled_config import ABSENT, FIRST_ATTACK, TurnKind
from metta.world.state.worlds import Worlds

# (row, col) offsets of the cell ahead and the cell to the left, indexed by orientation. `[4, 2]`
AHEAD = np.array(STEPS)
LEFT = AHEAD[list(COUNTERCLOCKWISE)]

NEAREST_ORDER = [(distance, side) for distance in range(1, ATTACK_RANGE + 1) for side in (0, 1, -1)]
"""(cells ahead, cells to the left) of the targets of `attack_nearest`, in the order in which they are searched."""

NO_AGENT = -1
NOT_FROZEN = np.array(0)


def attack_offsets(worlds: Worlds, order: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Grid index offsets of targets given as (cells ahead, cells to the left). `[4 orientations, targets] int64`"""
    targets = np.array(order)
    steps = targets[None, :, :1] * AHEAD[:, None, :] + targets[None, :, 1:] * LEFT[:, None, :]
    offsets: NDArray[np.int64] = steps[..., 0] * worlds.stride + steps[..., 1]
    return offsets


def run_attack_phase(worlds: Worlds, turns: Turns) -> None:
    """Execute attacks in turn order, and penalize unknown action ids; the main phase does so again, as in MettaGrid.

    An attack changes only the attacker and the victim, and no agent moves in this phase. Victims are therefore found in
    advance, and attacks that have no agent in common are executed at once.
    """
    rows = turns.in_attack_phase()
    if not rows.size:
        return
    # agents that are frozen or lack resources now cannot attack later in this phase, and affect no other agent
    able = ((turns.kind[rows] >= FIRST_ATTACK) & (worlds.freeze[rows] == NOT_FROZEN)).nonzero()[0]
    attackers = rows[able]
    able = able[can_afford(worlds, attackers, turns.action_row[attackers])]
    if not able.size:
        _execute(worlds, turns, rows, None)
        return
    victims = np.full(len(rows), NO_AGENT)
    victims[able] = find_victims(worlds, turns, rows[able])
    locks = (rows, np.where(victims == NO_AGENT, rows, victims))
    for ready in conflict_free_batches(worlds, turns, rows, locks):
        _execute(worlds, turns, rows[ready], victims[ready])


def _execute(worlds: Worlds, turns: Turns, rows: Rows, victims: Rows | None) -> None:
    """Execute turns of the attack phase that have no agent in common.

    `victims [rows]` are rows of agents or NO_AGENT; None: no attack hits. An agent can hit itself (see `look_at`).
    """
    is_attack = turns.kind[rows] >= FIRST_ATTACK
    penalize_invalid(worlds, turns, rows[~is_attack])
    if np.count_nonzero(worlds.freeze):
        skip_frozen(worlds, turns, rows[is_attack])
        is_attack = turns.kind[rows] >= FIRST_ATTACK
    attackers = rows[is_attack]
    pays = pay(worlds, attackers, turns.action_row[attackers])
    if victims is not None:
        hits = (pays & (victims[is_attack] != NO_AGENT)).nonzero()[0]
        if hits.size:
            worlds.success[attackers[hits]] = True
            _hit(worlds, turns, attackers[hits], victims[is_attack][hits])
    penalize_failed(worlds, attackers)


def find_victims(worlds: Worlds, turns: Turns, rows: Rows) -> NDArray[np.int64]:
    """The row of the agent that each attack would hit, NO_AGENT if none. `[rows] int64`"""
    victims = np.full(len(rows), NO_AGENT)
    is_nearest = turns.kind[rows] == TurnKind.ATTACK_NEAREST
    aimed = np.flatnonzero(~is_nearest & (turns.argument[rows] > 0))  # argument 0 has no target
    if aimed.size:
        agents = rows[aimed]
        offsets = attack_offsets(worlds, ATTACK_TARGETS)
        _, entities = worlds.look_at(agents, offsets[worlds.orientation[agents], turns.argument[agents] - 1])
        victims[aimed] = worlds.agents_among(entities)
    nearest = np.flatnonzero(is_nearest)
    if nearest.size:
        agents = np.repeat(rows[nearest], len(NEAREST_ORDER))
        offsets = attack_offsets(worlds, NEAREST_ORDER)[worlds.orientation[rows[nearest]]]
        _, entities = worlds.look_at(agents, offsets.ravel())
        found = worlds.agents_among(entities).reshape(offsets.shape)
        first = (found != NO_AGENT).argmax(axis=1)
        victims[nearest] = found[np.arange(len(nearest)), first]
    return victims


def penalize_invalid(worlds: Worlds, turns: Turns, rows: Rows) -> None:
    """Count unknown action ids and invalid arguments, and subtract the failure penalty from the rewards."""
    if not rows.size:
        return
    columns, is_unknown = worlds.agent_columns, turns.kind[rows] == TurnKind.UNKNOWN_ACTION
    worlds.count(rows, np.where(is_unknown, columns.invalid_type, columns.invalid_arg))
    worlds.reward[rows] -= worlds.compiled.groups.failure_penalty[worlds.group_row[rows]]
    pairs = zip(
        rows.tolist(), is_unknown.tolist(), turns.action[rows].tolist(), turns.argument[rows].tolist(), strict=True
    )
    for row, unknown, action, argument in pairs:
        worlds.invalid[row, "invalid_type" if unknown else "invalid_arg", action, argument] += 1


def penalize_failed(worlds: Worlds, rows: Rows) -> None:
    """Subtract the failure penalty from the rewards of the agents among `rows` whose action did not succeed."""
    if worlds.compiled.has_penalty:
        failed = rows[~worlds.success[rows]]
        worlds.reward[failed] -= worlds.compiled.groups.failure_penalty[worlds.group_row[failed]]


def skip_frozen(worlds: Worlds, turns: Turns, rows: Rows) -> None:
    """Skip the turns of frozen agents and decrease their freeze counters."""
    frozen = rows[worlds.freeze[rows] != 0]
    if frozen.size:
        turns.kind[frozen] = TurnKind.FROZEN
        worlds.count(frozen, worlds.agent_columns.frozen_ticks)
        counting = frozen[worlds.freeze[frozen] > 0]  # -1: permanently
        worlds.freeze[counting] -= 1
        turns.thawed[counting] = worlds.freeze[counting] == 0


def _hit(worlds: Worlds, turns: Turns, rows: Rows, victims: Rows) -> None:
    """Apply the hit of each attacker on its victim: count it, then defend, freeze and steal.

    A victim that was already frozen is frozen again, but nothing is stolen from it.
    """
    columns, groups = worlds.agent_columns, worlds.compiled.num_groups
    own, other = worlds.group_row[rows] % groups, worlds.group_row[victims] % groups
    attack = np.searchsorted(columns.attacks, turns.action[rows])
    worlds.count(rows, columns.hit + attack * groups + other)

    was_frozen = worlds.freeze[victims] > 0  # as in MettaGrid, permanently frozen (-1) does not count as frozen here
    blocked = _defend(worlds, victims, turns.action_row[rows])
    worlds.count(rows[blocked], columns.blocked + other[blocked])

    frozen = victims[~blocked]
    worlds.freeze[frozen] = worlds.compiled.groups.freeze_duration[worlds.group_row[frozen]]

    wins = ~blocked & ~was_frozen
    worlds.count(rows[wins], columns.win + other[wins])
    worlds.count(victims[wins], columns.loss + own[wins])
    _steal(worlds, rows[wins], victims[wins])


def _defend(worlds: Worlds, victims: Rows, action_rows: Rows) -> NDArray[np.bool_]:
    """Whether each victim has the `defense_resources` of the attack, which are consumed if so. `[victims] bool`"""
    defense = worlds.compiled.actions.defense[action_rows]
    items: list[int] = np.flatnonzero((defense != ABSENT).any(axis=0)).tolist()
    has_defense = (defense != ABSENT).any(axis=1)
    blocked = np.zeros(len(victims), np.bool_)
    blocked[has_defense] = check_items(
        worlds, victims[has_defense], worlds.compiled.actions.defense, action_rows[has_defense], items
    )
    for item in items:
        consumes = (blocked & (defense[:, item] != ABSENT)).nonzero()[0]
        if consumes.size:
            update_items(worlds, victims[consumes], item, -defense[consumes, item])
    return blocked


def _steal(worlds: Worlds, rows: Rows, victims: Rows) -> None:
    """Transfer the inventory of each victim to its attacker, limited by the attacker's caps."""
    columns = worlds.agent_columns
    has_token = worlds.has_token[victims]
    for item in np.flatnonzero(has_token.any(axis=0)).tolist():
        pairs = has_token[:, item].nonzero()[0]
        attackers, losers = rows[pairs], victims[pairs]
        taken = update_items(worlds, attackers, item, worlds.inventory[losers, item].astype(np.int64))
        update_items(worlds, losers, item, -taken)
        worlds.count(attackers, columns.stolen + item, taken)
        worlds.count(losers, columns.stolen_from + item, taken)
