"""Worlds that look the same to an agent as far as its action mask is concerned, in the reference simulator.

A mask depends on the agent and on the cells that an action reaches. It does not examine what other agents hold, whether
their own way is free, when a converter that is busy finishes, nor what the observation does not hold. `helped` changes
just that, and plays what other agents can do before the turn of the agent.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from masks_from_tokens import LEFT_OF, STEPS, Rules, Seen
from reference import ReferenceWorld
from reference_entities import CONVERTING, IDLE, Action, Agent, Converter, Placed, Wall, recipe

from metta.world.observation.mask_tables import is_walled

LARGE = 12
"""Rows and columns added below and to the right of a map whose edge is not seen."""


def clone(world: ReferenceWorld) -> ReferenceWorld:
    """A copy that does not observe; it shares only what never changes."""
    twin = copy.copy(world)
    copies: dict[int, Any] = {}
    for entity in [*world.grid.values(), *world.agents, *world.converters]:
        if id(entity) not in copies:
            copies[id(entity)] = copy.copy(entity)
            if isinstance(entity, Agent | Converter):
                copies[id(entity)].inventory, copies[id(entity)].stats = entity.inventory.copy(), Counter()
    twin.grid = {cell: copies[id(entity)] for cell, entity in world.grid.items()}
    twin.agents = [copies[id(entity)] for entity in world.agents]
    twin.converters = [copies[id(entity)] for entity in world.converters]
    twin.last_actions, twin.success, twin.stats = [*world.last_actions], [*world.success], Counter()
    twin._observe = lambda: np.zeros(0, np.uint8)  # type: ignore[method-assign]
    return twin


def play(world: ReferenceWorld, actions: np.ndarray, order: np.ndarray) -> list[bool]:
    """Which agents succeed with `actions [agents, 2]` in turn `order [agents]`. The world is left unchanged."""
    twin = clone(world)
    twin.step(actions, order)
    return twin.success


def acts_first(world: ReferenceWorld, agent: int, action: tuple[int, int]) -> bool:
    """Whether an action succeeds if the agent acts first and the others do nothing that matters."""
    actions = np.full((len(world.agents), 2), -1)
    actions[agent] = action
    order = np.array([agent, *(other for other in range(len(world.agents)) if other != agent)])
    return play(world, actions, order)[agent]


def helped(world: ReferenceWorld, agent: int, action: tuple[int, int], tokens: np.ndarray) -> Iterator[ReferenceWorld]:
    """Worlds in which an action of an agent may succeed, see above."""
    rules = Rules(world.config, is_walled(world.config), Seen(world.config, tokens))
    type_ = world.actions[action[0]].type
    for facing, group in product(rules.me.values(4, range(4)), rules.groups_of(rules.me)):
        turned = clone(world)
        me = turned.agents[agent]
        me.orientation, me.rules = facing, next(rules for rules in world.groups if rules.name == group)
        if rules.me.values(3, range(2)) != [1]:
            me.frozen = 0
        is_attack = type_ in ("attack", "attack_nearest")
        me.inventory = {item: min(rules.most(item, is_attack), me.rules.caps[item]) for item in range(len(world.items))}
        _finish_conversions(turned)
        if is_attack:
            yield from _with_hidden_victims(_shifted(turned, LARGE, LARGE), agent, rules)
            yield from _at_the_edge(turned, agent, rules)
        else:
            yield from _with_help_ahead(turned, agent, action, rules)


def _finish_conversions(world: ReferenceWorld) -> None:
    for converter in world.converters:
        if converter.phase != IDLE:
            converter.phase, converter.event_time = CONVERTING, world.now + 1


def _with_hidden_victims(world: ReferenceWorld, agent: int, rules: Rules) -> Iterator[ReferenceWorld]:
    """An agent in each cell that is not seen."""
    twin = clone(world)
    me = twin.agents[agent]
    twin.rows, twin.cols = twin.rows + LARGE, twin.cols + LARGE
    for row, col in _reach(me):
        if rules.seen.look((row, col)).is_unseen:
            _put(twin, (me.row + row, me.col + col), _new_agent(twin, me))
    yield twin


def _at_the_edge(world: ReferenceWorld, agent: int, rules: Rules) -> Iterator[ReferenceWorld]:
    """The map cut off above and to the left of the agent, where no cell is seen to be occupied."""
    if rules.is_walled:
        return
    me = world.agents[agent]
    cells = _reach(me)
    for above in range(4):
        for left in range(4):
            outside = [(row, col) for row, col in cells if row < -above or col < -left]
            if all(rules.seen.look(cell).is_unseen or rules.seen.look(cell).is_empty for cell in outside):
                yield from _with_hidden_victims(_shifted(world, above - me.row, left - me.col), agent, rules)


def _reach(me: Agent) -> list[tuple[int, int]]:
    (row, col), (left_row, left_col) = STEPS[me.orientation], STEPS[LEFT_OF[me.orientation]]
    return [(ahead * row + left * left_row, ahead * col + left * left_col) for ahead in range(4) for left in (1, 0, -1)]


def _shifted(world: ReferenceWorld, rows: int, cols: int) -> ReferenceWorld:
    """The world with all entities moved; those that leave the map are gone."""
    twin = clone(world)
    entities = list({id(entity): entity for entity in [*twin.grid.values(), *twin.agents]}.values())
    twin.grid, twin.rows, twin.cols = {}, max(1, twin.rows + rows), max(1, twin.cols + cols)
    for entity in entities:
        entity.row, entity.col = entity.row + rows, entity.col + cols
        if entity.row >= 0 and entity.col >= 0:
            twin.grid[entity.row, entity.col] = entity
        elif isinstance(entity, Agent):
            entity.frozen = -1
    return twin


def _with_help_ahead(
    world: ReferenceWorld, agent: int, action: tuple[int, int], rules: Rules
) -> Iterator[ReferenceWorld]:
    """Other contents of the cell that an action reaches, and fewer units where attacks take some."""
    entry, me = world.actions[action[0]], world.agents[agent]
    step = STEPS[me.orientation]
    if entry.type == "move" and action[1]:
        step = (-step[0], -step[1])
    seen = rules.seen.look(step)
    for twin in _with_losses(world, agent, entry, rules):
        if seen.is_empty or seen.is_unseen:  # it may be inside a larger map
            twin = _shifted(twin, 1, 1)
            twin.rows, twin.cols = twin.rows + LARGE, twin.cols + LARGE
        yield twin
        for entity in _alternatives(twin, agent, entry.type, step, rules):
            other = clone(twin)
            own = other.agents[agent]
            if entity is None:
                other.grid.pop((own.row + step[0], own.col + step[1]), None)
            else:
                _put(other, (own.row + step[0], own.col + step[1]), entity)
            _finish_conversions(other)
            yield other


def _with_losses(world: ReferenceWorld, agent: int, action: Action, rules: Rules) -> Iterator[ReferenceWorld]:
    """The agent with the most and with the least units of each item, but with those that the action requires."""
    yield world
    twin = clone(world)
    me = twin.agents[agent]
    for item in range(len(world.items)):
        if rules.least(item) == 0:
            me.inventory[item] = min(action.required.get(item, 0), me.rules.caps[item])
    yield twin


def _alternatives(
    world: ReferenceWorld, agent: int, type_: str, step: tuple[int, int], rules: Rules
) -> Iterator[Placed | None]:
    """What the cell that an action reaches may hold at the agent's turn."""
    me, seen = world.agents[agent], rules.seen.look(step)
    third = _new_agent(world, me)
    if seen.is_unseen or (seen.is_agent and rules.is_active(seen)):
        yield None  # it has left
    if type_ == "swap" and (seen.is_unseen or seen.is_agent):
        if rules.freezes or 1 in seen.features.values() or 1 in seen.values(3, range(2)):
            third.frozen = 1
            yield third
        for kind in rules.kinds:
            if kind.swappable and (rules.is_active(seen)):
                yield Wall(0, 0, kind)
    if type_ == "gift":
        enters = rules._is_entered(step, seen.is_empty) if seen.is_empty or seen.is_swappable else True
        if enters and rules.others:
            third.inventory.clear()
            third.rules = max(world.groups, key=lambda group: sum(cap > 0 for cap in group.caps))
            for group in world.groups:
                receiver = copy.copy(third)
                receiver.rules, receiver.inventory = group, {}
                yield receiver
    kinds = (
        [kind for kind in rules.kinds if kind.type != "wall"] if seen.is_unseen else [seen.kind] if seen.kind else []
    )
    for kind in kinds:
        if kind.type != "wall":
            yield from _stocked(world, kind, step, rules)


def _stocked(world: ReferenceWorld, kind: object, step: tuple[int, int], rules: Rules) -> Iterator[Converter]:
    """Converters of a type, with what may be in them."""
    seen = rules.seen.look(step)
    inputs, outputs = recipe(world.items, kind.input), recipe(world.items, kind.output)  # type: ignore[attr-defined]
    converter = Converter(0, 0, kind, inputs, outputs)  # type: ignore[arg-type]
    is_busy = seen.is_unseen or 1 in seen.values(6, range(2))
    converter.phase = CONVERTING if is_busy else IDLE
    others_put = rules.others and {"put_items", "use"} & rules.types
    for item in range(len(world.items)):
        least, most = seen.units(item, 255) if not seen.is_unseen else (0, 1)
        converter.inventory[item] = most if item in outputs else least
        if others_put and item in inputs and item in outputs:
            converter.inventory[item] += 1
    yield converter
    empty = copy.deepcopy(converter, {id(kind): kind})
    empty.inventory.clear()  # a conversion has started; for what is put in
    if rules.others or is_busy:
        yield empty


def _new_agent(world: ReferenceWorld, like: Agent) -> Agent:
    return Agent(0, 0, len(world.agents), like.rules)


def _put(world: ReferenceWorld, cell: tuple[int, int], entity: Placed) -> None:
    """Place an entity in a cell instead of what is there."""
    entity.row, entity.col = cell
    world.grid[cell] = entity  # type: ignore[assignment]
    if isinstance(entity, Agent):
        entity.index = len(world.agents)
        world.agents.append(entity)
        world.last_actions.append((0, 0))
        world.success.append(False)
    if isinstance(entity, Converter):
        world.converters.append(entity)
