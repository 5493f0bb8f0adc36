"""The second pass of a step: every action but attacks, one function each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from metta.world.combat import begin, finish, punish_invalid
from metta.world.converters import get_items, put_items, use_converter
from metta.world.inventory import Rows, update_items
from metta.world.rules import Kind
from metta.world.state import EMPTY, TURN_CLOCKWISE, Worlds
from metta.world.turns import Turn, rounds


def take_second_pass(worlds: Worlds, turn: Turn) -> None:
    """All actions but attacks in turn order, and the second penalty of an unknown action id."""
    turn.thawed[:] = False  # who thawed in the first pass is free all through this one
    givers = _find_gifts(worlds, turn)
    if givers is None:
        _take_turns(worlds, turn, np.flatnonzero(~turn.attacks))
        return
    for before, giving in _between_gifts(worlds, turn, givers):
        _take_turns(worlds, turn, before)
        _take_turns(worlds, turn, giving)


def _find_gifts(worlds: Worlds, turn: Turn) -> NDArray[np.int64] | None:
    """The agents that may hand something over in this step, None if nobody does."""
    if not worlds.rules.has_gifts:
        return None
    rows = np.flatnonzero(turn.valid & (turn.kind == Kind.GIFT))
    return rows if rows.size else None


def _between_gifts(worlds: Worlds, turn: Turn, givers: Rows) -> list[tuple[Rows, Rows]]:
    """Cut each world's turns at its gifts: (everybody before a gift, who gives it), then the next.

    A gift depends on who stands where and who holds what at that moment, so all turns before it must be over.
    """
    rows = np.flatnonzero(~turn.attacks)
    is_giver = np.zeros(worlds.agents, np.bool_)
    is_giver[givers] = True
    in_order = rows[np.lexsort((turn.key(rows), worlds.world[rows]))]
    gives = is_giver[in_order].astype(np.int64)
    given = np.cumsum(gives) - gives  # gifts before this turn, in all worlds before it too
    first_of_world = np.searchsorted(worlds.world[in_order], worlds.world[in_order])
    part = given - given[first_of_world]
    parts = []
    for number in range(int(part.max()) + 1):
        here = in_order[part == number]
        parts.append((np.sort(here[~is_giver[here]]), here[is_giver[here]]))
    return parts


def _take_turns(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    """Turns of the second pass that no gift lies between.

    What a turn costs is its agent's own business, and so is rotating or changing color. Converters stay where they are,
    so only turns at the same converter meet. Moves and swaps meet where they share a cell.
    """
    is_valid = turn.valid[rows]
    punish_invalid(worlds, turn, rows[~is_valid])
    rows = rows[is_valid]
    acting = rows[begin(worlds, turn, rows)]
    kind = turn.kind[acting]
    worlds.success[acting[(kind == Kind.NOOP)]] = True
    _rotate(worlds, turn, acting[kind == Kind.ROTATE])
    _turn_by(worlds, turn, acting[kind == Kind.TURN])
    _change_color(worlds, turn, acting[kind == Kind.CHANGE_COLOR])
    _work_converters(worlds, turn, acting[(kind == Kind.PUT_ITEMS) | (kind == Kind.GET_ITEMS) | (kind == Kind.USE)])
    _move_and_swap(worlds, turn, acting[(kind == Kind.MOVE) | (kind == Kind.SWAP)])
    _gift(worlds, turn, acting[kind == Kind.GIFT])
    finish(worlds, turn, rows)


def _rotate(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    worlds.orientation[rows] = turn.argument[rows]
    worlds.success[rows] = True


def _turn_by(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    quarters = worlds.rules.actions.delta[turn.action_row[rows]] % 4
    for quarter in range(1, 4):
        turning = rows[quarters >= quarter]
        worlds.orientation[turning] = TURN_CLOCKWISE[worlds.orientation[turning]]
    worlds.success[rows] = True


def _change_color(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    color, argument = worlds.color[rows], turn.argument[rows]
    doubled = np.where(color <= 127, color * 2, color)
    changed = [np.minimum(color + 1, 255), np.maximum(color - 1, 0), doubled, color // 2]
    worlds.color[rows] = np.choose(argument, changed)
    worlds.success[rows] = True


def _work_converters(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    """put_items, get_items and use: turns at the same converter one after the other."""
    converters = worlds.grid[worlds.cell_ahead(rows)].astype(np.int64) - worlds.first_converter
    at_converter = converters >= 0
    rows, converters = rows[at_converter], converters[at_converter]
    works: list[tuple[Kind, Callable[[Worlds, Rows, Rows], NDArray[np.bool_]]]] = [
        (Kind.PUT_ITEMS, put_items),
        (Kind.GET_ITEMS, get_items),
        (Kind.USE, use_converter),
    ]
    usable = worlds.rules.actions.works_on[turn.action_row[rows], worlds.converter_type[converters]]
    for ready in rounds(worlds, turn, rows, converters[:, None]) if rows.size else ():
        kind = turn.kind[rows[ready]]
        for of_kind, work in works:
            chosen = ready[(kind == of_kind) & ((of_kind != Kind.USE) | usable[ready])]
            if chosen.size:
                worlds.success[rows[chosen]] = work(worlds, rows[chosen], converters[chosen])


def _move_and_swap(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    """Moves and swaps: those that want a cell another one wants or stands in go one after the other."""
    is_move = turn.kind[rows] == Kind.MOVE
    # directions come in opposite pairs: argument 1 of a move walks backwards
    direction = worlds.orientation[rows] ^ np.where(is_move, turn.argument[rows], 0)
    targets = worlds.cell_at(rows, worlds.step_offset[direction])
    things = worlds.grid[targets]
    may_open = (things == EMPTY) | ((things >= worlds.first_swappable) & (things < worlds.first_converter))
    rows, targets, is_move = rows[may_open], targets[may_open], is_move[may_open]
    locks = np.stack([worlds.cell[rows], targets], axis=1)
    for ready in rounds(worlds, turn, rows, locks) if rows.size else ():
        moving = ready[is_move[ready]]
        _move(worlds, rows[moving], targets[moving])
        swapping = ready[~is_move[ready]]
        _swap(worlds, turn, rows[swapping], targets[swapping])


def _move(worlds: Worlds, rows: Rows, targets: NDArray[np.int64]) -> None:
    is_free = worlds.grid[targets] == EMPTY
    rows, targets = rows[is_free], targets[is_free]
    worlds.grid[targets] = worlds.grid[worlds.cell[rows]]
    worlds.grid[worlds.cell[rows]] = EMPTY
    worlds.cell[rows] = targets
    worlds.success[rows] = True


def _swap(worlds: Worlds, turn: Turn, rows: Rows, targets: NDArray[np.int64]) -> None:
    things = worlds.grid[targets]
    others = worlds.agent_in(targets)
    is_wall = (things >= worlds.first_swappable) & (things < worlds.first_agent)
    # the other's freeze has been counted down already: it was still frozen if its turn comes only after this one
    still_frozen = (worlds.freeze[others] != 0) | (turn.thawed[others] & (turn.key(others) > turn.key(rows)))
    swaps = is_wall | ((others >= 0) & (others != rows) & still_frozen)
    rows, targets, things, others = rows[swaps], targets[swaps], things[swaps], others[swaps]
    left = worlds.cell[rows]
    worlds.grid[targets] = worlds.grid[left]
    worlds.grid[left] = things
    worlds.cell[rows] = targets
    moved = others >= 0
    worlds.cell[others[moved]] = left[moved]
    worlds.success[rows] = True
    columns = worlds.agent_columns
    what = np.where(moved, columns.swappable_types, things - worlds.first_swappable)
    swap = np.searchsorted(columns.swaps, turn.action[rows])
    worlds.count(rows, columns.swapped + swap * (columns.swappable_types + 1) + what)


def _gift(worlds: Worlds, turn: Turn, rows: Rows) -> None:
    """One unit to the agent ahead. There is at most one gift a world here, so nobody else's turn is in the way."""
    if not rows.size:
        return
    receivers = worlds.agent_in(worlds.cell_ahead(rows))
    items = worlds.rules.actions.gift_item[turn.action_row[rows]]
    has_room = worlds.inventory[receivers, items] < worlds.rules.groups.cap[worlds.group_row[receivers], items]
    gives = (receivers >= 0) & (receivers != rows) & (worlds.inventory[rows, items] > 0) & has_room
    rows, receivers, items = rows[gives], receivers[gives], items[gives]
    update_items(worlds, rows, items, np.full(len(rows), -1))
    update_items(worlds, receivers, items, np.full(len(rows), 1))
    worlds.success[rows] = True
