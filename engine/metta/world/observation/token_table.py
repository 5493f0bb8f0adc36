"""What each thing looks like: its tokens but for the location, drawn anew only where something has changed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.state.worlds import IDLE, Worlds

# ids of features, as in BASE_FEATURES of the config; in the order in which the tokens of a thing are listed
GLOBAL_FEATURES = (8, 9, 10, 11)  # episode_completion_pct, last_action, last_action_arg, last_reward
AGENT_FEATURES = (0, 1, 3, 4, 5)  # type_id, group, frozen, orientation, color
CONVERTER_FEATURES = (0, 5, 6)  # type_id, color, converting
SWAPPABLE_FEATURES = (0, 7)  # type_id, swappable
PLAIN_FEATURES = (0,)  # type_id
FIRST_ITEM = 12


class TokenTable:
    """Tokens of everything in a batch, by thing id.

    `tokens [entities, slots]`: feature id | value << 8. `counts [entities]`: how many of the slots are in use. What
    every thing of a kind has comes first, so that the feature ids there are written once; then come the items it holds.
    """

    def __init__(self, worlds: Worlds):
        self._worlds = worlds
        self.slots = len(AGENT_FEATURES) + worlds.compiled.num_items
        self.redraw()

    def redraw(self) -> None:
        """Draw everything there is."""
        worlds, types = self._worlds, self._worlds.compiled.types
        self.tokens = np.zeros((worlds.num_entities, self.slots), np.uint16)
        self.counts = np.zeros(worlds.num_entities, np.int64)
        features, self._values = np.moveaxis(self.tokens.view(np.uint8).reshape(*self.tokens.shape, 2), -1, 0)
        bounds = (
            *(worlds.first_global, worlds.first_swappable, worlds.first_agent),
            *(worlds.first_plain, worlds.first_converter, worlds.num_entities),
        )
        global_, swappable, agent, plain, converter = map(slice, bounds[:-1], bounds[1:])
        for entities, fixed in (
            (global_, GLOBAL_FEATURES),
            (swappable, SWAPPABLE_FEATURES),
            (agent, AGENT_FEATURES),
            (plain, PLAIN_FEATURES),
            (converter, CONVERTER_FEATURES),
        ):
            features[entities, : len(fixed)] = fixed
            self.counts[entities] = len(fixed)
        self._values[plain, 0] = types.type_id[: types.plain_walls]
        self._values[swappable, 0] = types.type_id[types.plain_walls : types.static]
        self._values[swappable, 1] = 1
        self._global_values, self._agent_values = self._values[global_], self._values[agent]
        worlds.items_changed[:] = True
        worlds.converter_changed[:] = worlds.converter_cell >= 0

    def update(self) -> None:
        """Draw what has changed. What fits in a byte for every agent is simply written again."""
        worlds = self._worlds
        if len(self.tokens) != worlds.num_entities:
            self.redraw()
        self._global_values[:, 0] = self._completion().repeat(worlds.num_agents)
        self._global_values[:, 1:3] = worlds.last_action
        self._global_values[:, 3] = reward_byte(worlds.reward) if np.count_nonzero(worlds.reward > 0) else 0
        self._agent_values[:, 2] = worlds.freeze != 0
        self._agent_values[:, 3] = worlds.orientation
        self._agent_values[:, 4] = worlds.color
        agents = worlds.items_changed.nonzero()[0]
        if agents.size:
            self._draw_agents(agents)
            worlds.items_changed[agents] = False
        converters = worlds.converter_changed.nonzero()[0]
        if converters.size:
            self._draw_converters(converters)
            worlds.converter_changed[converters] = False

    def _completion(self) -> NDArray[np.int64]:
        """Part of the episode that is over, in 255ths, by world; past the end it wraps in its byte."""
        worlds = self._worlds
        return rounded(worlds.steps / worlds.compiled.rulesets.max_steps[worlds.ruleset] * 255.0)

    def _draw_agents(self, agents: NDArray[np.int64]) -> None:
        worlds = self._worlds
        self._agent_values[agents, 1] = worlds.compiled.groups.token_id[worlds.group_row[agents]]
        entities = worlds.first_agent + agents
        self._draw_items(entities, len(AGENT_FEATURES), worlds.has_token[agents], worlds.inventory[agents])

    def _draw_converters(self, converters: NDArray[np.int64]) -> None:
        worlds = self._worlds
        entities = worlds.first_converter + converters
        types, type_rows = worlds.compiled.types, worlds.converter_type[converters]
        self._values[entities, 0] = types.type_id[type_rows]
        self._values[entities, 1] = types.color[type_rows]
        self._values[entities, 2] = worlds.converter_phase[converters] != IDLE
        held = worlds.converter_inventory[converters]
        self._draw_items(entities, len(CONVERTER_FEATURES), held > 0, held)

    def _draw_items(
        self, entities: NDArray[np.int64], fixed: int, has_token: NDArray[np.bool_], amounts: NDArray[np.int16]
    ) -> None:
        """Item tokens of things, after their `fixed` other tokens. `has_token`, `amounts [entities, items]`"""
        ends = np.add.accumulate(has_token, axis=1, dtype=np.int64)
        position, item = has_token.nonzero()
        slot = fixed - 1 + ends[position, item]
        self.tokens[entities[position], slot] = FIRST_ITEM + item + (amounts[position, item].astype(np.int64) << 8)
        self.counts[entities] = fixed + has_token.sum(axis=1)


def reward_byte(reward: NDArray[np.float32]) -> NDArray[np.int64]:
    """The last_reward token's value: hundredths, rounded, 0 to 255."""
    hundredths = reward * np.float32(100)
    np.maximum(hundredths, np.float32(0), out=hundredths)
    np.minimum(hundredths, np.float32(255), out=hundredths)
    return rounded(hundredths)


def rounded(values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Values that are not negative, rounded, halves up. (`floor(x + 0.5)` would round in its sum, too.)"""
    halves: NDArray[np.int64] = (values + values).astype(np.int64)
    halves += 1
    halves >>= 1
    return halves
