"""What the scripted agent knows of its surroundings: what it sees now, and a map it draws as it goes.

A map has 64 x 64 cells, a row of it one 64-bit word, so that one operation works on a row. It is a torus on which the
agent walks: cells 32 away are forgotten, and new ones take their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from metta.agent.recurrent_memory import Memory
from metta.baselines.recipe_values import FILL, RecipeValues
from metta.config.env.env_spec import EnvSpec

SIDE: Final = 64
ROW_STEPS: Final = np.array([-1, 1, 0, 0])
COL_STEPS: Final = np.array([0, 0, -1, 1])
"""A step up, down, left, right: by orientation."""

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

_ONE: Final = np.uint64(1)


@dataclass(frozen=True)
class ParsedObservation:
    """What agents see, cell by cell of the window."""

    visible: Mask
    """`[agents, rows, cols]`: not cut off by the number of tokens"""
    solid: Mask
    """`[agents, rows, cols]`: an object is there"""
    agents: Mask
    """`[agents, rows, cols]`: another agent is there"""
    is_type: Mask
    """`[agents, types, rows, cols]`: a converter of the economy is there"""
    full: Mask
    """`[agents, types, rows, cols]`: it holds something worth taking"""
    working: Mask
    """`[agents, types, rows, cols]`: it will, after its conversion or its rest"""
    hungry: Mask
    """`[agents, types, rows, cols]`: it has room for ingredients"""
    held: Integers
    """`[agents, items]`: the agent's own inventory"""
    orientation: Integers
    """`[agents]`"""
    group: Integers
    """`[agents]`: index into `spec.group_ids`"""
    is_frozen: Mask
    """`[agents]`"""
    last_action: Integers
    """`[agents]`: id of the action that the agent took last"""
    last_argument: Integers
    """`[agents]`"""


class ObservationParser:
    """Reads tokens."""

    def __init__(self, spec: EnvSpec, economy: RecipeValues):
        self.spec, self.economy = spec, economy
        self.shape = (spec.observation_height, spec.observation_width)
        ids = {name: feature for feature, name in enumerate(spec.feature_names)}
        self.type_id, self.group = ids["type_id"], ids["agent:group"]
        self.orientation, self.frozen, self.converting = (
            ids["agent:orientation"],
            ids["agent:frozen"],
            ids["converting"],
        )
        self.last_action, self.last_argument = ids["last_action"], ids["last_action_arg"]
        self.first_item = min(feature for name, feature in ids.items() if name.startswith("inv:"))
        self.num_items = len(spec.feature_names) - self.first_item
        self.type_index = np.full(256, -1)
        self.type_index[economy.type_ids] = np.arange(len(economy.type_ids))
        self.group_index = np.zeros(256, np.int64)
        self.group_index[spec.group_ids] = np.arange(len(spec.group_ids))
        rows, cols = np.indices(self.shape)
        self.distance = abs(rows - self.shape[0] // 2) + abs(cols - self.shape[1] // 2)

    def read(self, observations: NDArray[np.uint8]) -> ParsedObservation:
        """What `[agents, tokens, 3] uint8` show."""
        agents, (height, width) = len(observations), self.shape
        cells = height * width
        used = observations[:, :, 0] != 255
        agent, _ = np.nonzero(used)
        location, feature, value = observations[used].astype(np.int64).T
        at = agent * cells + (location >> 4) * width + (location & 15)
        own = location == self.spec.center

        def numbers(mask: Mask) -> Integers:
            """`[agents, cells]`: the value of those tokens, -1 where there is none."""
            seen = np.full(agents * cells, -1)
            seen[at[mask]] = value[mask]
            return seen.reshape(agents, cells)

        def own_number(name: int, missing: int = 0) -> Integers:
            """`[agents]`: a feature of the agent itself."""
            found = np.full(agents, missing)
            mask = own & (feature == name)
            found[agent[mask]] = value[mask]
            return found

        types = numbers(feature == self.type_id)
        index = np.where(types >= 0, self.type_index[types], -1)
        items = np.zeros((agents * cells, self.num_items), np.int64)
        is_item = feature >= self.first_item
        items[at[is_item], feature[is_item] - self.first_item] = value[is_item]
        contents = items.reshape(agents, cells, self.num_items)
        converting = numbers(feature == self.converting) > 0
        center = cells // 2
        is_type, full, working, hungry = (np.zeros((agents, len(self.economy.names), cells), bool) for _ in range(4))
        for type_, (ready_at, inputs) in enumerate(zip(self.economy.ready_at, self.economy.inputs, strict=True)):
            where = np.nonzero(index == type_)
            content = contents[where]
            is_type[where[0], type_, where[1]] = True
            full[where[0], type_, where[1]] = (content >= ready_at).any(axis=1)
            working[where[0], type_, where[1]] = (content >= inputs).all(axis=1) & converting[where]
            hungry[where[0], type_, where[1]] = (content < FILL * inputs).any(axis=1)
        # the list is cut after the last token; what is as far away as the last cell may have been cut off
        last = (location >> 4) * width + (location & 15)
        farthest = np.zeros(agents, np.int64)
        np.maximum.at(farthest, agent, self.distance.ravel()[last])
        sees_all = ~used[:, -1]
        visible = sees_all[:, None, None] | (self.distance[None] < farthest[:, None, None])
        others = types == 0
        others[:, center] = False
        in_window = (agents, height, width)
        by_type = (agents, len(self.economy.names), height, width)
        return ParsedObservation(
            visible=visible,
            solid=(types > 0).reshape(in_window),
            agents=others.reshape(in_window),
            is_type=is_type.reshape(by_type),
            full=full.reshape(by_type),
            working=working.reshape(by_type),
            hungry=hungry.reshape(by_type),
            held=contents[:, center],
            orientation=own_number(self.orientation) & 3,
            group=self.group_index[own_number(self.group)],
            is_frozen=own_number(self.frozen) > 0,
            last_action=own_number(self.last_action),
            last_argument=own_number(self.last_argument),
        )


@dataclass(frozen=True)
class SpatialMemory(Memory):
    """Each agent's map. The tensors of a policy with weights have no layers here."""

    age: Integers
    """`[agents]`: steps since the map was empty"""
    row: Integers
    """`[agents]`: where on the map the agent is"""
    col: Integers
    seen: Words
    """`[agents, 64]`: cells that were seen, one bit each"""
    solid: Words
    """`[agents, 64]`: cells with an object"""
    edge: Words
    """`[agents, 64]`: cells that look free and cannot be entered: they are outside the world"""
    there: Words
    """`[agents, types, 64]`: converters of each type"""
    full: Words
    """`[agents, types, 64]`: those where there is something to take"""
    working: Words
    """`[agents, types, 64]`: those where there will be"""
    hungry: Words
    """`[agents, types, 64]`: those where there is room"""
    put_row: Integers
    """`[agents]`: the cell into which it last put something, and its age then"""
    put_col: Integers
    put_age: Integers

    @classmethod
    def empty(cls, agents: int, types: int) -> SpatialMemory:
        """The maps of agents that have seen nothing."""
        tensor = torch.zeros(0, agents, 1)
        middle = np.full(agents, SIDE // 2)
        words, by_type = np.zeros((agents, SIDE), np.uint64), np.zeros((agents, types, SIDE), np.uint64)
        never = np.full(agents, -1)
        return cls(
            hidden=tensor,
            cell=tensor,
            age=np.zeros(agents, np.int64),
            row=middle,
            col=middle.copy(),
            seen=words,
            solid=words.copy(),
            edge=words.copy(),
            there=by_type,
            full=by_type.copy(),
            working=by_type.copy(),
            hungry=by_type.copy(),
            put_row=never,
            put_col=never.copy(),
            put_age=never.copy(),
        )

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything but the tensors, by name."""
        return {name: value for name, value in vars(self).items() if name not in ("hidden", "cell")}


def row_words(window: Mask, first_col: Integers) -> Words:
    """`[agents, ..., rows]` words with the bits of `[agents, ..., rows, cols]` from each agent's first column on."""
    bits = _ONE << np.arange(window.shape[-1], dtype=np.uint64)
    words = (window * bits).sum(axis=-1, dtype=np.uint64)
    return rotated(words, first_col.reshape(-1, *[1] * (words.ndim - 1)))


def in_window(words: Words, rows: Integers, first_col: Integers, width: int) -> Mask:
    """`[agents, rows, cols]` of the `[agents, 64]` around each agent: what `row_words` was made from."""
    here = rotated(words[np.arange(len(words))[:, None], rows], -first_col[:, None])
    return np.asarray((here[:, :, None] >> np.arange(width, dtype=np.uint64)) & _ONE, bool)


def rotated(words: Words, places: Integers | int) -> Words:
    """The words with every bit moved so many columns to the right, around the torus."""
    left = np.asarray(places).astype(np.uint64) & np.uint64(SIDE - 1)
    right = (np.uint64(SIDE) - left) & np.uint64(SIDE - 1)
    return np.asarray((words << left) | (words >> right), np.uint64)


def cell_bits(words: Words, row: Integers, col: Integers) -> Mask:
    """`[agents]`: one cell of each agent's `[agents, 64]`."""
    word = words[np.arange(len(words)), row & (SIDE - 1)]
    return np.asarray((word >> (col & (SIDE - 1)).astype(np.uint64)) & _ONE, bool)


def single_cells(row: Integers, col: Integers) -> Words:
    """`[agents, 64]` with one cell each."""
    words = np.zeros((len(row), SIDE), np.uint64)
    words[np.arange(len(row)), row & (SIDE - 1)] = _ONE << (col & (SIDE - 1)).astype(np.uint64)
    return words
