"""The scripted policy, a greedy baseline: walk to useful converters, put ingredients in, take products out.

Agents also attack those of other teams that hold items of value, or that could take theirs.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metta.agent.memory.state import Memory
from metta.agent.policy import PolicyOutput
from metta.agent.sparse_tokens import Observations
from metta.baselines.attacks import AttackOptions, Attacks
from metta.baselines.bitboards import COL_STEPS, ROW_STEPS, Integers, Mask, Words, column_bit
from metta.baselines.observation_parser import OBJECTS, SEEN, ObservationParser, ParsedObservation
from metta.baselines.recipe_values import RecipeValues, discount_steps
from metta.baselines.scripted_actions import ScriptedActions
from metta.baselines.spatial_memory import MapFormat, MapUpdater, PlacedWindow, SpatialMemory
from metta.baselines.timed_flood import NO_ARRIVAL, timed_flood
from metta.config.env.env_config import EnvConfig
from metta.config.env.objects import ATTACK_RANGE
from metta.config.training import POLICIES
from metta.errors import UsageError

EXPLORATION_VALUE: Final = 0.01
"""Gain of seeing an unknown cell as a fraction of the largest gain."""

SURPLUS_DISCOUNT: Final = 0.5
"""Factor on the gain of an ingredient if the agent already carries enough of it for one conversion."""

UNSEEN_CONVERTER_DISCOUNT: Final = 0.5
"""Gain of seeing an unknown cell as a fraction of the gain at a converter that may be there."""

CHASE_DISCOUNT: Final = 0.5
"""Factor on the gain of an attack on an agent that is out of reach: it moves."""

KNOWN_CONVERTER_EXPONENT: Final = 2
"""Exponent of UNSEEN_CONVERTER_DISCOUNT if the agent already knows a converter of the type."""


@POLICIES.register("scripted")
class ScriptedPolicy:
    """A greedy policy without weights that knows the config's recipes and maps the cells it has seen.

    Each possible gain (an output to take, a converter to fill, an unknown cell to see) is the source of a flood fill
    over the free cells of the agent's map. Smaller gains start later, so that the flood which arrives first comes from
    the source with the largest discounted gain; the agent walks towards it. Visible agents are obstacles, and those
    that can be robbed are sources, too: an agent attacks if that gains more than what it would do otherwise.
    """

    uses_action_masks = False

    def __init__(self, env_config: EnvConfig):
        self.spec = env_config.spec
        self.recipes = RecipeValues.from_config(env_config)
        self._size = MapFormat.of(env_config)
        attacks = Attacks(env_config, self.recipes)
        self._attacks = attacks if attacks.is_useful else None
        self._parser = ObservationParser(self.spec, self.recipes, self._size.dtype, attacks.is_useful)
        self._planes = self._parser.planes
        self._actions = actions = ScriptedActions(env_config, self.recipes)
        self._map = MapUpdater(
            self.recipes, self._planes, self._size, self._parser.shape, actions.move_id, actions.put_ids
        )
        self._surplus_delay = round(discount_steps(SURPLUS_DISCOUNT))
        self._unseen_converter_delay = round(discount_steps(UNSEEN_CONVERTER_DISCOUNT))
        self._chase_delay = round(discount_steps(CHASE_DISCOUNT)) - (ATTACK_RANGE - 1)
        self._get_delays = self.recipes.delays(self.recipes.gain_of_get)
        self._put_delays = self.recipes.delays(self.recipes.gain_of_put)
        self._exploration_delay = round(discount_steps(EXPLORATION_VALUE))
        used = [self.recipes, actions, *([attacks] if attacks.is_useful else [])]
        arrays = [value for part in used for value in vars(part).values()]
        self._key = (self._size, self.spec.model_dump_json(), *map(str, map(_plain, arrays)))

    def __eq__(self, other: object) -> bool:
        """Whether the other one decides alike: the tasks of a curriculum may differ in what it does not use."""
        return isinstance(other, ScriptedPolicy) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def initial_memory(self, agents: int) -> Memory:
        """The memory of agents with empty maps, see `SpatialMemory`."""
        return SpatialMemory.empty(agents, self._planes, self._size).to_memory()

    def act(
        self,
        observations: Observations,
        memory: Memory,
        episode_starts: Tensor | None = None,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        action_masks: Tensor | None = None,
    ) -> PolicyOutput:
        """Choose actions for packed observations, or for padded ones, `[agents, tokens, 3] uint8`.

        One of the equally good actions is drawn at random, even if `deterministic`, so that agents do not block each
        other forever; `logits` are the logarithms of the probabilities with which it is drawn. Values are 0;
        `action_masks` has no effect. Raises UsageError if `memory` is not one of `initial_memory`.
        """
        if "maps" not in memory.tensors:
            raise UsageError("memory has no maps; create it with initial_memory(agents) of the scripted policy")
        agents = len(observations)
        noise = torch.rand(agents, 5, generator=generator).numpy()
        observation = self._parser.parse(observations)
        if episode_starts is not None and bool(episode_starts.any()):
            memory = memory.cleared(episode_starts.cpu())
        maps, placed = self._map.update(SpatialMemory.of(memory), observation)
        decided, probabilities = self._decide(maps, observation, placed, noise)
        action_index = torch.from_numpy(decided)
        logits = torch.from_numpy(probabilities).log()
        log_probs = logits.gather(1, action_index[:, None])[:, 0]
        actions = self._actions.flat_actions[action_index]
        return PolicyOutput(actions, action_index, log_probs, torch.zeros(agents), maps.to_memory(), logits)

    def _decide(
        self,
        memory: SpatialMemory,
        observation: ParsedObservation,
        placed: PlacedWindow,
        noise: NDArray[np.float32],
    ) -> tuple[Integers, NDArray[np.float32]]:
        """Action indices `[agents] int64`, and the probabilities of all actions `[agents, actions] float32`.

        `noise [agents, 5] float32` in [0, 1) draws among equally good actions.
        """
        agents = np.arange(len(memory.row))
        sources, delays = self._sources(memory, observation, placed)
        attacks = self._attacks.options(observation) if self._attacks else None
        if attacks is not None:
            sources, delays = self._with_victims(sources, delays, memory, attacks)
        blocked = memory.maps[OBJECTS] | memory.outside
        blocked.reshape(-1)[placed.rows] |= self._map.on_map(observation.other_agents, memory.col).ravel()
        free = memory.maps[SEEN] & ~blocked
        directions, arrival = timed_flood(sources, delays, free, memory.row, memory.col)
        if attacks is not None:
            is_attack, directions = attacks.compare(directions, arrival, observation.orientation)
        score = directions * (2 + noise[:, :4])
        score[agents, observation.orientation] += directions[agents, observation.orientation]  # prefer not to turn
        direction = np.where(directions.any(axis=1), score.argmax(axis=1), -1)
        row, col = memory.row + ROW_STEPS[direction], memory.col + COL_STEPS[direction]
        # of all sources in the next cell, the one whose flood arrived first
        is_next = (sources[:, row % self._size.rows, agents] & column_bit(col, sources.dtype)) != 0
        next_delays = np.where(is_next, delays, NO_ARRIVAL + 1)
        source = next_delays.argmin(axis=0)
        is_at_source = (next_delays.min(axis=0) <= arrival) & (direction >= 0)
        types = len(self.recipes.names)
        puts = is_at_source & (source >= types) & (source < 2 * types)
        gets = is_at_source & (source < 3 * types) & ~puts
        target = np.where(direction < 0, (noise[:, 4] * 4).astype(np.int64), direction)
        is_facing = target == observation.orientation
        actions = self._actions
        action_index = np.where(is_facing, actions.step, actions.turn[observation.orientation, target])
        if types:
            type_index = source % types
            action_index = np.where(is_facing & gets, actions.get[type_index], action_index)
            action_index = np.where(is_facing & puts, actions.put[type_index], action_index)
        probabilities = self._probabilities(action_index, directions, observation.orientation)
        if attacks is not None:
            is_best = attacks.is_best[is_attack]
            count = is_best.sum(axis=1, keepdims=True)
            probabilities[is_attack] = is_best / count
            action_index[is_attack] = (is_best.cumsum(axis=1) > noise[is_attack, 4:] * count).argmax(axis=1)
        return action_index, probabilities

    def _with_victims(
        self, sources: Words, delays: Integers, memory: SpatialMemory, attacks: AttackOptions
    ) -> tuple[Words, Integers]:
        """The sources and their delays with one more: the cell of the victim in sight that is worth most."""
        agents = np.arange(len(memory.row))
        cells = np.zeros((1, *sources.shape[1:]), sources.dtype)
        row, col = memory.row + attacks.victim_row, memory.col + attacks.victim_col
        cells[0, row % self._size.rows, agents] = column_bit(col, sources.dtype)
        delay = np.minimum(attacks.chase + self._chase_delay, NO_ARRIVAL)
        return np.concatenate([sources, cells]), np.concatenate([delays, delay[None]])

    def _probabilities(self, action_index: Integers, directions: Mask, orientation: Integers) -> NDArray[np.float32]:
        """`[agents, actions] float32`: probabilities of the actions of which `action_index [agents]` was drawn.

        An agent that faces one of its `directions [agents, 4]` has one best action. Otherwise a turn to each of them is
        equally good; without any, so is each of the four directions.
        """
        agents, num_actions = len(action_index), len(self.spec.flat_actions)
        probabilities = np.zeros(agents * num_actions, np.float32)
        first = np.arange(agents) * num_actions
        count = np.count_nonzero(directions, axis=1)
        has_best = directions[np.arange(agents), orientation]
        best = has_best.nonzero()[0]
        probabilities[first[best] + action_index[best]] = 1
        agent, target = ((directions | (count == 0)[:, None]) & ~has_best[:, None]).nonzero()
        facing = orientation[agent]
        choice = np.where(facing == target, self._actions.step, self._actions.turn[facing, target])
        # targets of an agent are added in ascending order: two of them may have the same first turn
        np.add.at(probabilities, first[agent] + choice, (1 / np.where(count == 0, 4, count).astype(np.float32))[agent])
        return probabilities.reshape(agents, num_actions)

    def _sources(
        self, memory: SpatialMemory, observation: ParsedObservation, placed: PlacedWindow
    ) -> tuple[Words, Integers]:
        """Sources of floods, `[3 * types + 1, rows, agents]`, and their delays in steps, `[3 * types + 1, agents]`.

        They are, in this order and by type: converters with output, converters with room, converters that will have
        output; last, all unknown cells.
        """
        recipes, group = self.recipes, observation.group
        inventory = observation.inventory.T
        can_use_more = inventory < recipes.enough.T.take(group, axis=1)
        has_enough = (inventory >= recipes.needed[:, None]) & (recipes.needed > 0)[:, None]
        needs_output, is_surplus, can_put = np.zeros((3, len(recipes.names), len(group)), np.bool_)
        for index, (inputs, outputs) in enumerate(zip(recipes.inputs, recipes.outputs, strict=True)):
            products, ingredients = outputs.nonzero()[0], inputs.nonzero()[0]
            can_use_more[products].any(axis=0, out=needs_output[index])
            has_enough[products].any(axis=0, out=is_surplus[index])
            (inventory[ingredients] >= inputs[ingredients, None]).all(axis=0, out=can_put[index])
        get_delays, put_delays = self._get_delays.T.take(group, axis=1), self._put_delays.T.take(group, axis=1)
        get = np.where(needs_output, get_delays + is_surplus * self._surplus_delay, NO_ARRIVAL)
        put = np.where(can_put, put_delays, NO_ARRIVAL)
        expected, wait = self._expected_output(memory, placed)
        maps, planes = memory.maps, self._planes
        has_converter = np.bitwise_or.reduce(maps[planes.converters], axis=1) != 0
        # an agent with a recipe's ingredients gains more from unknown cells: they may contain a converter of the type,
        # or one that is nearer than the known ones, or reachable
        exponent = np.where(has_converter, KNOWN_CONVERTER_EXPONENT, 1)
        explore = np.minimum(put + self._unseen_converter_delay * exponent, NO_ARRIVAL)
        unknown = explore.min(axis=0, initial=self._exploration_delay, keepdims=True)
        sources = np.concatenate([maps[planes.has_output], maps[planes.has_room], expected, ~maps[SEEN, None]])
        return sources, np.concatenate([get, put, np.minimum(get + wait, NO_ARRIVAL), unknown])

    def _expected_output(self, memory: SpatialMemory, placed: PlacedWindow) -> tuple[Words, Integers]:
        """Visible converters that will have output, `[types, rows, agents]`, and the wait, `[types, agents]` in steps.

        If the agent has just filled a converter of a type, the wait is the duration of its conversion. For others, the
        start of the conversion is unknown, and the wait is estimated as the duration of conversion and cooldown.
        """
        recipes, maps, planes = self.recipes, memory.maps, self._planes
        _, size, agents = maps.shape
        expected = np.zeros((planes.types, size, agents), maps.dtype)
        for plane, words in zip(
            expected.reshape(planes.types, size * agents), placed.words[planes.converting], strict=True
        ):
            plane[placed.rows] = words.ravel()
        expected &= ~maps[planes.has_output]
        put_row, put_bit = memory.put_row % size, column_bit(memory.put_col, maps.dtype)
        is_put = maps[planes.converters, put_row, np.arange(agents)] & put_bit
        since_put = memory.age - memory.put_age
        ticks, cooldown = recipes.ticks[:, None], recipes.cooldown[:, None]
        has_filled = (is_put != 0) & (memory.put_age > 0) & (since_put <= ticks + 1)
        type_index, agent = has_filled.nonzero()
        expected[type_index, :, agent] = 0
        expected[type_index, put_row[agent], agent] = put_bit[agent]
        return expected, np.where(has_filled, ticks, ticks + cooldown)


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray | Tensor) else value
