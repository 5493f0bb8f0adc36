"""TokenTable: (feature id, value) tokens of every entity, updated in each step where an entity has changed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.config.env.token_features import FEATURE_IDS, FIRST_ITEM_FEATURE, GLOBAL_FEATURES
from metta.world.observation.custom_features import CellTokens, CustomFeatures
from metta.world.state.worlds import IDLE, Worlds

# features of each kind of entity, in token order; items follow after those of agents and converters
AGENT_FEATURES = ("type_id", "agent:group", "agent:frozen", "agent:orientation", "agent:color")
CONVERTER_FEATURES = ("type_id", "agent:color", "converting")
SWAPPABLE_FEATURES = ("type_id", "swappable")
PLAIN_WALL_FEATURES = ("type_id",)

# columns (slots) of features in the table
TYPE_ID = 0  # of all entities except globals
COMPLETION = GLOBAL_FEATURES.index("episode_completion_pct")
LAST_ACTION = GLOBAL_FEATURES.index("last_action")  # the argument of the action is in the next slot
LAST_REWARD = GLOBAL_FEATURES.index("last_reward")
GROUP = AGENT_FEATURES.index("agent:group")
FROZEN = AGENT_FEATURES.index("agent:frozen")
ORIENTATION = AGENT_FEATURES.index("agent:orientation")
AGENT_COLOR = AGENT_FEATURES.index("agent:color")
CONVERTER_COLOR = CONVERTER_FEATURES.index("agent:color")
CONVERTING = CONVERTER_FEATURES.index("converting")
SWAPPABLE = SWAPPABLE_FEATURES.index("swappable")


# constants as arrays, see compiled_config.py
NO_REWARD, NOT_FROZEN, COMPLETE, ONE = np.array(0, np.float32), np.array(0), np.array(255.0), np.array(1)


class TokenTable:
    """Tokens of all entities, indexed by entity id.

    `tokens [entity ids, slots] uint16`: feature id | value << 8. `counts [entity ids] int64`: number of slots in use.
    The first slots have the same features in all entities of a kind, so that their feature ids are written only once;
    the others are for items and custom features. With custom features of cells, the cells of the grid that have values
    are entities, too, whose ids follow those of the others.
    """

    def __init__(self, worlds: Worlds):
        self._worlds = worlds
        parts = worlds.compiled.parts
        self._own_features = CustomFeatures(worlds, "self", "offset")
        self._half_window = worlds.compiled.spec.observation_height // 2, worlds.compiled.spec.observation_width // 2
        self.offset_locations: dict[int, NDArray[np.uint8]] = {}
        """by index of a token among the first ones: its location in the window of each agent, `[agents]`"""
        self._agent_features = CustomFeatures(worlds, "agents")
        self.num_globals = len(GLOBAL_FEATURES) + len(self._own_features.ids)
        """number of the first tokens of every observation, which are not those of an entity in the window"""
        agent_slots = len(AGENT_FEATURES) + worlds.compiled.num_items + len(self._agent_features.ids)
        num_states = worlds.compiled.types.num_states
        self.slots = max(agent_slots, self.num_globals, len(parts.features_at("cells")), 1 + num_states)
        self._cells = CellTokens(worlds) if parts.features_at("cells") else None
        # the objects that agents or swappable walls stand on, an array like the grid
        self._covered = np.zeros(len(worlds.grid), np.int32) if worlds.compiled.types.has_walkable else None
        self.rebuild()

    def rebuild(self) -> None:
        """Write the tokens of all entities."""
        worlds, types = self._worlds, self._worlds.compiled.types
        self._num_entity_ids = worlds.num_entity_ids
        num_ids = worlds.num_entity_ids + (0 if self._cells is None else worlds.globals_start)
        self.tokens = np.zeros((num_ids, self.slots), np.uint16)
        self.counts = np.zeros(num_ids, np.int64)
        if self._cells is not None:
            self._cells.clear()
        features, values = self.tokens.view(np.uint8)[:, ::2], self._values
        bounds = (
            *(worlds.first_global, worlds.first_swappable, worlds.first_agent),
            *(worlds.first_plain_wall, worlds.first_converter, worlds.num_entity_ids),
        )
        globals_, swappable, agent, plain_wall, converter = map(slice, bounds[:-1], bounds[1:])
        for entities, names in (
            (globals_, GLOBAL_FEATURES),
            (swappable, SWAPPABLE_FEATURES),
            (agent, AGENT_FEATURES),
            (plain_wall, PLAIN_WALL_FEATURES),
            (converter, CONVERTER_FEATURES),
        ):
            features[entities, : len(names)] = [FEATURE_IDS[name] for name in names]
            self.counts[entities] = len(names)
        features[globals_, len(GLOBAL_FEATURES) : self.num_globals] = self._own_features.ids
        self.counts[globals_] = self.num_globals
        values[plain_wall, TYPE_ID] = types.type_id[: types.num_plain_walls]
        values[swappable, TYPE_ID] = types.type_id[types.num_plain_walls : types.num_walls]
        values[swappable, SWAPPABLE] = 1
        worlds.items_changed[:] = True
        worlds.converter_changed[:] = worlds.converter_cell >= 0

    @property
    def _values(self) -> NDArray[np.uint8]:
        """The values of `tokens`, a view. `[entity ids, slots]`

        It is not an attribute, because a copy of the table would have an array in place of the view.
        """
        return self.tokens.view(np.uint8)[:, 1::2]

    def update(self) -> None:
        """Update the tokens after a step: items and converters where they changed, other values of all agents."""
        worlds = self._worlds
        if self._num_entity_ids != worlds.num_entity_ids:
            self.rebuild()
        values = self._values
        global_values = values[worlds.first_global : worlds.first_swappable]
        global_values[:, COMPLETION] = self._completion().repeat(worlds.num_agents)
        global_values[:, LAST_ACTION : LAST_ACTION + 2] = worlds.last_action
        global_values[:, LAST_REWARD] = reward_byte(worlds.reward) if np.count_nonzero(worlds.reward > NO_REWARD) else 0
        for slot, own in enumerate(self._own_features.values(), len(GLOBAL_FEATURES)):
            if own.ndim == 1:
                global_values[:, slot] = own
            else:
                (height, width), (rows, cols, amounts) = self._half_window, own.T
                in_window = (rows.clip(-height, height) + height) << 4 | (cols.clip(-width, width) + width)
                self.offset_locations[slot] = in_window.astype(np.uint8)
                global_values[:, slot] = amounts
        if self._cells is not None:
            self._cells.update(self.tokens, self.counts)
        agent_values = values[worlds.first_agent : worlds.first_plain_wall]
        agent_values[:, FROZEN] = worlds.freeze != NOT_FROZEN
        agent_values[:, ORIENTATION] = worlds.orientation
        agent_values[:, AGENT_COLOR] = worlds.color
        if self._covered is not None:
            is_covered = worlds.grid[: worlds.globals_start] != worlds.floor
            np.multiply(worlds.floor, is_covered, out=self._covered[: worlds.globals_start])
        agents = worlds.items_changed.nonzero()[0]
        if agents.size:
            self._write_agents(agents)
            worlds.items_changed[agents] = False
        converters = worlds.converter_changed.nonzero()[0]
        if converters.size:
            self._write_converters(converters)
            worlds.converter_changed[converters] = False

    @property
    def layers(self) -> list[NDArray[np.int32]]:
        """Further arrays like the grid: entities that are in a cell besides the one in the grid."""
        covered = [] if self._covered is None else [self._covered]
        return covered if self._cells is None else [*covered, self._cells.layer]

    def _completion(self) -> NDArray[np.int64]:
        """Value of the episode_completion_pct token: 255 * steps / max_steps, rounded. `[worlds] int64`

        A value above 255 is stored modulo 256.
        """
        worlds = self._worlds
        return rounded(worlds.steps / worlds.by_ruleset(worlds.compiled.rulesets.max_steps) * COMPLETE)

    def _write_agents(self, agents: NDArray[np.int64]) -> None:
        worlds = self._worlds
        entities = worlds.first_agent + agents
        self._values[entities, GROUP] = worlds.compiled.groups.token_id[worlds.group_row[agents]]
        has_token, amounts = worlds.has_token[agents], worlds.inventory[agents]
        if self._agent_features.ids:
            # as further items, since their feature ids follow those of the items
            first = FIRST_ITEM_FEATURE + amounts.shape[1]
            custom = np.zeros((len(agents), worlds.compiled.num_features - first), np.int16)
            for feature, values in zip(self._agent_features.ids, self._agent_features.values(), strict=True):
                custom[:, feature - first] = values[agents]
            has_token, amounts = np.hstack([has_token, custom > 0]), np.hstack([amounts, custom])
        self._write_items(entities, len(AGENT_FEATURES), has_token, amounts)

    def _write_converters(self, converters: NDArray[np.int64]) -> None:
        worlds, types, values = self._worlds, self._worlds.compiled.types, self._values
        if worlds.compiled.custom_objects:
            is_custom = types.is_custom[worlds.converter_type[converters]]
            self._write_objects(converters[is_custom])
            converters = converters[~is_custom]
            for slot, name in enumerate(CONVERTER_FEATURES):  # an object of a registered type may have been there
                self.tokens[worlds.first_converter + converters, slot] = FEATURE_IDS[name]
        entities = worlds.first_converter + converters
        type_rows = worlds.converter_type[converters]
        values[entities, TYPE_ID] = types.type_id[type_rows]
        values[entities, CONVERTER_COLOR] = types.color[type_rows]
        values[entities, CONVERTING] = worlds.converter_phase[converters] != IDLE
        held = worlds.converter_inventory[converters]
        self._write_items(entities, len(CONVERTER_FEATURES), held > 0, held)

    def _write_objects(self, objects: NDArray[np.int64]) -> None:
        """Write the tokens of objects of registered types: type id, then the states of the type."""
        worlds, types = self._worlds, self._worlds.compiled.types
        entities, type_rows = worlds.first_converter + objects, worlds.converter_type[objects]
        features = types.state_features[type_rows]
        self.tokens[entities, TYPE_ID] = FEATURE_IDS["type_id"] | types.type_id[type_rows] << 8
        states = features | worlds.converter_state[objects].astype(np.int64) << 8
        self.tokens[entities, 1 : 1 + types.num_states] = np.where(features >= 0, states, 0)
        self.counts[entities] = 1 + (features >= 0).sum(axis=1)

    def _write_items(
        self, entities: NDArray[np.int64], first_slot: int, has_token: NDArray[np.bool_], amounts: NDArray[np.int16]
    ) -> None:
        """Write item tokens, starting at slot `first_slot`. `has_token` and `amounts` are `[entities, items]`."""
        ends = np.add.accumulate(has_token, axis=1, dtype=np.int64)
        position, item = has_token.nonzero()
        slot = first_slot - 1 + ends[position, item]
        self.tokens[entities[position], slot] = (
            FIRST_ITEM_FEATURE + item + (amounts[position, item].astype(np.int64) << 8)
        )
        self.counts[entities] = first_slot + has_token.sum(axis=1)


def reward_byte(reward: NDArray[np.float32]) -> NDArray[np.int64]:
    """Value of the last_reward token: 100 * reward, clipped to [0, 255] and rounded. `[agents]`"""
    hundredths = reward * np.float32(100)
    np.maximum(hundredths, np.float32(0), out=hundredths)
    np.minimum(hundredths, np.float32(255), out=hundredths)
    return rounded(hundredths)


def rounded(values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Non-negative values rounded to the nearest integer, halves up.

    `floor(x + 0.5)` would be inexact, because the sum is rounded too: for the largest double below 0.5 it gives 1.
    """
    halves: NDArray[np.int64] = (values + values).astype(np.int64)
    halves += ONE
    halves >>= ONE
    return halves
