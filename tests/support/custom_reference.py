"""The reference simulator with the rules of custom_rules.py, registered_parts.py and metta, as loops."""

from __future__ import annotations

from dataclasses import dataclass, field
from zlib import crc32

import numpy as np
from reference import CLOCKWISE, ReferenceWorld
from reference_entities import Action, Agent, Converter, Entity
from reference_rules import Cell, ReferenceRules

from metta.config.env.env_config import EnvConfig
from metta.config.env.objects import ObjectConfig
from metta.geometry import STEPS

MASK = 2**64 - 1
STEP = 0x9E3779B97F4A7C15


@dataclass
class Thing(Converter):
    """An object of a registered type."""

    states: dict[str, int] = field(default_factory=dict)


class CustomReferenceWorld(ReferenceWorld):
    """A reference world with custom rules. `turn_stream` is the key of its random numbers."""

    def __init__(self, config: EnvConfig, cells: np.ndarray, turn_stream: int):
        self.turn_stream = turn_stream
        self.floor: dict[tuple[int, int], Thing] = {}
        super().__init__(config, cells)
        self.rules = ReferenceRules(self)

    def reset(self) -> np.ndarray:
        """The first observations `[agents, tokens, 3] uint8`."""
        self._call_rules()
        return super().reset()

    def _call_rules(self) -> None:
        self.rules.call()

    def _is_terminated(self) -> bool:
        return self.has_lifetime_ended() or self.rules.is_terminated

    def _is_truncated(self) -> bool:
        return super()._is_truncated() or self.rules.is_truncated

    def _place_object(self, row: int, col: int, kind: ObjectConfig) -> None:
        assert kind.options is not None
        states = {name: kind.options.initial.get(name, 0) for name in kind.options.states}
        thing = Thing(row, col, kind, {}, {}, states=states)
        self.converters.append(thing)
        self.grid[row, col] = self.floor[row, col] = thing

    # -- cells --------------------------------------------------------------------------------------------------

    def can_enter(self, cell: tuple[int, int]) -> bool:
        """Whether an agent can move into the cell, which may have an object that lets it in."""
        entity = self.grid.get(cell)
        if not isinstance(entity, Thing):
            return entity is None
        walkable = entity.kind.options.walkable  # type: ignore[union-attr]  # a registered type has options
        return walkable if isinstance(walkable, bool) else entity.states[walkable] > 0

    def _go(self, agent: Agent, cell: tuple[int, int]) -> None:
        start = agent.row, agent.col
        super()._go(agent, cell)
        if start in self.floor:
            self.grid[start] = self.floor[start]

    def _on(self, thing: Thing) -> Agent | None:
        entity = self.grid[thing.row, thing.col]
        return entity if isinstance(entity, Agent) else None

    def _features_of(self, entity: Entity) -> list[tuple[int, int]]:
        if not isinstance(entity, Thing):
            found = super()._features_of(entity)
            if isinstance(entity, Agent):
                of_agents = sorted(self.rules.of_agents.items())
                found += [(feature, values[entity.index]) for feature, values in of_agents if values[entity.index]]
            below = self.floor.get((entity.row, entity.col))
            return found if below is None else found + self._features_of(below)
        names = self.config.spec.feature_names
        states = [(names.index(name), value) for name, value in entity.states.items()]
        return [(0, entity.kind.type_id or 0), *states]

    def _own_features(self, agent: Agent) -> list[tuple[Cell, int, int]]:
        tokens = {feature: ((0, 0), values[agent.index]) for feature, values in self.rules.own.items()}
        tokens |= {feature: values[agent.index] for feature, values in self.rules.offsets.items()}
        return [(offset, feature, value) for feature, (offset, value) in sorted(tokens.items())]

    def _features_by_cell(self) -> dict[Cell, list[tuple[int, int]]]:
        found = super()._features_by_cell()
        for feature, cells in sorted(self.rules.of_cells.items()):
            for cell, value in cells.items():
                found.setdefault(cell, []).extend([(feature, value)] if value else [])
        return found

    # -- actions ------------------------------------------------------------------------------------------------

    def _signal(self, agent: Agent, argument: int, action: Action) -> bool:
        return True

    def _push(self, agent: Agent, argument: int, action: Action) -> bool:
        other = self._other(agent)
        if other is None:
            return False
        row, col = STEPS[agent.orientation]
        target = other.row + row, other.col + col
        if not self.is_inside(target) or not self.can_enter(target):
            return False
        self._go(other, target)
        return True

    def _spin(self, agent: Agent, argument: int, action: Action) -> bool:
        other = self._other(agent)
        if other is None:
            return False
        turned = CLOCKWISE[(CLOCKWISE.index(other.orientation) + 1) % 4]
        other.orientation = turned if argument == 0 else agent.orientation ^ 1
        return True

    def _heal(self, agent: Agent, argument: int, action: Action) -> bool:
        other = self._other(agent)
        if other is None or other.frozen == 0:
            return False
        other.frozen = 0
        return True

    def _other(self, agent: Agent) -> Agent | None:
        """The agent in the cell ahead, which is never the agent itself."""
        row, col = STEPS[agent.orientation]
        entity = self.grid.get((agent.row + row, agent.col + col))
        return entity if isinstance(entity, Agent) else None

    def is_inside(self, cell: tuple[int, int]) -> bool:
        """Whether the cell is one of the map."""
        return 0 <= cell[0] < self.rows and 0 <= cell[1] < self.cols

    # -- objects ------------------------------------------------------------------------------------------------

    def _put_items(self, agent: Agent, argument: int, action: Action) -> bool:
        thing = self._in_front(agent)
        return self._used(agent, thing) if isinstance(thing, Thing) else super()._put_items(agent, argument, action)

    def _get_items(self, agent: Agent, argument: int, action: Action) -> bool:
        thing = self._in_front(agent)
        return self._used(agent, thing) if isinstance(thing, Thing) else super()._get_items(agent, argument, action)

    def _used(self, agent: Agent, thing: Thing) -> bool:
        states, settings = thing.states, thing.kind.settings
        if thing.kind.type == "door":
            key = self.items.index(settings["key"])
            if states["open"] or agent.inventory.get(key, 0) == 0:
                return False
            self._update(agent, key, -1)
            states["open"] = max(settings["steps_open"], 1)
            return True
        if thing.kind.type == "field":
            if not states["ripe"] or self._update(agent, self.items.index(settings["item"]), 1) == 0:
                return False
            states["ripe"] = 0
            return True
        if thing.kind.type == "trap" and states["sprung"]:
            states["sprung"] = 0
            return True
        return False

    def _step_objects(self) -> None:
        things = [thing for thing in self.converters if isinstance(thing, Thing)]
        for name in self.config.object_types:
            own = [thing for thing in things if thing.kind.name == name]
            if own:
                getattr(self, f"_step_{own[0].kind.type}")(own)

    def _step_door(self, doors: list[Thing]) -> None:
        for door in doors:
            left = door.states["open"]
            if door.kind.settings["steps_open"] and (left > 1 or (left == 1 and self._on(door) is None)):
                door.states["open"] -= 1

    def _step_field(self, fields: list[Thing]) -> None:
        for thing in fields:
            agent = self._on(thing)
            if agent is not None:
                self._used(agent, thing)
        ripe = {(thing.row, thing.col) for thing in self.floor.values() if thing.states.get("ripe")}
        for thing in fields:
            settings, number = thing.kind.settings, next(n for n, one in enumerate(self.converters) if one is thing)
            radius = settings["radius"]
            near = sum(abs(thing.row - row) <= radius and abs(thing.col - col) <= radius for row, col in ripe)
            if (thing.row, thing.col) not in ripe:
                chance = settings["regrowth"] + settings["spread"] * near
                thing.states["ripe"] = int(self.uniform("objects.field", number) < chance)

    def _step_trap(self, traps: list[Thing]) -> None:
        for trap in traps:
            agent = self._on(trap)
            if agent is not None and not trap.states["sprung"]:
                agent.frozen, trap.states["sprung"] = 2, 1

    def _step_conveyor(self, conveyors: list[Thing]) -> None:
        moves: dict[tuple[int, int], Agent] = {}
        for thing in conveyors:
            row, col = STEPS[thing.kind.settings["direction"]]
            target, agent = (thing.row + row, thing.col + col), self._on(thing)
            if agent is not None and self.is_inside(target) and self.can_enter(target):
                moves.setdefault(target, agent)
        for target, agent in moves.items():
            self._go(agent, target)

    def uniform(self, part: str, number: int) -> float:
        """A random number of a rule in this step, by SplitMix64; `number` counts from 0."""
        key = mix(self.turn_stream ^ mix(crc32(part.encode()) * STEP))
        key = mix(key + self.now * STEP)
        return float((mix(key + (number + 1) * STEP) >> 11) * 2.0**-53)


def mix(value: int) -> int:
    """The output function of SplitMix64."""
    value &= MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)
