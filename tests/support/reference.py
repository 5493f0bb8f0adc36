"""Reference simulator: the rules of a world as plain loops over one world, slow but easy to compare with the rules.

It shares only the config with the engine. It is tested against the recorded traces (`test_reference.py`), and is the
oracle of the engine on random worlds (`test_differential.py`). A `ReferenceWorld` is one episode; it is never reset.
Section numbers are those of the description of the C++ MettaGrid (SEMANTICS).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from reference_entities import (
    CONVERTING,
    COOLING,
    DOWN,
    IDLE,
    LEFT,
    RIGHT,
    UP,
    ZERO,
    Action,
    Agent,
    Converter,
    Entity,
    Wall,
    actions_of,
    float32,
    groups_of,
    recipe,
)
from reference_observations import ObservationEncoder, features_of

from metta.config.env.env_config import EnvConfig
from metta.config.env.objects import ObjectConfig

CLOCKWISE = (UP, RIGHT, DOWN, LEFT)


class ReferenceWorld:
    """One episode on the map `cells` `[rows, cols]`: 0 empty, t > 0 type id t, -(g + 1) an agent of the g-th group."""

    def __init__(self, config: EnvConfig, cells: np.ndarray):
        self.config, self.game = config, config.game
        self.rows, self.cols = cells.shape
        self.items = list(self.game.inventory_item_names)
        self.actions, self.groups = actions_of(config), groups_of(config)
        self.encoder = ObservationEncoder(self.game)
        self.now = 0
        self.grid: dict[tuple[int, int], Entity] = {}
        self.agents: list[Agent] = []
        self.converters: list[Converter] = []
        self.stats: Counter[str] = Counter()
        self.last_actions = [(0, 0)] * self.game.num_agents
        self.success = [False] * self.game.num_agents
        self.start = cells.copy()
        self._place(cells)

    def _place(self, cells: np.ndarray) -> None:
        kinds = {kind.type_id: kind for kind in self.config.object_types.values()}
        for row in range(self.rows):
            for col in range(self.cols):
                value = int(cells[row, col])
                if value < 0:
                    agent = Agent(row, col, len(self.agents), self.groups[-value - 1])
                    self.agents.append(agent)
                    self.grid[row, col] = agent
                elif value > 0:
                    kind = kinds[value]
                    self.stats[f"objects.{kind.name}"] += 1
                    if kind.type == "wall":
                        self.grid[row, col] = Wall(row, col, kind)
                    elif kind.options is not None:
                        self._place_object(row, col, kind)
                    else:
                        converter = Converter(
                            row, col, kind, recipe(self.items, kind.input), recipe(self.items, kind.output)
                        )
                        self.converters.append(converter)
                        self.grid[row, col] = converter
                        for item in converter.output:
                            converter.inventory[item] = kind.initial_items or 0
                        self._try_to_start(converter)

    def _place_object(self, row: int, col: int, kind: ObjectConfig) -> None:
        """Place an object of a registered type: see custom_reference.py."""
        raise AssertionError("registered objects need a CustomReferenceWorld")

    def _step_objects(self) -> None:
        """Let objects of registered types change."""

    def _call_rules(self) -> None:
        """Call custom rewards, features and ends of episodes."""

    # -- section 4: one step ------------------------------------------------------------------------------------

    def reset(self) -> np.ndarray:
        """The first observations `[agents, tokens, 3] uint8`."""
        return self._observe()

    def step(self, actions: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations, rewards, terminated, truncated after `actions` `[agents, 2]` taken in turn `order` `[agents]`.

        What is returned is `[agents, tokens, 3] uint8`, `[agents] float32`, and `[agents] bool` twice.
        """
        self.now += 1
        self.success = [False] * len(self.agents)
        self.last_actions = [(int(action), int(argument)) for action, argument in actions]
        for agent in self.agents:
            agent.reward = float32(self.game.time_punishment)
        for converter in self.converters:
            while converter.phase != IDLE and converter.event_time <= self.now:
                self._event(converter)
        self._step_objects()
        for attacks_now in (True, False):
            for index in order:
                self._turn(self.agents[int(index)], *self.last_actions[int(index)], attacks_now)
        self._call_rules()
        observations = self._observe()
        for agent in self.agents:
            agent.episode_reward = float32(agent.episode_reward + agent.reward)
        terminated = self._is_terminated()
        truncated = self._is_truncated() and not terminated
        rewards = self._shared_rewards()
        if (terminated or truncated) and self.game.diversity_bonus_enabled:
            rewards = self._with_diversity_bonus(rewards)
        flags = np.ones(len(self.agents), bool)
        return observations, rewards, flags & terminated, flags & truncated

    def has_lifetime_ended(self) -> bool:
        """Whether `episode_lifetime` steps have passed."""
        return 0 < self.game.episode_lifetime <= self.now

    def _is_terminated(self) -> bool:
        return self.has_lifetime_ended()

    def _is_truncated(self) -> bool:
        return 0 < self.game.max_steps <= self.now

    def cells(self) -> np.ndarray:
        """The current map, encoded like the map given to the constructor. `[rows, cols] int16`"""
        cells = np.zeros((self.rows, self.cols), np.int16)
        for cell, entity in self.grid.items():
            cells[cell] = (
                -1 - self.groups.index(entity.rules) if isinstance(entity, Agent) else entity.kind.type_id or 0
            )
        return cells

    def state(self) -> dict[str, np.ndarray]:
        """The observable state of the world, by the names that comparisons with recordings use."""
        agents, converters, items = self.agents, self.converters, range(len(self.items))
        stock = [[converter.inventory[item] for item in items] for converter in converters]
        return {
            "position of agents": np.array([(agent.row, agent.col) for agent in agents]),
            "orientation of agents": np.array([agent.orientation for agent in agents]),
            "frozen of agents": np.array([agent.frozen != 0 for agent in agents]),
            "color of agents": np.array([agent.color for agent in agents]),
            "inventory of agents": np.array([[agent.inventory.get(item, 0) for item in items] for agent in agents]),
            "accumulated reward of agents": np.array([agent.episode_reward for agent in agents]),
            "cells": self.cells(),
            "busy of converters": np.array([converter.phase != IDLE for converter in converters], bool),
            "inventory of converters": np.array(stock, int).reshape(len(converters), len(items)),
        }

    def statistics(self) -> dict[str, Any]:
        """Every counter that is not 0."""
        return {
            "game": dict(self.stats),
            "agent": [dict(agent.stats) for agent in self.agents],
            "converter": [dict(converter.stats) for converter in self.converters],
        }

    # -- section 3: actions -------------------------------------------------------------------------------------

    def _turn(self, agent: Agent, number: int, argument: int, attacks_now: bool) -> None:
        if not 0 <= number < len(self.actions):
            self._invalid(agent, "type", number, argument)  # in both passes, so twice a step [Q3]
            return
        action = self.actions[number]
        if (action.type in ("attack", "attack_nearest")) != attacks_now:
            return
        if not 0 <= argument <= action.largest_argument:
            self._invalid(agent, "arg", number, argument)
            return
        if agent.frozen != 0:
            agent.stats["status.frozen.ticks"] += 1
            agent.stats[f"status.frozen.ticks.{agent.rules.name}"] += 1
            agent.frozen -= agent.frozen > 0
            return
        effect = getattr(self, f"_{action.type}")
        success = action.is_possible and self._pay(agent, action) and effect(agent, argument, action)
        self.success[agent.index] = success
        agent.stats[f"action.{action.name}.{'success' if success else 'failed'}"] += 1
        if not success:
            agent.stats["action.failure_penalty"] += 1
            agent.reward = float32(agent.reward - agent.rules.failure_penalty)

    def _invalid(self, agent: Agent, what: str, number: int, argument: int) -> None:
        agent.stats[f"action.invalid_{what}"] += 1
        agent.stats[f"action.invalid_{what}.{number}.{argument}"] += 1
        agent.reward = float32(agent.reward - agent.rules.failure_penalty)

    def _pay(self, agent: Agent, action: Action) -> bool:
        if not self._holds(agent, action.required):
            return False
        for item in sorted({*action.required, *action.consumed}):
            self._update(agent, item, -action.consumed.get(item, 0))
        return True

    def _holds(self, agent: Agent, required: dict[int, int]) -> bool:
        """Whether all of it is there; what is looked for and absent becomes listed with 0 units [Q1]."""
        return all(agent.inventory.setdefault(item, 0) >= amount for item, amount in required.items())

    def _noop(self, agent: Agent, argument: int, action: Action) -> bool:
        return True

    def _move(self, agent: Agent, argument: int, action: Action) -> bool:
        facing = agent.orientation
        if argument == 1:
            facing = {UP: DOWN, DOWN: UP, LEFT: RIGHT, RIGHT: LEFT}[facing]
        target = self._cell(agent.row, agent.col, facing, 1, 0)
        if target is None or not self.can_enter(target):
            return False
        self._go(agent, target)
        return True

    def can_enter(self, cell: tuple[int, int]) -> bool:
        """Whether an agent can move into the cell."""
        return cell not in self.grid

    def _go(self, agent: Agent, cell: tuple[int, int]) -> None:
        del self.grid[agent.row, agent.col]
        agent.row, agent.col = cell
        self.grid[cell] = agent

    def _rotate(self, agent: Agent, argument: int, action: Action) -> bool:
        if action.config.delta is None:
            agent.orientation = argument
        else:
            agent.orientation = CLOCKWISE[(CLOCKWISE.index(agent.orientation) + action.config.delta) % 4]
        return True

    def _put_items(self, agent: Agent, argument: int, action: Action) -> bool:
        converter = self._in_front(agent)
        if not isinstance(converter, Converter):
            return False
        put_any = False
        for item, amount in converter.input.items():
            offered = min(amount, agent.inventory.get(item, 0))
            if offered > 0:
                put = self._update_converter(converter, item, offered)
                if put > 0:
                    self._update(agent, item, -put)
                    agent.stats[f"{self.items[item]}.put"] += put
                    put_any = True
        return put_any

    def _get_items(self, agent: Agent, argument: int, action: Action) -> bool:
        converter = self._in_front(agent)
        if not isinstance(converter, Converter):
            return False
        taken_any = False
        for item in converter.output:
            if converter.inventory[item] > 0:
                taken = self._update(agent, item, converter.inventory[item])
                if taken > 0:
                    agent.stats[f"{self.items[item]}.get"] += taken
                    self._update_converter(converter, item, -taken)
                    taken_any = True
        return taken_any

    def _swap(self, agent: Agent, argument: int, action: Action) -> bool:
        entity = self._in_front(agent)
        if isinstance(entity, Agent) and entity.frozen != 0:
            what = "agent"
        elif isinstance(entity, Wall) and entity.kind.swappable:
            what = entity.kind.name
        else:
            return False
        agent.row, agent.col, entity.row, entity.col = entity.row, entity.col, agent.row, agent.col
        self.grid[agent.row, agent.col] = agent
        self.grid[entity.row, entity.col] = entity
        agent.stats[f"action.{action.name}.{what}"] += 1
        return True

    def _change_color(self, agent: Agent, argument: int, action: Action) -> bool:
        color = agent.color
        doubled = color * 2 if color <= 127 else color
        agent.color = (min(color + 1, 255), max(color - 1, 0), doubled, color // 2)[argument]
        return True

    def _gift(self, agent: Agent, argument: int, action: Action) -> bool:
        receiver, item = self._in_front(agent), self.items.index(action.config.item or "")
        if not isinstance(receiver, Agent) or receiver is agent:
            return False
        has_room = receiver.inventory.get(item, 0) < receiver.rules.caps[item]
        if not agent.inventory.get(item, 0) or not has_room:
            return False
        self._update(receiver, item, 1)
        self._update(agent, item, -1)
        return True

    def _use(self, agent: Agent, argument: int, action: Action) -> bool:
        entity = self._in_front(agent)
        if not isinstance(entity, Converter) or action.config.use not in (None, entity.kind.name, entity.kind.type):
            return False
        can_take = any(
            entity.inventory[item] > 0 and agent.inventory.get(item, 0) < agent.rules.caps[item]
            for item in entity.output
        )
        work = self._get_items if can_take else self._put_items
        return work(agent, argument, action)

    # -- section 5: geometry and attack -------------------------------------------------------------------------

    def _cell(self, row: int, col: int, facing: int, distance: int, offset: int) -> tuple[int, int] | None:
        """The cell `distance` ahead and `offset` to the left; None beyond the bottom or right edge [Q2]."""
        row, col = {
            UP: (row - distance, col - offset),
            DOWN: (row + distance, col + offset),
            LEFT: (row + offset, col - distance),
            RIGHT: (row - offset, col + distance),
        }[facing]
        row, col = max(row, 0), max(col, 0)
        return (row, col) if row < self.rows and col < self.cols else None

    def _at(self, agent: Agent, distance: int, offset: int) -> Entity | None:
        cell = self._cell(agent.row, agent.col, agent.orientation, distance, offset)
        return None if cell is None else self.grid.get(cell)

    def _in_front(self, agent: Agent) -> Entity | None:
        return self._at(agent, 1, 0)

    def _attack(self, agent: Agent, argument: int, action: Action) -> bool:
        if argument == 0:
            return False
        target = self._at(agent, 1 + (argument - 1) // 3, (1, 0, -1)[(argument - 1) % 3])
        return isinstance(target, Agent) and self._hit(agent, target, action)

    def _attack_nearest(self, agent: Agent, argument: int, action: Action) -> bool:
        for distance in (1, 2, 3):
            for offset in (0, 1, -1):
                target = self._at(agent, distance, offset)
                if isinstance(target, Agent):
                    return self._hit(agent, target, action)
        return False

    def _hit(self, attacker: Agent, victim: Agent, action: Action) -> bool:
        a, b = attacker.rules.name, victim.rules.name
        same = a == b
        for key in ("", f".{a}", f".{a}.{b}"):
            attacker.stats[f"action.{action.name}.agent{key}"] += 1
        attacker.stats[f"attack.{'own' if same else 'other'}_team.{a}"] += 1
        was_frozen = victim.frozen > 0
        if action.defense is not None and self._holds(victim, action.defense):
            for item, amount in action.defense.items():
                self._update(victim, item, -amount)
            attacker.stats[f"attack.blocked.{b}"] += 1
            attacker.stats[f"attack.blocked.{b}.{a}"] += 1
            return True
        victim.frozen = victim.rules.freeze_duration
        if was_frozen:
            return True
        attacker.stats[f"attack.win.{a}"] += 1
        attacker.stats[f"attack.win.{a}.{b}"] += 1
        victim.stats[f"attack.loss.{b}"] += 1
        victim.stats[f"attack.loss.{b}.{a}"] += 1
        attacker.stats[f"attack.win.{'own' if same else 'other'}_team.{a}"] += 1
        victim.stats[f"attack.loss.from_{'own' if same else 'other'}_team.{b}"] += 1
        for item, amount in sorted(victim.inventory.items()):
            stolen = self._update(attacker, item, amount)
            self._update(victim, item, -stolen)
            if stolen > 0:
                attacker.stats[f"{self.items[item]}.stolen.{a}"] += stolen
                victim.stats[f"{self.items[item]}.stolen_from.{b}"] += stolen
        return True

    # -- section 6: converters ----------------------------------------------------------------------------------

    def _try_to_start(self, converter: Converter) -> None:
        if converter.phase != IDLE:
            return
        ticks, limit = converter.kind.conversion_ticks, converter.kind.max_output
        assert ticks is not None
        assert limit is not None
        if limit >= 0 and sum(converter.inventory[item] for item in converter.output) >= limit:
            converter.stats["blocked.output_full"] += 1
            return
        if any(converter.inventory[item] < amount for item, amount in converter.input.items()):
            converter.stats["blocked.insufficient_input"] += 1
            return
        for item, amount in converter.input.items():
            converter.inventory[item] -= amount
            converter.stats[f"{self.items[item]}.consumed"] += amount
        converter.phase, converter.event_time = CONVERTING, self.now + ticks
        converter.stats["conversions.started"] += 1

    def _event(self, converter: Converter) -> None:
        """What is due: the end of a conversion or of a cooldown."""
        if converter.phase == COOLING:
            converter.phase = IDLE
            converter.stats["cooldown.completed"] += 1
            self._try_to_start(converter)
            return
        converter.phase = IDLE
        converter.stats["conversions.completed"] += 1
        for item, amount in converter.output.items():
            converter.inventory[item] = min(converter.inventory[item] + amount, 255)
            converter.stats[f"{self.items[item]}.produced"] += amount  # in full, even if it did not fit [Q20]
        if converter.kind.cooldown:
            converter.phase, converter.event_time = COOLING, self.now + converter.kind.cooldown
            converter.stats["cooldown.started"] += 1
        else:
            self._try_to_start(converter)
        converter.stats[f"{converter.kind.name}.produced"] += 1

    def _update_converter(self, converter: Converter, item: int, change: int) -> int:
        """Add or remove units; returns how many really were. Any call may start a conversion, one of 0 units too."""
        before = converter.inventory[item]
        converter.inventory[item] = max(0, min(before + change, 255))
        changed = converter.inventory[item] - before
        if changed:
            converter.stats[f"{self.items[item]}.{'added' if changed > 0 else 'removed'}"] += abs(changed)
        self._try_to_start(converter)
        return changed

    # -- sections 7 and 8: inventory and rewards ----------------------------------------------------------------

    def _update(self, agent: Agent, item: int, change: int) -> int:
        """Give or take units within 0 and the cap, and pay for the difference; returns the change."""
        name, before = self.items[item], agent.inventory.get(item, 0)
        after = max(0, min(before + change, agent.rules.caps[item]))
        agent.inventory[item] = after
        if after == 0:
            del agent.inventory[item]
        changed = after - before
        if changed:
            agent.stats[f"{name}.{'gained' if changed > 0 else 'lost'}"] += abs(changed)
        score = ZERO
        for held, amount in sorted(agent.inventory.items()):
            counted = min(float32(amount), agent.rules.counted[held])
            score = float32(score + float32(agent.rules.prices[held] * counted))
        agent.reward = float32(agent.reward + float32(score - agent.score))
        agent.score = score
        return changed

    def _shared_rewards(self) -> np.ndarray:
        """Every agent's reward after the groups have shared, `[agents] float32`."""
        sizes = Counter(agent.rules.name for agent in self.agents)
        pots = {name: 0.0 for name in self.game.groups}
        rewards = np.array([agent.reward for agent in self.agents], float32)
        if not rewards.any():
            return rewards
        for agent in self.agents:
            own = agent.reward
            name = agent.rules.name
            shares = [(name, self.game.groups[name].group_reward_pct)]
            given_away = self.game.reward_sharing_groups.get(name, {})
            shares += [(group, given_away.get(group, 0.0)) for group in self.game.groups]
            for group, share in shares:
                if share > 0 and sizes[group] and own != 0:
                    given = float32(own * float32(share))
                    rewards[agent.index] = float32(rewards[agent.index] - given)
                    pots[group] += float(float32(given / float32(sizes[group])))
        for agent in self.agents:
            rewards[agent.index] = float32(rewards[agent.index] + float32(pots[agent.rules.name]))
        return rewards

    def _with_diversity_bonus(self, rewards: np.ndarray) -> np.ndarray:
        totals: dict[str, list[float]] = {}
        for agent in self.agents:
            totals.setdefault(agent.rules.name, []).append(float(agent.episode_reward))
        spread = {name: (np.mean(group), np.std(group) + 1e-6) for name, group in totals.items()}
        scaled = rewards.copy()
        for agent in self.agents:
            own = float(agent.episode_reward)
            likeness = {name: np.exp(-abs(own - mean) / std) for name, (mean, std) in spread.items()}
            similarity = likeness.pop(agent.rules.name)
            others = [1 - alike for alike in likeness.values()]
            difference = np.mean(others) if others else 0.0
            factor = 1 + self.game.similarity_coef * similarity + self.game.diversity_coef * difference
            scaled[agent.index] = float32(rewards[agent.index] * float32(factor))
        return scaled

    # -- section 9: observations --------------------------------------------------------------------------------

    def _features_of(self, entity: Entity) -> list[tuple[int, int]]:
        """(feature, value) of each token of an entity."""
        return features_of(entity)

    def _own_features(self, agent: Agent) -> list[tuple[tuple[int, int], int, int]]:
        """(offset, feature, value) of each custom feature of an agent that only the agent itself observes."""
        return []

    def _features_by_cell(self) -> dict[tuple[int, int], list[tuple[int, int]]]:
        return {cell: self._features_of(entity) for cell, entity in self.grid.items()}

    def _observe(self) -> np.ndarray:
        capacity = self.game.num_observation_tokens
        observations = np.full((len(self.agents), capacity, 3), 0xFF, np.uint8)
        features = self._features_by_cell()
        for agent in self.agents:
            last_action, own = self.last_actions[agent.index], self._own_features(agent)
            tokens = self.encoder.tokens(agent, last_action, self.now, own, features)
            written = min(len(tokens), capacity)
            observations[agent.index, :written] = tokens[:written]
            self.stats["tokens_written"] += written
            self.stats["tokens_dropped"] += len(tokens) - written
            self.stats["tokens_free_space"] += capacity - written
        return observations
