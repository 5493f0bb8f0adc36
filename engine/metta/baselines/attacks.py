"""Attacks of the scripted policy: which agents in sight hold loot or could rob the attacker, and how to hit them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metta.baselines.bitboards import COL_STEPS, ROW_STEPS, Integers, Mask
from metta.baselines.observation_parser import ParsedObservation
from metta.baselines.recipe_values import RecipeValues, needed_resources
from metta.baselines.timed_flood import NO_ARRIVAL
from metta.config.env.env_config import EnvConfig
from metta.config.env.objects import ATTACK_RANGE, ATTACK_TARGETS
from metta.geometry import COUNTERCLOCKWISE
from metta.world.rules.combat import NEAREST_ORDER

OUT_OF_REACH: Final = len(ATTACK_TARGETS)
"""Index of the target of agents that an attack does not reach."""

_NEAREST: Final = np.array([ATTACK_TARGETS.index(target) for target in NEAREST_ORDER])


@dataclass(frozen=True)
class AttackKind:
    """An attack action of the config. Amounts are `[items]`, in units."""

    needed: Integers
    consumed: Integers
    defense: Integers
    """what blocks the attack if the victim has all of it; zeros: nothing does"""
    action_index: Integers
    """`[targets + 1]`: the flat actions that hit the targets, in the order of ATTACK_TARGETS, then the nearest one"""

    def is_affordable(self, inventory: Integers) -> Mask:
        """Whether agents with `inventory [agents, items]` can attack."""
        return np.asarray((inventory >= self.needed).all(axis=1))

    def is_blocked(self, inventory: Integers) -> Mask:
        """Whether victims with `inventory [agents, items]` block the attack."""
        return np.asarray((inventory >= self.defense).all(axis=1) & self.defense.any())


@dataclass(frozen=True)
class AttackOptions:
    """What attacks would gain, as delays in steps like those of the sources of floods; NO_ARRIVAL: nothing."""

    now: Integers
    """`[agents]`: of the best attack that succeeds now"""
    is_best: Mask
    """`[agents, actions]`: the flat actions that gain as much"""
    after_turn: Integers
    """`[agents, 4]`: of the best attack if the agent had each orientation"""
    chase: Integers
    """`[agents]`: of the victim in sight that is worth most, given its distance; without the way to it"""
    victim_row: Integers
    """`[agents]`: row of its cell relative to the agent"""
    victim_col: Integers
    """`[agents]`: column of that cell"""

    def compare(self, directions: Mask, arrival: Integers, orientation: Integers) -> tuple[Mask, Mask]:
        """Whether each agent attacks now, `[agents]`, and otherwise the best directions, `[agents, 4]`.

        `directions [agents, 4]` lead to the source whose flood reaches an agent at `arrival [agents]`. They are
        replaced by those of victims if an attack after a turn gains as much.
        """
        after_turn = self.after_turn.copy()
        after_turn[np.arange(len(orientation)), orientation] = NO_ARRIVAL
        after_turn += 1
        first = np.minimum(after_turn.min(axis=1), NO_ARRIVAL)
        is_attack = (self.now < NO_ARRIVAL) & (self.now <= np.minimum(arrival, first))
        turns = (first < NO_ARRIVAL) & (first <= arrival)
        return is_attack, np.where(turns[:, None], after_turn == first[:, None], directions)


class Attacks:
    """The attacks of an environment whose victims can have items of value for the attacker.

    `is_useful` is False if there are none: then agents never attack.
    """

    def __init__(self, env_config: EnvConfig, recipes: RecipeValues):
        spec, items = env_config.spec, env_config.game.inventory_item_names
        self.recipes, self.num_actions = recipes, len(spec.flat_actions)
        index = {action: position for position, action in enumerate(spec.flat_actions)}

        def amounts(units: Mapping[str, int]) -> Integers:
            return np.array([units.get(item, 0) for item in items], np.int64)

        self.kinds = []
        for action in env_config.actions:
            if action.type == "attack" and env_config.can_act(action):
                action_id, nearest_id = (spec.action_names.index(name) for name, _ in action.names_and_types)
                hits = [*((action_id, argument) for argument in range(1, OUT_OF_REACH + 1)), (nearest_id, 0)]
                self.kinds.append(
                    AttackKind(
                        needed=amounts(needed_resources(action)),
                        consumed=amounts(action.consumed_resources),
                        defense=amounts(action.defense_resources),
                        action_index=np.array([index[hit] for hit in hits]),
                    )
                )
        groups = env_config.game.groups
        freezing = [env_config.game.group_settings(group).freeze_duration for group in groups]
        self.can_freeze = np.array(freezing) != 0
        self.can_rob_frozen = np.array(freezing) < 0  # as in MettaGrid, see `combat`
        self.is_useful = bool(self.kinds) and bool(recipes.is_rival.any())

    def options(self, observation: ParsedObservation) -> AttackOptions:
        """The attacks on the agents that are seen."""
        others, agents = observation.others, len(observation.group)
        row, col, observer = others.row, others.col, others.observer
        loot, protection = self._gains(observation)
        hit_delays = self.recipes.delays(loot + protection)
        chase_delays = self.recipes.delays(loot.max(axis=0))
        # `[others, 4]`: cells ahead and to the left of the observer, if it had each orientation
        ahead = row[:, None] * ROW_STEPS + col[:, None] * COL_STEPS
        left = ahead[:, COUNTERCLOCKWISE]
        in_reach = (ahead >= 1) & (ahead <= ATTACK_RANGE) & (abs(left) <= 1)
        facing = np.arange(len(observer)), observation.orientation[observer]
        target = np.where(in_reach[facing], 3 * (ahead[facing] - 1) + 1 - left[facing], OUT_OF_REACH)
        is_occupied = np.zeros((agents, OUT_OF_REACH + 1), bool)
        is_occupied[observer, target] = True
        nearest = _NEAREST[is_occupied[:, _NEAREST].argmax(axis=1)]
        action_delays = np.full((agents, self.num_actions), NO_ARRIVAL)
        for kind, hit_delay in zip(self.kinds, hit_delays, strict=True):
            hits = np.full((agents, OUT_OF_REACH + 1), NO_ARRIVAL)
            hits[observer, target] = hit_delay
            hits[:, OUT_OF_REACH] = hits[np.arange(agents), nearest]  # in the place of those out of reach
            action_delays[:, kind.action_index] = hits
        now = action_delays.min(axis=1)
        after_turn = np.full((agents, 4), NO_ARRIVAL)
        np.minimum.at(after_turn, observer, np.where(in_reach, hit_delays.min(axis=0)[:, None], NO_ARRIVAL))
        victims = np.array([np.full(agents, NO_ARRIVAL), *np.zeros((2, agents), np.int64)])
        last_is_best = np.argsort(-chase_delays - abs(row) - abs(col), kind="stable")
        victims[:, observer[last_is_best]] = np.array([chase_delays, row, col])[:, last_is_best]
        is_best = (action_delays == now[:, None]) & (action_delays < NO_ARRIVAL)
        return AttackOptions(now, is_best, after_turn, *victims)

    def _gains(self, observation: ParsedObservation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`[kinds, others]` each: what an attack on each agent in sight takes, less its cost; and what it protects.

        A frozen rival cannot rob the attacker, which otherwise might lose what it carries.
        """
        others, recipes = observation.others, self.recipes
        own, group = observation.inventory[others.observer], observation.group[others.observer]
        values, enough = recipes.loot_values[group], recipes.enough[group]
        usable = np.minimum(own, enough)
        loot = (values * np.minimum(others.inventory, enough - usable)).sum(axis=1)
        room = np.maximum(recipes.enough[others.group] - others.inventory, 0)
        at_risk = (values * np.minimum(usable, room)).sum(axis=1)
        is_threat = np.zeros(len(group), bool)
        for kind in self.kinds:
            is_threat |= kind.is_affordable(others.inventory) & ~kind.is_blocked(own)
        is_threat &= recipes.is_rival[others.group, group] & self.can_freeze[others.group] & ~others.is_frozen
        is_rival = recipes.is_rival[group, others.group]
        can_rob = ~others.is_frozen | self.can_rob_frozen[others.group]
        takes, protects = np.zeros((2, len(self.kinds), len(group)))
        for take, protect, kind in zip(takes, protects, self.kinds, strict=True):
            cost = (values * (usable - np.minimum(own - kind.consumed, enough))).sum(axis=1)
            hits = is_rival & kind.is_affordable(own) & ~kind.is_blocked(others.inventory)
            take[:] = np.where(hits & can_rob, np.maximum(loot - cost, 0), 0)
            protect[:] = np.where(hits & is_threat, np.maximum(at_risk - np.maximum(cost - loot, 0), 0), 0)
        return takes, protects
