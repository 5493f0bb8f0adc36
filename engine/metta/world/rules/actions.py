"""Main phase of a step: all actions except attacks (rotate, color, move, swap, converters, gift), one function each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from metta.geometry import CLOCKWISE
from metta.world.rules.combat import penalize_failed, penalize_invalid, skip_frozen
from metta.world.rules.converters import get_items, put_items, use_converter
from metta.world.rules.custom_rules import act_custom, touched_cells, use_objects
from metta.world.rules.inventory import Rows, pay, update_items
from metta.world.rules.turn_order import RowsByKind, Turns, conflict_free_batches
from metta.world.state.compiled_config import (
    ALWAYS_SUCCEEDS,
    CHANGES_CELL,
    CUSTOM,
    CUSTOM_MOVING,
    CUSTOM_REACHING,
    FIRST_AHEAD,
    FIRST_ATTACK,
    FIRST_REACHING,
    INVALID,
    LAST_REFUSED,
    MAIN_PHASE,
    MOVE,
    SWAP,
    USES_CONVERTER,
    TurnKind,
)
from metta.world.state.worlds import EMPTY, Worlds

TURN_CLOCKWISE = np.array(CLOCKWISE)

NO_ROWS = np.zeros(0, np.int64)
NOBODY = np.uint64(np.iinfo(np.uint64).max)
"""An order key after those of all agents."""

_color = np.arange(256)
COLOR_AFTER = np.stack(
    [np.minimum(_color + 1, 255), np.maximum(_color - 1, 0), np.where(_color <= 127, _color * 2, _color), _color // 2]
)
"""The color after `change_color`, indexed by argument (+1, -1, double, half) and by the color before. `[4, 256]`"""


def run_main_phase(worlds: Worlds, turns: Turns) -> None:
    """Execute all actions except attacks, in turn order.

    Unknown action ids are penalized again, after a first time in the attack phase, as in MettaGrid.
    """
    turns.thawed[:] = False  # agents that thawed in the attack phase are not frozen in this phase
    if _has_conflicts(worlds, turns):
        for rows in _batches_by_cell(worlds, turns):
            _execute(worlds, turns, rows)
    else:
        _execute(worlds, turns, worlds.all_agents)


def count_actions(worlds: Worlds, turns: Turns) -> None:
    """Count each agent's action as a success or failure, unless it is invalid or the agent is frozen."""
    is_counted = turns.kind >= FIRST_ATTACK
    # unknown actions have no column; for them, 0 is added to the column of another action
    column = worlds.success * worlds.compiled.success_columns
    column += worlds.failed_start
    column += turns.known_action
    counters = worlds.agent_counters.ravel()
    counters[column] += is_counted


def _has_conflicts(worlds: Worlds, turns: Turns) -> bool:
    """Whether turns of different kinds may depend on each other: see `_execute`."""
    compiled = worlds.compiled
    if compiled.has_reaching_kinds and (turns.kind >= FIRST_REACHING).any():
        return True
    # a door that is opened can be entered, and an object that is entered cannot be used
    if not compiled.types.has_walkable:
        return False
    return bool(((turns.kind >= USES_CONVERTER[0]) & (turns.kind <= USES_CONVERTER[1])).any())


def _batches_by_cell(worlds: Worlds, turns: Turns) -> Iterator[Rows]:
    """Yield agent rows in batches to execute one after the other, as if all turns were executed in turn order.

    Turns that have a cell in common with a reaching turn, or with one that has, and so on, are in different batches if
    they have a cell in common: neither those of the agents nor those that the turns read or change. If a turn may move
    or turn an agent before that agent's own turn, the cells in its world are found again for every batch.
    """
    locks = np.stack(_touched_cells(worlds, turns, worlds.all_agents))
    is_pending = _is_connected(worlds, turns, locks)
    rows, changing = is_pending.nonzero()[0], NO_ROWS
    displaced = _first_displaced(worlds, turns, worlds.all_agents, locks)
    if displaced is not None:
        changes = (displaced < NOBODY)[worlds.world_of_agent]
        rows, in_changing = rows[~changes[rows]], changes.nonzero()[0]
        is_pending[in_changing] |= turns.order_key(in_changing) > displaced[worlds.world_of_agent[in_changing]]
        changing = in_changing[is_pending[in_changing]]
    batches = (rows[ready] for ready in conflict_free_batches(worlds, turns, rows, list(locks[:, rows])))
    free = (~is_pending).nonzero()[0]
    for batch, other in zip_longest(batches, _batches_of_changing(worlds, turns, changing), fillvalue=NO_ROWS):
        yield np.concatenate([free, batch, other])
        free = NO_ROWS


def _batches_of_changing(worlds: Worlds, turns: Turns, rows: Rows) -> Iterator[Rows]:
    """`_batches_by_cell` of the worlds in which turns move or turn agents. `rows` are the pending turns.

    Turns after that of such an agent wait for it, since its cells are not known before.
    """
    while rows.size:
        locks = _touched_cells(worlds, turns, rows)
        ready = next(conflict_free_batches(worlds, turns, rows, locks))
        displaced = _first_displaced(worlds, turns, rows, np.stack(locks))
        if displaced is not None:
            ready = ready[turns.order_key(rows[ready]) <= displaced[worlds.world_of_agent[rows[ready]]]]
        yield rows[ready]
        rows = np.delete(rows, ready)


def _first_displaced(worlds: Worlds, turns: Turns, rows: Rows, locks: NDArray[np.int64]) -> NDArray[np.uint64] | None:
    """The order key of the first agent of each world that an earlier turn may move or turn. `[worlds] uint64`

    NOBODY in worlds without one; None if there is none at all. `rows` are the pending turns, `locks [cells, rows]`
    their cells.
    """
    kind = turns.kind[rows]
    displaces = kind == CUSTOM_MOVING
    if worlds.compiled.has_swaps and worlds.compiled.custom_actions:
        displaces |= kind == SWAP  # of a frozen agent, which may be unfrozen before its turn
    displacing = displaces.nonzero()[0]
    if not displacing.size:
        return None
    cells = locks[1:, displacing]
    others, agents = worlds.agents_among(worlds.grid[cells]), np.broadcast_to(rows[displacing], cells.shape)
    is_other = (others >= 0) & (others != agents)
    if not is_other.any():
        return None
    is_pending = np.zeros(worlds.agents, np.bool_)
    is_pending[rows] = kind > LAST_REFUSED
    others, agents = others[is_other], agents[is_other]
    keys = turns.order_key(others)
    is_displaced = is_pending[others] & (keys > turns.order_key(agents))
    if not is_displaced.any():
        return None
    first = np.full(worlds.num_worlds, NOBODY)
    np.minimum.at(first, worlds.world_of_agent[others[is_displaced]], keys[is_displaced])
    return first


def _is_connected(worlds: Worlds, turns: Turns, locks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each turn shares cells with a reaching turn or the use of a walkable object, directly or by other turns.

    `locks [cells of a turn, agents]` are the cells that the turns read or change.
    """
    is_connected: NDArray[np.bool_] = turns.kind >= FIRST_REACHING
    if worlds.compiled.types.has_walkable:
        is_used = (turns.kind >= USES_CONVERTER[0]) & (turns.kind <= USES_CONVERTER[1])
        is_connected |= is_used & (worlds.floor.take(locks[1], mode="clip") != EMPTY)
    is_shared = np.zeros(len(worlds.grid), np.bool_)
    count = 0
    while (found := int(np.count_nonzero(is_connected))) > count:
        count = found
        is_shared[locks[:, is_connected]] = True
        is_connected = np.logical_or.reduce(is_shared.take(locks))
    return is_connected


def _touched_cells(worlds: Worlds, turns: Turns, rows: Rows) -> list[NDArray[np.int64]]:
    """The cells that the turn of each agent reads or changes, several arrays `[rows] int64`."""
    kind, own = turns.kind[rows], worlds.cell[rows]
    # XOR with 1 reverses an orientation (0 and 1, 2 and 3 are opposite): argument 1 of `move` moves backward
    facing = worlds.orientation[rows] ^ (turns.argument[rows] * (kind == MOVE))
    target = own + worlds.step_offset[facing]
    # other turns depend on nobody; the cell of the agent's globals is a lock that no other turn has
    own = np.where(kind > LAST_REFUSED, own, worlds.globals_cell[rows])
    is_ahead = (kind >= FIRST_AHEAD) & (kind != CUSTOM)
    locks = [own, np.where(is_ahead, target, own)]
    if any(callable(action.options.touches) for action in worlds.compiled.custom_actions):
        custom = (kind >= CUSTOM_REACHING).nonzero()[0]
        for cells in touched_cells(worlds, turns, rows[custom]).T:
            locks.append(own.copy())
            locks[-1][custom] = cells
    return locks


def _execute(worlds: Worlds, turns: Turns, rows: Rows) -> None:
    """Execute turns of the main phase; those of FIRST_REACHING and above must have no cell in common with others.

    The same holds for turns that use walkable objects. Only two of the other kinds of turns can conflict: those that
    use the same converter, and moves and swaps that share a cell.
    Costs, rotations and color changes affect only the acting agent.
    """
    if np.count_nonzero(worlds.freeze):
        skip_frozen(worlds, turns, rows[turns.kind[rows] > LAST_REFUSED])
    if worlds.compiled.main_phase_has_costs:
        acting = rows[turns.kind[rows] > LAST_REFUSED]
        turns.kind[acting[~pay(worlds, acting, turns.action_row[acting])]] = TurnKind.REFUSED
    by_kind = RowsByKind(turns, rows)
    penalize_invalid(worlds, turns, by_kind[INVALID])
    worlds.success[by_kind[ALWAYS_SUCCEEDS]] = True
    for kinds, act in ACTION_FUNCTIONS.items():
        if (agents := by_kind[kinds]).size:
            act(worlds, turns, agents)
    if worlds.compiled.has_penalty:
        penalize_failed(worlds, by_kind[MAIN_PHASE])


def _rotate(worlds: Worlds, turns: Turns, rows: Rows) -> None:
    worlds.orientation[rows] = turns.argument[rows]


def _rotate_by(worlds: Worlds, turns: Turns, rows: Rows) -> None:
    quarters = worlds.compiled.actions.delta[turns.action_row[rows]] % 4
    for quarter in range(1, 4):
        turning = rows[quarters >= quarter]
        worlds.orientation[turning] = TURN_CLOCKWISE[worlds.orientation[turning]]


def _change_color(worlds: Worlds, turns: Turns, rows: Rows) -> None:
    worlds.color[rows] = COLOR_AFTER[turns.argument[rows], worlds.color[rows]]


def _use_converters(worlds: Worlds, turns: Turns, rows: Rows) -> None:
    """Execute put_items, get_items and use; turns at the same converter are executed in turn order."""
    _, entities = worlds.look_ahead(rows)
    at_converter = (entities >= worlds.first_converter).nonzero()[0]
    if not at_converter.size:
        return
    rows, converters = rows[at_converter], entities[at_converter].astype(np.int64) - worlds.first_converter
    kind = turns.kind[rows]
    if worlds.compiled.has_use:
        is_usable = worlds.compiled.actions.usable_types[turns.action_row[rows], worlds.converter_type[converters]]
        valid = ((kind != TurnKind.USE) | is_usable).nonzero()[0]
        rows, converters, kind = rows[valid], converters[valid], kind[valid]
    for ready in conflict_free_batches(worlds, turns, rows, (converters,)):
        if worlds.compiled.custom_objects:
            is_custom = worlds.compiled.types.is_custom[worlds.converter_type[converters[ready]]]
            used, ready = ready[is_custom], ready[~is_custom]
            worlds.success[rows[used]] = use_objects(worlds, rows[used], converters[used])
        ready_kind = kind[ready]
        for action_kind, act in CONVERTER_ACTIONS.items():
            acting = ready[ready_kind == action_kind]
            if acting.size:
                worlds.success[rows[acting]] = act(worlds, rows[acting], converters[acting])


CONVERTER_ACTIONS = {TurnKind.PUT_ITEMS: put_items, TurnKind.GET_ITEMS: get_items, TurnKind.USE: use_converter}
"""The function that executes each kind of turn at a converter."""


def _move_and_swap(worlds: Worlds, turns: Turns, rows: Rows) -> None:
    """Execute moves and swaps; those that share a start or target cell are executed in turn order."""
    is_move = turns.kind[rows] == TurnKind.MOVE
    # XOR with 1 reverses an orientation (0 and 1, 2 and 3 are opposite): argument 1 of `move` moves backward
    targets, entities = worlds.look_toward(rows, worlds.orientation[rows] ^ turns.argument[rows])
    is_possible = worlds.may_be_vacated(entities)
    if worlds.compiled.types.has_walkable:
        is_possible |= worlds.is_enterable(entities)
    possible = is_possible.nonzero()[0]
    rows, targets, is_move = rows[possible], targets[possible], is_move[possible]
    for ready in conflict_free_batches(worlds, turns, rows, (worlds.cell[rows], targets)):
        moves = is_move[ready]
        moving, swapping = ready[moves], ready[~moves]
        if moving.size:
            _move(worlds, rows[moving], targets[moving])
        if swapping.size:
            _swap(worlds, turns, rows[swapping], targets[swapping])


def _move(worlds: Worlds, rows: Rows, targets: NDArray[np.int64]) -> None:
    is_free = worlds.is_enterable(worlds.grid[targets])
    rows, targets = rows[is_free], targets[is_free]
    starts = worlds.cell[rows]
    worlds.grid[targets] = worlds.grid[starts]
    worlds.leave(starts)
    worlds.cell[rows] = targets
    worlds.success[rows] = True


def _swap(worlds: Worlds, turns: Turns, rows: Rows, targets: NDArray[np.int64]) -> None:
    entities = worlds.grid[targets]
    occupied = (entities != EMPTY).nonzero()[0]
    if not occupied.size:
        return
    rows, targets, entities = rows[occupied], targets[occupied], entities[occupied]
    can_swap = (entities >= worlds.first_swappable) & (entities < worlds.first_agent)
    others = worlds.agents_among(entities)
    with_agent = (others >= 0).nonzero()[0]
    if with_agent.size:
        can_swap[with_agent] = _is_still_frozen(worlds, turns, others[with_agent], rows[with_agent])
    swapping = can_swap.nonzero()[0]
    if not swapping.size:
        return
    rows, targets, entities, others = rows[swapping], targets[swapping], entities[swapping], others[swapping]
    starts = worlds.cell[rows]
    worlds.grid[targets] = worlds.grid[starts]
    worlds.grid[starts] = entities
    worlds.cell[rows] = targets
    is_agent = others >= 0
    worlds.cell[others[is_agent]] = starts[is_agent]
    worlds.success[rows] = True
    columns = worlds.agent_columns
    type_index = np.where(is_agent, columns.swappable_types, entities - worlds.first_swappable)
    swap = np.searchsorted(columns.swaps, turns.action[rows])
    worlds.count(rows, columns.swapped + swap * (columns.swappable_types + 1) + type_index)


def _is_still_frozen(worlds: Worlds, turns: Turns, others: Rows, rows: Rows) -> NDArray[np.bool_]:
    """Whether each of `others` is frozen at the turn of the agent in `rows` that swaps with it. `[rows] bool`

    Freeze counters are decreased before swaps are executed, but an agent that thaws stays frozen until its own turn.
    """
    is_later = turns.order_key(others) > turns.order_key(rows)
    is_frozen: NDArray[np.bool_] = (worlds.freeze[others] != 0) | (turns.thawed[others] & is_later)
    return is_frozen


def _gift(worlds: Worlds, turns: Turns, rows: Rows) -> None:
    """Give one unit of an item to the agent ahead. `rows` has at most one agent per world."""
    _, entities = worlds.look_ahead(rows)
    receivers = worlds.agents_among(entities)
    items = worlds.compiled.actions.gift_item[turns.action_row[rows]]
    has_room = worlds.inventory[receivers, items] < worlds.compiled.groups.cap[worlds.group_row[receivers], items]
    gives = (receivers >= 0) & (receivers != rows) & (worlds.inventory[rows, items] > 0) & has_room
    rows, receivers, items = rows[gives], receivers[gives], items[gives]
    update_items(worlds, rows, items, np.full(len(rows), -1))
    update_items(worlds, receivers, items, np.full(len(rows), 1))
    worlds.success[rows] = True


ACTION_FUNCTIONS: dict[tuple[int, int], Callable[[Worlds, Turns, Rows], None]] = {
    (TurnKind.ROTATE, TurnKind.ROTATE): _rotate,
    (TurnKind.ROTATE_BY, TurnKind.ROTATE_BY): _rotate_by,
    (TurnKind.CHANGE_COLOR, TurnKind.CHANGE_COLOR): _change_color,
    USES_CONVERTER: _use_converters,
    CHANGES_CELL: _move_and_swap,
    (TurnKind.CUSTOM, TurnKind.CUSTOM): act_custom,
    (TurnKind.GIFT, TurnKind.GIFT): _gift,
    (TurnKind.CUSTOM_REACHING, TurnKind.CUSTOM_MOVING): act_custom,
}
"""The function that executes each range of kinds; kinds that can conflict with each other have the same function."""
