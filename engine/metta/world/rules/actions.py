"""The second pass of a step: every action but attacks, one function each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from metta.geometry import CLOCKWISE
from metta.world.rules.combat import hold_frozen, punish_failed, punish_invalid
from metta.world.rules.converters import get_items, put_items, use_converter
from metta.world.rules.inventory import Rows, pay, update_items
from metta.world.rules.turn_order import ByKind, Turn, conflict_free_batches
from metta.world.state.compiled_config import ACTS, ALWAYS_WORKS, AT_CONVERTER, INVALID, LEAVES_CELL, SECOND_PASS, Kind
from metta.world.state.worlds import EMPTY, Worlds

TURN_CLOCKWISE = np.array(CLOCKWISE)

_color = np.arange(256)
COLOR_AFTER = np.stack(
    [np.minimum(_color + 1, 255), np.maximum(_color - 1, 0), np.where(_color <= 127, _color * 2, _color), _color // 2]
)
"""What change_color makes of a color, by its argument: one more, one less, double, half. `[arguments, 256]`"""


def run_main_phase(worlds: Worlds, turn: Turn) -> None:
    """All actions but attacks in turn order, and the second penalty of an unknown action id."""
    turn.thawed[:] = False  # who thawed in the first pass is free all through this one
    if worlds.compiled.has_gifts and (turn.kind == Kind.GIFT).any():
        for rows in _cut_at_gifts(worlds, turn):
            _take_turns(worlds, turn, rows)
    else:
        _take_turns(worlds, turn, worlds.everyone)


def count_actions(worlds: Worlds, turn: Turn) -> None:
    """Count everybody's success or failure; turns that were lost or invalid count as neither."""
    acted = turn.kind >= ACTS[0]
    # an unknown action has no column; adding nothing to another's does no harm
    column = worlds.failed_start + turn.known_action
    column += worlds.compiled.num_actions * worlds.success
    worlds.agent_counters.ravel()[column] += acted


def _cut_at_gifts(worlds: Worlds, turn: Turn) -> Iterator[Rows]:
    """Each world's turns in order, cut before and after each gift: everybody before it, who gives it, and so on.

    A gift depends on who stands where and who holds what at that moment, so all turns before it must be over.
    """
    in_order = np.lexsort((turn.key(worlds.everyone), worlds.world))
    gives = (turn.kind[in_order] == Kind.GIFT).reshape(worlds.num_worlds, -1)
    # parts 0, 2, 4, ... lie between gifts, parts 1, 3, 5, ... are gifts
    part = 2 * gives.cumsum(axis=1) - gives
    for number in range(int(part.max()) + 1):
        rows = in_order[(part == number).ravel()]
        rows.sort()
        yield rows


def _take_turns(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    """Turns of the second pass among `rows` that no gift lies between.

    What a turn costs is its agent's own business, and so is rotating or changing color. Converters stay where they are,
    so only turns at the same converter meet. Moves and swaps meet where they share a cell.
    """
    if np.count_nonzero(worlds.freeze):
        hold_frozen(worlds, turn, rows[turn.kind[rows] > Kind.REFUSED])
    if worlds.compiled.second_pass_costs:
        acting = rows[turn.kind[rows] > Kind.REFUSED]
        turn.kind[acting[~pay(worlds, acting, turn.action_row[acting])]] = Kind.REFUSED
    by_kind = ByKind(turn, rows)
    punish_invalid(worlds, turn, by_kind[INVALID])
    worlds.success[by_kind[ALWAYS_WORKS]] = True
    for kind, act in ACTIONS.items():
        if (agents := by_kind[kind]).size:
            act(worlds, turn, agents)
    punish_failed(worlds, by_kind[SECOND_PASS])


def _rotate(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    worlds.orientation[rows] = turn.argument[rows]


def _turn_by(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    quarters = worlds.compiled.actions.delta[turn.action_row[rows]] % 4
    for quarter in range(1, 4):
        turning = rows[quarters >= quarter]
        worlds.orientation[turning] = TURN_CLOCKWISE[worlds.orientation[turning]]


def _change_color(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    worlds.color[rows] = COLOR_AFTER[turn.argument[rows], worlds.color[rows]]


def _work_converters(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    """put_items, get_items and use: turns at the same converter one after the other."""
    _, entities = worlds.look_ahead(rows)
    at_converter = (entities >= worlds.first_converter).nonzero()[0]
    if not at_converter.size:
        return
    rows, converters = rows[at_converter], entities[at_converter].astype(np.int64) - worlds.first_converter
    kind = turn.kind[rows]
    if worlds.compiled.has_use:
        usable = worlds.compiled.actions.works_on[turn.action_row[rows], worlds.converter_type[converters]]
        working = ((kind != Kind.USE) | usable).nonzero()[0]
        rows, converters, kind = rows[working], converters[working], kind[working]
    for ready in conflict_free_batches(worlds, turn, rows, (converters,)):
        works = kind[ready]
        for work_kind, work in WORK.items():
            here = ready[works == work_kind]
            if here.size:
                worlds.success[rows[here]] = work(worlds, rows[here], converters[here])


WORK = {Kind.PUT_ITEMS: put_items, Kind.GET_ITEMS: get_items, Kind.USE: use_converter}
"""What each kind of turn at a converter does there."""


def _move_and_swap(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    """Moves and swaps: those that want a cell another one wants or stands in go one after the other."""
    is_move = turn.kind[rows] == Kind.MOVE
    # directions come in opposite pairs: argument 1 of a move walks backwards (a swap has no other argument than 0)
    targets, entities = worlds.look(rows, worlds.orientation[rows] ^ turn.argument[rows])
    hopeful = worlds.may_make_way(entities).nonzero()[0]
    rows, targets, is_move = rows[hopeful], targets[hopeful], is_move[hopeful]
    for ready in conflict_free_batches(worlds, turn, rows, (worlds.cell[rows], targets)):
        moves = is_move[ready]
        moving, swapping = ready[moves], ready[~moves]
        if moving.size:
            _move(worlds, rows[moving], targets[moving])
        if swapping.size:
            _swap(worlds, turn, rows[swapping], targets[swapping])


def _move(worlds: Worlds, rows: Rows, targets: NDArray[np.int64]) -> None:
    is_free = worlds.grid[targets] == EMPTY
    rows, targets = rows[is_free], targets[is_free]
    left = worlds.cell[rows]
    worlds.grid[targets] = worlds.grid[left]
    worlds.grid[left] = EMPTY
    worlds.cell[rows] = targets
    worlds.success[rows] = True


def _swap(worlds: Worlds, turn: Turn, rows: Rows, targets: NDArray[np.int64]) -> None:
    entities = worlds.grid[targets]
    full = (entities != EMPTY).nonzero()[0]
    if not full.size:
        return
    rows, targets, entities = rows[full], targets[full], entities[full]
    swaps = (entities >= worlds.first_swappable) & (entities < worlds.first_agent)
    others = worlds.agent_in(entities)
    met = (others >= 0).nonzero()[0]
    if met.size:
        swaps[met] = _is_still_frozen(worlds, turn, others[met], rows[met])
    swapping = swaps.nonzero()[0]
    if not swapping.size:
        return
    rows, targets, entities, others = rows[swapping], targets[swapping], entities[swapping], others[swapping]
    left = worlds.cell[rows]
    worlds.grid[targets] = worlds.grid[left]
    worlds.grid[left] = entities
    worlds.cell[rows] = targets
    is_agent = others >= 0
    worlds.cell[others[is_agent]] = left[is_agent]
    worlds.success[rows] = True
    columns = worlds.agent_columns
    what = np.where(is_agent, columns.swappable_types, entities - worlds.first_swappable)
    swap = np.searchsorted(columns.swaps, turn.action[rows])
    worlds.count(rows, columns.swapped + swap * (columns.swappable_types + 1) + what)


def _is_still_frozen(worlds: Worlds, turn: Turn, others: Rows, rows: Rows) -> NDArray[np.bool_]:
    """Whether each of `others` is frozen when the turn of its partner in `rows` comes.

    Freezes have been counted down already: who thawed in this pass was still frozen if its turn comes after.
    """
    is_later = turn.key(others) > turn.key(rows)
    is_frozen: NDArray[np.bool_] = (worlds.freeze[others] != 0) | (turn.thawed[others] & is_later)
    return is_frozen


def _gift(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    """One unit to the agent ahead. There is at most one gift a world here, and nothing else happens there."""
    _, entities = worlds.look_ahead(rows)
    receivers = worlds.agent_in(entities)
    items = worlds.compiled.actions.gift_item[turn.action_row[rows]]
    has_room = worlds.inventory[receivers, items] < worlds.compiled.groups.cap[worlds.group_row[receivers], items]
    gives = (receivers >= 0) & (receivers != rows) & (worlds.inventory[rows, items] > 0) & has_room
    rows, receivers, items = rows[gives], receivers[gives], items[gives]
    update_items(worlds, rows, items, np.full(len(rows), -1))
    update_items(worlds, receivers, items, np.full(len(rows), 1))
    worlds.success[rows] = True


ACTIONS: dict[int | tuple[int, int], Callable[[Worlds, Turn, Rows], None]] = {
    Kind.ROTATE: _rotate,
    Kind.TURN: _turn_by,
    Kind.CHANGE_COLOR: _change_color,
    AT_CONVERTER: _work_converters,
    LEAVES_CELL: _move_and_swap,
    Kind.GIFT: _gift,
}
"""What each kind of turn does; kinds that can be in each other's way are one entry."""
