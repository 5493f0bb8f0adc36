"""Calls of registered actions and objects: their functions, with the worlds, and checks of their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from metta.errors import Noted, UsageError
from metta.world.parts.editor import WorldsEditor
from metta.world.parts.part_call import PartCall
from metta.world.parts.view import WorldsView
from metta.world.rules.converters import advance_converters
from metta.world.rules.inventory import Rows
from metta.world.rules.turn_order import Turns
from metta.world.state.compiled_rules import CompiledAction, CompiledObject
from metta.world.state.worlds import Worlds

View = TypeVar("View", bound=WorldsView)

FIRST_DRAW_OF_USE: Final = 65536
"""Random numbers of `use` are others than those of `step` of the same object in the same step. All uses of an object in
a step have the same numbers, however turns are divided into batches."""


def act_custom(worlds: Worlds, turns: Turns, rows: Rows) -> None:
    """Execute turns of registered actions."""
    action_rows = turns.action_row[rows]
    for action in worlds.compiled.custom_actions:
        agents = rows[action.has_row[action_rows]]
        if agents.size:
            editor = WorldsEditor(worlds, None if action.options.moves_others else agents)
            success = _act(editor, worlds, action, action.function, agents, turns.argument[agents])
            worlds.success[agents] = _checked(success, (len(agents),), f"{action.title} returned", worlds)


def use_objects(worlds: Worlds, rows: Rows, objects: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Let agents use objects of registered types, agent `rows[i]` the distinct `objects[i]`. `[rows] bool`"""
    success = np.zeros(len(rows), np.bool_)
    types = worlds.converter_type[objects]
    for kind in worlds.compiled.custom_objects:
        used = kind.has_row[types].nonzero()[0]
        if used.size and kind.use is not None:
            editor = _begin(WorldsEditor(worlds, rows[used]), kind, FIRST_DRAW_OF_USE)
            with Noted(f"{kind.title} was used in step {worlds.clock}"):
                result = kind.use(editor, rows[used], objects[used])
            success[used] = _checked(result, (len(used),), f"{kind.title}: use returned", worlds)
    return success


def advance_objects(worlds: Worlds) -> None:
    """Let converters, then objects of registered types change, at the start of a step."""
    advance_converters(worlds)
    for kind in worlds.compiled.custom_objects:
        if kind.step is not None:
            is_placed = kind.has_row[worlds.converter_type]
            is_placed &= worlds.converter_cell >= 0
            objects = is_placed.nonzero()[0]
            if objects.size:
                editor = _begin(WorldsEditor(worlds), kind)
                with Noted(f"{kind.title} was called in step {worlds.clock}"):
                    kind.step(editor, objects)


def touched_cells(worlds: Worlds, turns: Turns, rows: Rows) -> NDArray[np.int64]:
    """The cells that functions name as those that turns of registered actions touch. `[rows, cells] int64`

    Cells outside of the map are those of the agent, and so are those of actions without such a function.
    """
    action_rows, own = turns.action_row[rows], worlds.cell[rows]
    cells = own[:, None]
    for action in worlds.compiled.custom_actions:
        touches, members = action.options.touches, action.has_row[action_rows].nonzero()[0]
        if not callable(touches) or not members.size:
            continue
        agents = rows[members]
        positions = _act(WorldsView(worlds), worlds, action, touches, agents, turns.argument[agents])
        touched = _cells_at(worlds, agents, positions, action)
        if touched.shape[1] > cells.shape[1]:
            cells = np.concatenate([cells, own[:, None].repeat(touched.shape[1] - cells.shape[1], axis=1)], axis=1)
        cells[members, : touched.shape[1]] = touched
    return cells


def may_succeed(worlds: Worlds, action: int, argument: int) -> NDArray[np.bool_]:
    """Whether a registered action may succeed, by its option `possible`. `[agents] bool`

    `action` is the action id; agents whose world has another action of that id may have any value.
    """
    possible: NDArray[np.bool_] = np.ones(worlds.agents, np.bool_)
    action_rows = worlds.ruleset[worlds.world_of_agent] * worlds.compiled.num_actions + action
    for custom in worlds.compiled.custom_actions:
        agents = custom.has_row[action_rows].nonzero()[0]
        if custom.options.possible is not None and agents.size:
            arguments = np.full(len(agents), argument)
            result = _act(WorldsView(worlds), worlds, custom, custom.options.possible, agents, arguments)
            possible[agents] = _checked(result, (len(agents),), f"{custom.title}: possible returned", worlds)
    return possible


def _cells_at(worlds: Worlds, agents: Rows, positions: Any, action: CompiledAction) -> NDArray[np.int64]:
    """The grid indices of `positions [agents, 2]` or `[agents, k, 2]`. `[agents, k] int64`"""
    given = np.asarray(positions)
    is_shaped = given.shape[:1] == (len(agents),) and given.ndim in (2, 3) and given.shape[-1] == 2
    if not is_shaped or given.dtype.kind not in "iu":
        raise UsageError(
            f"{action.title}: touches must return (row, col) of cells, integers [{len(agents)}, 2] or "
            f"[{len(agents)}, cells, 2]; got {given.dtype} {list(given.shape)}"
        )
    row, col = given.astype(np.int64).reshape(len(agents), -1, 2).transpose(2, 0, 1)
    rows, cols = worlds.slot_rows - 2 * worlds.pad, worlds.stride - 2 * worlds.pad
    cells: NDArray[np.int64] = (row + worlds.pad) * worlds.stride + col + worlds.pad
    cells += worlds.slot_start_of_agent[agents, None]
    is_inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
    return np.where(is_inside, cells, worlds.cell[agents, None])


def _act(
    view: WorldsView,
    worlds: Worlds,
    action: CompiledAction,
    function: Callable[..., Any],
    agents: Rows,
    arguments: NDArray[np.int64],
) -> Any:
    """What a function of an action returns. Only with an editor as `view` can it change the `worlds`."""
    with Noted(f"{action.title} was called in step {worlds.clock}"):
        return function(_begin(view, action), agents, arguments, **action.settings)


def _begin(view: View, part: CompiledAction | CompiledObject, first_draw: int = 0) -> View:
    view.begin(PartCall(part.key, part.title, part.stream, first_draw))
    return view


def _checked(result: object, shape: tuple[int, ...], what: str, worlds: Worlds) -> NDArray[np.bool_]:
    """A result as booleans. Raises UsageError, naming the step, for another shape or dtype."""
    array = np.asarray(result)
    if array.shape != shape or array.dtype != np.bool_:
        raise UsageError(
            f"{what} {array.dtype} {list(array.shape)} in step {worlds.clock}; it must be bool {list(shape)}"
        )
    return array
