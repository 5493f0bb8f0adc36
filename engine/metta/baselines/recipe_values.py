"""What is worth fetching in a world, and what it is good for: read off the recipes and rewards of its config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metta.config.env.env_config import EnvConfig
from metta.config.env.game import AgentSettings
from metta.config.env.map_builder import AsciiConfig, MapBuilder, walk_builders
from metta.config.env.map_generators import ScatterConfig
from metta.config.env.objects import ObjectConfig
from metta.config.env.ranges import range_max

PER_STAGE: Final = 0.5
"""What an ingredient is worth beside its share of the product."""

WHEN_PUT: Final = 0.8
"""What putting a recipe's ingredients in is worth beside taking its product out."""

STOCK: Final = 8
"""Conversions for which an agent gathers ingredients before it stops."""

FILL: Final = 4
"""Conversions for which it fills a converter: the others want some too."""


@dataclass(frozen=True)
class RecipeValues:
    """Converters that lead to a reward, in a fixed order, and what agents of each group gain there."""

    type_ids: NDArray[np.int64]
    """`[types]`: as in tokens"""
    names: list[str]
    """`[types]`"""
    inputs: NDArray[np.int64]
    """`[types, items]`: units that one conversion takes"""
    outputs: NDArray[np.int64]
    """`[types, items]`: units that one conversion makes"""
    ready_at: NDArray[np.int64]
    """`[types, items]`: units of an output in the converter that are worth taking; 256 for what is no output"""
    ticks: NDArray[np.int64]
    """`[types]`: steps a conversion takes"""
    cooldown: NDArray[np.int64]
    """`[types]`: steps of rest after it"""
    enough: NDArray[np.int64]
    """`[groups, items]`: units beyond which an agent has no use for more"""
    gain_of_get: NDArray[np.float64]
    """`[groups, types]`: worth of one conversion's output"""
    gain_of_put: NDArray[np.float64]
    """`[groups, types]`: worth of having it made; 0 where nothing needs to be put in"""

    @classmethod
    def of(cls, env_config: EnvConfig) -> RecipeValues:
        """The economy of the objects that stand on the config's maps."""
        game, items = env_config.game, env_config.game.inventory_item_names
        placed = _placed(env_config.map_builder)
        types = [entry for name, entry in env_config.object_types.items() if name in placed and entry.type != "wall"]
        settings = [game.group_settings(group) for group in game.groups]
        worth = np.stack([_worth(group, items, types) for group in settings])
        inputs, outputs = (
            _amounts([entry.input for entry in types], items),
            _amounts([entry.output for entry in types], items),
        )
        gain = worth @ outputs.T
        leads_somewhere: NDArray[np.bool_] = np.asarray(gain.any(axis=0))
        inputs, outputs, gain = inputs[leads_somewhere], outputs[leads_somewhere], gain[:, leads_somewhere]
        types = [entry for entry, is_rank_zero in zip(types, leads_somewhere.tolist(), strict=True) if is_rank_zero]
        needed = inputs.max(axis=0, initial=0)
        rewarded = np.array([[group.item_reward(item) > 0 for item in items] for group in settings])
        counted = np.array([[group.item_reward_cap(item) for item in items] for group in settings])
        cap = np.array([[group.item_cap(item) for item in items] for group in settings])
        return cls(
            type_ids=np.array([entry.type_id for entry in types], np.int64),
            names=[entry.name for entry in types],
            inputs=inputs,
            outputs=outputs,
            ready_at=np.where(outputs > 0, np.where(inputs > 0, outputs, 1), 256),
            ticks=np.array([entry.conversion_ticks for entry in types], np.int64),
            cooldown=np.array([entry.cooldown for entry in types], np.int64),
            enough=np.minimum(cap, np.maximum(STOCK * needed, np.where(rewarded, counted, 0))).astype(np.int64),
            gain_of_get=gain,
            gain_of_put=WHEN_PUT * gain * inputs.any(axis=1),
        )


def _worth(settings: AgentSettings, items: list[str], types: list[ObjectConfig]) -> NDArray[np.float64]:
    """`[items]`: the reward of a unit, or its share of what can be made of it if that is more."""
    worth = {item: max(0.0, settings.item_reward(item)) if settings.item_cap(item) else 0.0 for item in items}
    for _ in types:  # no chain is longer than there are converters
        for entry in types:
            inputs, outputs = entry.input or {}, entry.output or {}
            product = sum(count * worth[item] for item, count in outputs.items())
            for item, count in inputs.items():
                if count and settings.item_cap(item) >= count and item not in outputs:
                    worth[item] = max(worth[item], PER_STAGE * product / sum(inputs.values()))
    return np.array([worth[item] for item in items])


def _amounts(recipes: list[dict[str, int] | None], items: list[str]) -> NDArray[np.int64]:
    return np.array([[(recipe or {}).get(item, 0) for item in items] for recipe in recipes], np.int64).reshape(
        len(recipes), len(items)
    )


def _placed(builder: MapBuilder) -> set[str]:
    """The names of objects that maps of this builder have."""
    placed: set[str] = set()
    for _, part, _ in walk_builders(builder):
        if isinstance(part, AsciiConfig):
            placed |= set(part.cell_names)
        elif isinstance(part, ScatterConfig):
            placed |= {name for name, count in part.objects.items() if range_max(count)}
    return placed
