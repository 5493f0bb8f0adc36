"""Observation parser of the scripted policy: from tokens to arrays over the cells of the window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metta.baselines.bitboards import Integers, Mask
from metta.baselines.recipe_values import MAX_FILL, RecipeValues
from metta.config.env.env_spec import EnvSpec
from metta.config.env.token_features import FEATURE_IDS, FIRST_ITEM_FEATURE, NO_TOKEN


@dataclass(frozen=True)
class ParsedObservation:
    """The content of observations as arrays, most of them over the cells of the window.

    Converter types are indexed as in `RecipeValues`.
    """

    visible: Mask
    """`[agents, rows, cols]`: cells whose tokens are certainly not truncated by `num_observation_tokens`"""
    objects: Mask
    """`[agents, rows, cols]`: cells with an object"""
    other_agents: Mask
    """`[agents, rows, cols]`: cells with another agent"""
    converters: Mask
    """`[agents, types, rows, cols]`: cells with a converter of each type"""
    has_output: Mask
    """`[agents, types, rows, cols]`: converters with output to take, by `RecipeValues.ready_at`"""
    converting: Mask
    """`[agents, types, rows, cols]`: converters that will have output after their conversion or cooldown"""
    has_room: Mask
    """`[agents, types, rows, cols]`: converters that have room for ingredients"""
    inventory: Integers
    """`[agents, items]`: units that the agent carries"""
    orientation: Integers
    """`[agents]`: index into `geometry.STEPS`"""
    group: Integers
    """`[agents]`: index into `spec.group_ids`"""
    is_frozen: Mask
    """`[agents]`"""
    last_action: Integers
    """`[agents]`: action id"""
    last_argument: Integers
    """`[agents]`"""


class ObservationParser:
    """Parses token observations of environments of `spec`."""

    def __init__(self, spec: EnvSpec, recipes: RecipeValues):
        self.spec, self.recipes = spec, recipes
        self.shape = (spec.observation_height, spec.observation_width)
        self.num_items = len(spec.feature_names) - FIRST_ITEM_FEATURE
        self.type_index = np.full(256, -1)
        self.type_index[recipes.type_ids] = np.arange(len(recipes.type_ids))
        self.group_index = np.zeros(256, np.int64)
        self.group_index[spec.group_ids] = np.arange(len(spec.group_ids))
        rows, cols = np.indices(self.shape)
        self.distance = abs(rows - self.shape[0] // 2) + abs(cols - self.shape[1] // 2)

    def parse(self, observations: NDArray[np.uint8]) -> ParsedObservation:
        """Parse `[agents, tokens, 3] uint8`."""
        agents, cells = len(observations), self.distance.size
        used = observations[:, :, 0] != NO_TOKEN
        agent, _ = np.nonzero(used)
        location, feature, value = observations[used].astype(np.int64).T
        cell = (location >> 4) * self.shape[1] + (location & 15)
        index = agent * cells + cell
        is_own = location == self.spec.center

        def cell_values(name: str) -> Integers:
            """`[agents, cells]`: the value of a feature; -1 where no token has it."""
            values = np.full(agents * cells, -1)
            mask = feature == FEATURE_IDS[name]
            values[index[mask]] = value[mask]
            return values.reshape(agents, cells)

        def own_value(name: str) -> Integers:
            """`[agents]`: the value of a feature at the agent's own cell; 0 if no token has it."""
            values = np.zeros(agents, np.int64)
            mask = is_own & (feature == FEATURE_IDS[name])
            values[agent[mask]] = value[mask]
            return values

        type_ids = cell_values("type_id")
        items = np.zeros((agents * cells, self.num_items), np.int64)
        is_item = feature >= FIRST_ITEM_FEATURE
        items[index[is_item], feature[is_item] - FIRST_ITEM_FEATURE] = value[is_item]
        contents = items.reshape(agents, cells, self.num_items)
        converters, has_output, converting, has_room = self._converters(
            type_ids, contents, cell_values("converting") > 0
        )
        center = cells // 2
        other_agents = type_ids == 0
        other_agents[:, center] = False
        return ParsedObservation(
            visible=self._visible(used, agent, cell),
            objects=(type_ids > 0).reshape(agents, *self.shape),
            other_agents=other_agents.reshape(agents, *self.shape),
            converters=converters,
            has_output=has_output,
            converting=converting,
            has_room=has_room,
            inventory=contents[:, center],
            orientation=own_value("agent:orientation") & 3,
            group=self.group_index[own_value("agent:group")],
            is_frozen=own_value("agent:frozen") > 0,
            last_action=own_value("last_action"),
            last_argument=own_value("last_action_arg"),
        )

    def _converters(self, type_ids: Integers, contents: Integers, is_busy: Mask) -> list[Mask]:
        """The masks `converters`, `has_output`, `converting` and `has_room` of `ParsedObservation`."""
        agents, types = len(type_ids), len(self.recipes.names)
        index = np.where(type_ids >= 0, self.type_index[type_ids], -1)
        masks = [np.zeros((agents, types, type_ids.shape[1]), bool) for _ in range(4)]
        converters, has_output, converting, has_room = masks
        for type_index, (ready_at, inputs) in enumerate(zip(self.recipes.ready_at, self.recipes.inputs, strict=True)):
            agent, cell = np.nonzero(index == type_index)
            content = contents[agent, cell]
            converters[agent, type_index, cell] = True
            has_output[agent, type_index, cell] = (content >= ready_at).any(axis=1)
            converting[agent, type_index, cell] = (content >= inputs).all(axis=1) & is_busy[agent, cell]
            has_room[agent, type_index, cell] = (content < MAX_FILL * inputs).any(axis=1)
        return [mask.reshape(agents, types, *self.shape) for mask in masks]

    def _visible(self, used: Mask, agent: Integers, cell: Integers) -> Mask:
        """`[agents, rows, cols]`: cells whose tokens are certainly complete.

        Tokens are ordered by distance and truncated at the end: if all are used, tokens may be missing in cells at
        least as far away as the farthest cell with a token.
        """
        farthest = np.zeros(len(used), np.int64)
        np.maximum.at(farthest, agent, self.distance.ravel()[cell])
        is_complete = ~used[:, -1]
        return np.asarray(is_complete[:, None, None] | (self.distance[None] < farthest[:, None, None]))
