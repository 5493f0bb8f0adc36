"""Values of items and converters for the scripted policy, computed from the recipes and rewards of a config."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metta.baselines.timed_flood import NO_ARRIVAL
from metta.config.env.env_config import EnvConfig
from metta.config.env.game import AgentSettings, GameConfig
from metta.config.env.map_builder import AsciiConfig, MapBuilder, walk_builders
from metta.config.env.map_generators import ScatterConfig
from metta.config.env.objects import ActionConfig, ObjectConfig
from metta.config.env.ranges import range_max

STEP_DISCOUNT: Final = 0.9
"""Discount per step: a gain at a distance of d steps has the value gain * STEP_DISCOUNT ** d."""

INGREDIENT_DISCOUNT: Final = 0.5
"""Value of a recipe's ingredients as a fraction of the value of its product."""

PUT_DISCOUNT: Final = 0.8
"""Value of putting a recipe's ingredients into a converter as a fraction of the value of taking its product."""

MAX_STOCK: Final = 8
"""Number of conversions for which an agent collects ingredients."""

MAX_FILL: Final = 4
"""Number of conversions for which an agent fills a converter, which other agents may use too."""


@dataclass(frozen=True)
class RecipeValues:
    """The converter types that contribute to a reward, in a fixed order, and their values for agents of each group."""

    type_ids: NDArray[np.int64]
    """`[types]`: type id in tokens"""
    names: list[str]
    """`[types]`: names of the object types"""
    inputs: NDArray[np.int64]
    """`[types, items]`: units that one conversion consumes"""
    outputs: NDArray[np.int64]
    """`[types, items]`: units that one conversion produces"""
    ready_at: NDArray[np.int64]
    """`[types, items]`: units in the converter from which an output is worth taking; 256 (never) for other items"""
    ticks: NDArray[np.int64]
    """`[types]`: duration of a conversion in steps"""
    cooldown: NDArray[np.int64]
    """`[types]`: duration of the cooldown after a conversion in steps"""
    enough: NDArray[np.int64]
    """`[groups, items]`: number of units beyond which further units have no value for an agent"""
    needed: NDArray[np.int64]
    """`[items]`: units that are enough for any one conversion or attack; further ones are a surplus"""
    is_rival: NDArray[np.bool_]
    """`[groups, groups]`: whether agents of a group can gain by attacking those of another one"""
    loot_values: NDArray[np.float64]
    """`[groups, items]`: value of a unit that is taken from a rival"""
    gain_of_get: NDArray[np.float64]
    """`[groups, types]`: value of taking the output of one conversion, in units of reward"""
    gain_of_put: NDArray[np.float64]
    """`[groups, types]`: value of putting in the ingredients of one conversion; 0 if it needs none"""

    @property
    def largest_gain(self) -> float:
        """The largest of `gain_of_get`, or 1 if nothing has a gain."""
        return float(np.max(self.gain_of_get, initial=0.0)) or 1.0

    @classmethod
    def from_config(cls, env_config: EnvConfig) -> RecipeValues:
        """Compute the values of the converters on the config's maps."""
        game, items = env_config.game, env_config.game.inventory_item_names
        placed = _placed_objects(env_config.map_builder)
        types = [entry for name, entry in env_config.object_types.items() if name in placed and entry.type != "wall"]
        settings = [game.group_settings(group) for group in game.groups]
        attacks = [action for action in env_config.actions if action.type == "attack" and env_config.can_act(action)]
        weapons = [needed_resources(action) for action in attacks]
        is_rival = _rivals(game) & bool(attacks)
        rivals = [[settings[other] for other in np.flatnonzero(row)] for row in is_rival]
        values = np.stack(
            [_item_values(own, items, types, weapons, others) for own, others in zip(settings, rivals, strict=True)]
        )
        inputs = _amounts([entry.input for entry in types], items)
        outputs = _amounts([entry.output for entry in types], items)
        gain = values @ outputs.T
        is_useful: NDArray[np.bool_] = np.asarray(gain.any(axis=0))
        inputs, outputs, gain = inputs[is_useful], outputs[is_useful], gain[:, is_useful]
        types = [entry for entry, is_kept in zip(types, is_useful.tolist(), strict=True) if is_kept]
        needed = inputs.max(axis=0, initial=0)
        armed = _amounts(weapons, items).max(axis=0, initial=0) * is_rival.any()
        is_rewarded = np.array([[group.item_reward(item) > 0 for item in items] for group in settings])
        reward_cap = np.array([[group.item_reward_cap(item) for item in items] for group in settings])
        cap = np.array([[group.item_cap(item) for item in items] for group in settings])
        return cls(
            type_ids=np.array([entry.type_id for entry in types], np.int64),
            names=[entry.name for entry in types],
            inputs=inputs,
            outputs=outputs,
            ready_at=np.where(outputs > 0, np.where(inputs > 0, outputs, 1), 256),
            ticks=np.array([range_max(entry.conversion_ticks or 0) for entry in types], np.int64),
            cooldown=np.array([range_max(entry.cooldown or 0) for entry in types], np.int64),
            enough=np.minimum(
                cap, np.maximum(np.maximum(MAX_STOCK * needed, armed), np.where(is_rewarded, reward_cap, 0))
            ).astype(np.int64),
            needed=np.maximum(needed, armed),
            is_rival=is_rival,
            loot_values=values * is_rival.any(axis=1, keepdims=True),
            gain_of_get=gain,
            gain_of_put=PUT_DISCOUNT * gain * inputs.any(axis=1),
        )

    def delays(self, gains: NDArray[np.float64]) -> NDArray[np.int64]:
        """`[...]`: steps by which each of `gains [...]` is worth less than the largest gain at a converter.

        They are negative for a gain that is larger, and at most NO_ARRIVAL.
        """
        with np.errstate(divide="ignore"):
            steps = np.log(gains / self.largest_gain) / math.log(STEP_DISCOUNT)
        return np.minimum(steps, NO_ARRIVAL).round().astype(np.int64)


def discount_steps(fraction: float) -> float:
    """Number of steps that discount a gain to `fraction` of its value."""
    return math.log(fraction) / math.log(STEP_DISCOUNT)


def needed_resources(action: ActionConfig) -> dict[str, int]:
    """Units by item that an agent must have for an action."""
    return action.consumed_resources if action.required_resources is None else action.required_resources


def _rivals(game: GameConfig) -> NDArray[np.bool_]:
    """`[groups, groups]`: whether agents of a group gain what those of another one lose: they share no rewards."""
    shares = game.reward_sharing_groups
    return np.array(
        [[own != other and not shares.get(other, {}).get(own) for other in game.groups] for own in game.groups]
    )


def _item_values(
    settings: AgentSettings,
    items: list[str],
    types: list[ObjectConfig],
    weapons: list[dict[str, int]],
    rivals: list[AgentSettings],
) -> NDArray[np.float64]:
    """`[items]`: the reward for one unit, or its share of the discounted value of a product if that is larger.

    What an attack needs is worth as much as the ingredients of any item that one of `rivals` can have.
    """
    values = {item: max(0.0, settings.item_reward(item)) if settings.item_cap(item) else 0.0 for item in items}
    recipes = [(entry.input or {}, entry.output or {}) for entry in types]
    loot = {item for _, outputs in recipes for item in outputs if any(rival.item_cap(item) for rival in rivals)}
    recipes += [(needed, {item: 1}) for needed in weapons for item in sorted(loot)]
    for _ in types:  # a chain of conversions has at most as many stages as there are converter types
        for inputs, outputs in recipes:
            product = sum(count * values[item] for item, count in outputs.items())
            for item, count in inputs.items():
                if count and settings.item_cap(item) >= count and item not in outputs:
                    values[item] = max(values[item], INGREDIENT_DISCOUNT * product / sum(inputs.values()))
    return np.array([values[item] for item in items])


def _amounts(recipes: Sequence[Mapping[str, int] | None], items: list[str]) -> NDArray[np.int64]:
    """`[recipes, items]`: units of each item in each of `recipes`: inputs, outputs, or what actions need."""
    return np.array([[(recipe or {}).get(item, 0) for item in items] for recipe in recipes], np.int64).reshape(
        len(recipes), len(items)
    )


def _placed_objects(builder: MapBuilder) -> set[str]:
    """The names of the objects that the builder's maps may contain."""
    placed: set[str] = set()
    for _, part, _ in walk_builders(builder):
        if isinstance(part, AsciiConfig):
            placed |= set(part.cell_names)
        elif isinstance(part, ScatterConfig):
            placed |= {name for name, count in part.objects.items() if range_max(count)}
    return placed
