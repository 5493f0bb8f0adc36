"""Rewards, features and ends of episodes of registered_parts.py and of metta, as loops over one reference world."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from reference_entities import ZERO, Agent, Converter, float32

from metta.geometry import STEPS

if TYPE_CHECKING:
    from custom_reference import CustomReferenceWorld

Cell = tuple[int, int]


class ReferenceRules:
    """The custom rules of one episode, with what they remember. They read the world and change rewards only."""

    def __init__(self, world: CustomReferenceWorld):
        self.world, self.config = world, world.config
        self.is_terminated = self.is_truncated = False
        self.own: dict[int, list[int]] = {}
        """by feature id, a value for each agent that it alone observes"""
        self.offsets: dict[int, list[tuple[Cell, int]]] = {}
        """by feature id, an offset and a value for each agent that it alone observes"""
        self.known: dict[tuple[int, int], set[Cell]] = {}  # by feature and agent
        self.of_agents: dict[int, list[int]] = {}
        self.of_cells: dict[int, dict[Cell, int]] = {}
        self.terms = {entry.name: [ZERO] * len(world.agents) for entry in self.config.rewards}
        self.potentials: dict[str, list[np.float32]] = {}
        self.visited: dict[tuple[str, int], set[Cell]] = {}  # by reward and agent, which is -1 if agents share it
        self.supplied: dict[str, tuple[list[int], dict[Cell, int]]] = {}
        """by reward, the units that each agent has put into objects, and those that cells held before this step"""
        self.scent: dict[Cell, int] = {}

    def call(self) -> None:
        """Call all rules after a step, or at the start of the episode."""
        for end in self.config.terminations:
            if getattr(self, f"_{end.type.removeprefix('test.')}")(end.name, **end.settings) and self.world.now:
                self.is_terminated |= not end.truncates
                self.is_truncated |= end.truncates
        for reward in self.config.rewards:
            function = getattr(self, f"_{reward.type.removeprefix('test.').replace(' ', '_')}")
            values = function(reward.name, **reward.settings)
            for agent, value in zip(self.world.agents, values, strict=True):
                if self.world.now and (not reward.groups or agent.rules.name in reward.groups):
                    weighted = float32(float32(value) * float32(reward.weight))
                    agent.reward = float32(agent.reward + weighted)
                    self.terms[reward.name][agent.index] = float32(self.terms[reward.name][agent.index] + weighted)
        for feature in self.config.features:
            number = self.config.spec.feature_names.index(feature.name)
            getattr(self, f"_{feature.type.removeprefix('test.').replace(' ', '_')}")(number, **feature.settings)

    # -- ends ---------------------------------------------------------------------------------------------------

    def _goal(self, name: str, stat: str, amount: int, by: str) -> bool:
        counts = [agent.stats[stat] for agent in self.world.agents]
        return {"sum": sum(counts), "any": max(counts), "all": min(counts)}[by] >= amount

    def _random(self, name: str, probability: float) -> bool:
        return self.world.uniform(f"terminations.{name}", 0) < probability

    # -- rewards ------------------------------------------------------------------------------------------------

    def _distance(self, name: str, to: str, gamma: float, limit: float, through_walls: bool) -> list[np.float32]:
        before = self.potentials.get(name, [ZERO] * len(self.world.agents))
        ends = self.is_terminated or self.world.has_lifetime_ended()
        after = [
            ZERO if ends else -min(self._moves_to(agent, to, through_walls), float32(limit))
            for agent in self.world.agents
        ]
        self.potentials[name] = after
        return [float32(float32(gamma) * new) - old for new, old in zip(after, before, strict=True)]

    def _exploration(self, name: str, shared: bool) -> list[int]:
        # agents enter at the same time: a shared cell is new for the agent on it, and no two are on one cell
        return [self._is_new(name, -1 if shared else agent.index, agent) for agent in self.world.agents]

    def _new_cells(self, name: str) -> list[int]:
        return self._exploration(name, shared=False)

    def _is_new(self, name: str, who: int, agent: Agent) -> int:
        visited = self.visited.setdefault((name, who), set())
        is_new = (agent.row, agent.col) not in visited
        visited.add((agent.row, agent.col))
        return int(is_new)

    def _supply(self, name: str, to: str, item: str) -> list[int]:
        world, number = self.world, self.world.items.index(item)
        before, stock = self.supplied.get(name, ([0] * len(world.agents), {}))
        after = [agent.stats[f"{item}.put"] for agent in world.agents]
        held = {cell: entity for cell, entity in world.grid.items() if isinstance(entity, Converter)}
        self.supplied[name] = after, {cell: entity.inventory.get(number, 0) for cell, entity in held.items()}
        return [
            int(new > old and self._is_entity(ahead, to) and stock.get(ahead, 0) == 0)
            for ahead, new, old in zip(map(self._ahead, world.agents), after, before, strict=True)
        ]

    def _ahead(self, agent: Agent) -> Cell:
        row, col = STEPS[agent.orientation]
        return agent.row + row, agent.col + col

    def _near(self, name: str, to: str, within: int) -> list[int]:
        return [int(self._moves_to(agent, to) <= within) for agent in self.world.agents]

    def _moves_to(self, agent: Agent, to: str, through_walls: bool = False) -> np.float32:
        """The number of moves of an agent to the closest entity of that name, cell by cell."""
        start = (agent.row, agent.col)
        seen, ring, moves = {start}, [start], 0
        while ring:
            if any(self._is_entity(cell, to) for cell in ring):
                return float32(moves)
            beyond = [
                (row + step_row, col + step_col)
                for row, col in ring
                if through_walls or moves == 0 or self._is_free((row, col))
                for step_row, step_col in STEPS
            ]
            ring = [cell for cell in dict.fromkeys(beyond) if self.world.is_inside(cell) and cell not in seen]
            seen.update(ring)
            moves += 1
        return float32(np.inf)

    def _is_free(self, cell: Cell) -> bool:
        return isinstance(self.world.grid.get(cell), Agent) or self.world.can_enter(cell)

    def _is_entity(self, cell: Cell, name: str) -> bool:
        entity = self.world.grid.get(cell)
        if entity is None:
            return name == "empty"
        if isinstance(entity, Agent):
            return name in ("agent", f"agent.{entity.rules.name}")
        return name == entity.kind.name

    # -- features -----------------------------------------------------------------------------------------------

    def _signal(self, feature: int, action: str) -> None:
        world, number = self.world, self.config.spec.action_names.index(action)
        self.of_agents[feature] = [
            1 + argument if success and last == number else 0
            for (last, argument), success in zip(world.last_actions, world.success, strict=True)
        ]

    def _last_action(self, feature: int) -> None:
        self.own[feature] = [(action + 1) & 255 for action, _ in self.world.last_actions]

    def _facing(self, feature: int, to: str) -> None:
        values = []
        for agent in self.world.agents:
            ahead = self._ahead(agent)
            values.append(int(self.world.is_inside(ahead) and self._is_entity(ahead, to)))
        self.of_agents[feature] = values

    def _nearest_seen(self, feature: int, to: str, holding: str) -> None:
        self.offsets[feature] = [self._nearest_known(feature, agent, to, holding) for agent in self.world.agents]

    def _nearest_known(self, feature: int, agent: Agent, to: str, holding: str) -> tuple[Cell, int]:
        game, known = self.config.game, self.known.setdefault((feature, agent.index), set())
        for row in range(-(game.observation_height // 2), game.observation_height // 2 + 1):
            for col in range(-(game.observation_width // 2), game.observation_width // 2 + 1):
                cell = agent.row + row, agent.col + col
                known.discard(cell)
                is_there = self.world.is_inside(cell) and (row, col) != (0, 0) and self._is_entity(cell, to)
                if is_there and (not holding or self._holds(cell, holding)):
                    known.add(cell)
        ways = [(row - agent.row, col - agent.col) for row, col in known]
        ways.sort(key=lambda way: (abs(way[0]) + abs(way[1]), way))
        return (ways[0], 1) if ways else ((0, 0), 0)

    def _holds(self, cell: Cell, item: str) -> bool:
        entity = self.world.grid.get(cell)
        return isinstance(entity, Converter) and entity.inventory.get(self.world.items.index(item), 0) > 0

    def _trail(self, feature: int, fade: int) -> None:
        self.scent = {cell: max(left - fade, 0) for cell, left in self.scent.items()}
        self.scent |= {(agent.row, agent.col): 255 for agent in self.world.agents}
        self.of_cells[feature] = self.scent
