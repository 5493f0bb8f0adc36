"""Observation parser of the scripted policy: from tokens to bitboards of the cells of the window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metta.agent.sparse_tokens import Observations, PackedTokens
from metta.baselines.bitboards import Integers, Mask, Words
from metta.baselines.recipe_values import MAX_FILL, RecipeValues
from metta.config.env.env_spec import EnvSpec
from metta.config.env.token_features import FEATURE_IDS, FIRST_ITEM_FEATURE, NO_TOKEN

Bytes = NDArray[np.uint8]

SEEN: Final = 0
"""Plane of the cells that an agent sees, or has seen."""

OBJECTS: Final = 1
"""Plane of the cells with an object."""

_TOKEN: Final = np.dtype((np.void, 3))

FIRST_TYPE_PLANE: Final = 2
"""First of the planes of converter types, see `Planes`."""


@dataclass(frozen=True)
class Planes:
    """The planes of a map, `[planes, ...]`: SEEN, OBJECTS, and four for each converter type of `RecipeValues`."""

    types: int

    @property
    def count(self) -> int:
        """The number of planes."""
        return FIRST_TYPE_PLANE + 4 * self.types

    @property
    def converters(self) -> slice:
        """Planes, by type, of the cells with a converter."""
        return self._of_kind(0)

    @property
    def converting(self) -> slice:
        """Planes, by type, of the converters that will have output after their conversion or cooldown."""
        return self._of_kind(1)

    @property
    def has_output(self) -> slice:
        """Planes, by type, of the converters with output to take, by `RecipeValues.ready_at`."""
        return self._of_kind(2)

    @property
    def has_room(self) -> slice:
        """Planes, by type, of the converters that have room for ingredients."""
        return self._of_kind(3)

    def _of_kind(self, kind: int) -> slice:
        first = FIRST_TYPE_PLANE + kind * self.types
        return slice(first, first + self.types)


@dataclass(frozen=True)
class OtherAgents:
    """Every other agent that agents see, in a list."""

    observer: Integers
    """`[others]`: index of the agent that sees it"""
    row: Integers
    """`[others]`: row of its cell relative to the observer"""
    col: Integers
    """`[others]`: column of that cell"""
    group: Integers
    """`[others]`: index into `spec.group_ids`"""
    is_frozen: Mask
    """`[others]`"""
    inventory: Integers
    """`[others, items]`: units that it carries"""


@dataclass(frozen=True)
class ParsedObservation:
    """The content of observations. Bit c of a word is column c of the window."""

    window: Words
    """`[planes, rows, agents]`: the cells of the window; in SEEN, those whose tokens are certainly not truncated"""
    other_agents: Words
    """`[rows, agents]`: cells with another agent"""
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
    others: OtherAgents
    """empty unless the parser lists others"""


class ObservationParser:
    """Parses token observations of environments of `spec` into words of type `dtype`.

    With `lists_others`, the result has a list of the other agents that agents see.
    """

    def __init__(
        self, spec: EnvSpec, recipes: RecipeValues, dtype: np.dtype[np.unsignedinteger], lists_others: bool = False
    ):
        self.spec, self.recipes, self.dtype, self.lists_others = spec, recipes, dtype, lists_others
        self.shape = height, width = spec.observation_height, spec.observation_width
        self.planes = Planes(len(recipes.names))
        self._num_features = FIRST_ITEM_FEATURE + recipes.inputs.shape[1]  # those after them are custom
        # as int16, since tokens have values of at most 255
        self._inputs, self._ready_at = (
            np.ascontiguousarray(np.minimum(amounts, 256).T, np.int16) for amounts in (recipes.inputs, recipes.ready_at)
        )
        self._room_below = np.ascontiguousarray(np.minimum(MAX_FILL * recipes.inputs, 256).T, np.int16)
        self._type_index = np.full(256, -1)
        self._type_index[recipes.type_ids] = np.arange(len(recipes.type_ids))
        self._group_index = np.zeros(256, np.int64)
        self._group_index[spec.group_ids] = np.arange(len(spec.group_ids))
        location = np.arange(256)
        row, col = location >> 4, location & 15
        self._row, self._bit = row, 2.0**col
        self._distance = abs(row - height // 2) + abs(col - width // 2)
        rows, cols = np.indices(self.shape)
        distance = abs(rows - height // 2) + abs(cols - width // 2)
        nearer = distance < np.arange(distance.max() + 2)[:, None, None]
        self._nearer = np.ascontiguousarray((nearer * 2 ** np.arange(width)).sum(axis=2).T, dtype)
        """`[rows, distances]`: the cells that are nearer than each distance; the last one has all cells"""
        self._nobody = self._others(0, np.zeros(0, np.int64), *np.zeros((3, 0), np.uint8))

    def parse(self, observations: Observations) -> ParsedObservation:
        """Parse packed observations, or padded ones, `[agents, tokens, 3] uint8`."""
        tokens, counts = self._used_tokens(observations)
        agents = len(counts)
        agent = np.arange(agents).repeat(counts)
        location, feature, value = np.ascontiguousarray(tokens.T)
        seen = self._seen(location, counts)
        if self._num_features < len(self.spec.feature_names):
            is_built_in = feature < self._num_features
            agent, location = agent[is_built_in], location[is_built_in]
            feature, value = feature[is_built_in], value[is_built_in]
        own = self._own_values(agents, agent, location, feature, value)
        words = self._words(agents, agent, location, feature, value)
        words[SEEN] = seen
        return ParsedObservation(
            window=words[:-1],
            other_agents=words[-1],
            inventory=own[:, FIRST_ITEM_FEATURE : self._num_features],
            orientation=own[:, FEATURE_IDS["agent:orientation"]] & 3,
            group=self._group_index[own[:, FEATURE_IDS["agent:group"]]],
            is_frozen=own[:, FEATURE_IDS["agent:frozen"]] > 0,
            last_action=own[:, FEATURE_IDS["last_action"]],
            last_argument=own[:, FEATURE_IDS["last_action_arg"]],
            others=self._others(agents, agent, location, feature, value) if self.lists_others else self._nobody,
        )

    def _used_tokens(self, observations: Observations) -> tuple[Bytes, Integers]:
        """The tokens of all agents, `[tokens, 3]`, and how many of them each agent has, `[agents]`."""
        if isinstance(observations, PackedTokens):
            tokens = observations.tokens.cpu().numpy()
            if (tokens[:, 0] != NO_TOKEN).all():
                return tokens, np.diff(observations.offsets.cpu().numpy())
            observations = observations.padded(self.spec.num_observation_tokens)  # lists on a GPU have padding
        padded = observations.cpu().numpy()
        is_used = padded[:, :, 0] != NO_TOKEN
        used = padded.reshape(-1).view(_TOKEN).take(is_used.ravel().nonzero()[0])
        return used.view(np.uint8).reshape(-1, 3), np.count_nonzero(is_used, axis=1)

    def _own_values(self, agents: int, agent: Integers, location: Bytes, feature: Bytes, value: Bytes) -> Integers:
        """`[agents, features]`: the values of all features at the agent's own cell; 0 where no token has one."""
        features = len(self.spec.feature_names)
        own = np.zeros(agents * features, np.int64)
        is_own = (location == self.spec.center).nonzero()[0]
        own[agent[is_own] * features + feature[is_own]] = value[is_own]
        return own.reshape(agents, features)

    def _others(self, agents: int, agent: Integers, location: Bytes, feature: Bytes, value: Bytes) -> OtherAgents:
        """The list of all other agents."""
        is_type = feature == FEATURE_IDS["type_id"]
        listed = (is_type & (value == 0) & (location != self.spec.center)).nonzero()[0]
        observer, cell = agent[listed], location[listed]
        place = np.full(agents * 256, -1, np.int32)  # in the list, by observer and location
        place[observer * 256 + cell] = np.arange(len(listed))
        other = place[agent * 256 + location]
        tokens = (other >= 0).nonzero()[0]
        values = np.zeros((len(listed), len(self.spec.feature_names)), np.int64)
        values[other[tokens], feature[tokens]] = value[tokens]
        return OtherAgents(
            observer=observer,
            row=(cell >> 4) - np.int64(self.shape[0] // 2),
            col=(cell & 15) - np.int64(self.shape[1] // 2),
            group=self._group_index[values[:, FEATURE_IDS["agent:group"]]],
            is_frozen=values[:, FEATURE_IDS["agent:frozen"]] > 0,
            inventory=values[:, FIRST_ITEM_FEATURE : self._num_features],
        )

    def _words(self, agents: int, agent: Integers, location: Bytes, feature: Bytes, value: Bytes) -> Words:
        """`[planes + 1, rows, agents]`: the cells of each plane except SEEN; the last one has other agents."""
        planes, height = self.planes, self.shape[0]
        entity = (feature == FEATURE_IDS["type_id"]).nonzero()[0]
        of_agent, cell, type_id = agent[entity], location[entity], value[entity]
        place_in_plane, bit = self._row[cell] * agents + of_agent, self._bit[cell]
        is_object = (type_id > 0).nonzero()[0]
        is_other = ((type_id == 0) & (cell != self.spec.center)).nonzero()[0]
        type_index = self._type_index[type_id]
        is_converter = (type_index >= 0).nonzero()[0]
        type_index = type_index[is_converter]
        is_content = ((feature >= FIRST_ITEM_FEATURE) | (feature == FEATURE_IDS["converting"])).nonzero()[0]
        place = np.full(agents * 256, -1, np.int32)  # of each converter in the list, by agent and location
        place[of_agent[is_converter] * 256 + cell[is_converter]] = np.arange(len(is_converter))
        converter = place[agent[is_content] * 256 + location[is_content]]
        contents = self._contents(type_index, converter, feature[is_content], value[is_content])
        of_kind = zip((planes.converting, planes.has_output, planes.has_room), contents, strict=True)
        chosen = [is_object, is_other, is_converter, *(is_converter[mask] for mask in contents)]
        plane = [
            np.full(len(is_object), OBJECTS),
            np.full(len(is_other), planes.count),
            planes.converters.start + type_index,
            *(kind.start + type_index[mask] for kind, mask in of_kind),
        ]
        rows = np.concatenate(chosen)
        index = np.concatenate(plane)
        index *= height * agents
        index += place_in_plane[rows]
        # each cell is in a plane at most once, so that the sum of bits is the word
        words = np.bincount(index, bit[rows], (planes.count + 1) * height * agents)
        return words.astype(self.dtype).reshape(planes.count + 1, height, agents)

    def _contents(
        self, type_index: Integers, converter: NDArray[np.int32], feature: Bytes, value: Bytes
    ) -> tuple[Mask, Mask, Mask]:
        """`[converters]` each: is converting, has output, has room; for converters of the types `type_index`.

        `converter [tokens]` is the converter that each token of items or `converting` belongs to, or -1.
        """
        items, converters = len(self._inputs), len(type_index)
        units = np.zeros(items * converters, np.int16)
        is_busy = np.zeros(converters, bool)
        known = (converter >= 0).nonzero()[0]
        converter, feature, value = converter[known].astype(np.int64), feature[known], value[known]
        is_item = feature >= FIRST_ITEM_FEATURE
        held = is_item.nonzero()[0]
        units[(feature[held] - np.int64(FIRST_ITEM_FEATURE)) * converters + converter[held]] = value[held]
        is_busy[converter[~is_item & (value > 0)]] = True
        contents = units.reshape(items, converters)
        inputs, ready_at, room_below = (
            amounts.take(type_index, axis=1) for amounts in (self._inputs, self._ready_at, self._room_below)
        )
        return (
            np.asarray(np.logical_and.reduce(contents >= inputs, axis=0) & is_busy),
            np.asarray(np.logical_or.reduce(contents >= ready_at, axis=0)),
            np.asarray(np.logical_or.reduce(contents < room_below, axis=0)),
        )

    def _seen(self, location: Bytes, counts: Integers) -> Words:
        """`[rows, agents]`: cells whose tokens are certainly complete.

        Tokens are ordered by distance and truncated at the end: if all are used, tokens may be missing in cells at
        least as far away as that of the last token.
        """
        farthest = np.full(len(counts), self._nearer.shape[1] - 1)
        full = (counts == self.spec.num_observation_tokens).nonzero()[0]
        farthest[full] = self._distance[location[counts.cumsum()[full] - 1]]
        return self._nearer.take(farthest, axis=1)
