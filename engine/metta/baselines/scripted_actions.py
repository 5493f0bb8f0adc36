"""The actions that the scripted policy uses (move, rotate, get items, put items), as indices of flat actions."""

from __future__ import annotations

import numpy as np
import torch

from metta.baselines.bitboards import Integers
from metta.baselines.recipe_values import RecipeValues
from metta.config.env.env_config import EnvConfig
from metta.errors import UsageError
from metta.geometry import CLOCKWISE


class ScriptedActions:
    """Indices into `spec.flat_actions` of the actions that the scripted policy uses.

    Raises UsageError if the environment lacks one of them.
    """

    def __init__(self, env_config: EnvConfig, recipes: RecipeValues):
        spec = env_config.spec
        self.flat_actions = torch.tensor(spec.flat_actions, dtype=torch.int32).view(-1, 2)
        index = {action: position for position, action in enumerate(spec.flat_actions)}
        usable = [
            (action_id, action_type, action)
            for action_id, (_, action_type, action) in enumerate(env_config.action_table)
            if env_config.can_act(action)
        ]
        first_of_type = {action_type: action_id for action_id, action_type, _ in reversed(usable)}
        type_of = {name: env_config.object_types[name].type for name in recipes.names}

        def at_converters(action_type: str) -> Integers:
            """`[types]`: the action of type `action_type`, else the `use` action for the converter, else -1."""
            if action_type in first_of_type:
                return np.full(len(recipes.names), index[first_of_type[action_type], 0])
            uses = {action.use: index[action_id, 0] for action_id, used_type, action in usable if used_type == "use"}
            return np.array(
                [uses.get(name, uses.get(type_of[name], uses.get(None, -1))) for name in recipes.names], np.int64
            )

        self.get, self.put = at_converters("get_items"), at_converters("put_items")
        turns = [
            (index[action_id, argument], argument if action.delta is None else None, action.delta or 0)
            for action_id, action_type, action in usable
            if action_type == "rotate"
            for argument in range(spec.max_action_args[action_id] + 1)
        ]
        needed = {"move": "move" in first_of_type, "rotate": bool(turns), "get_items or use": (self.get >= 0).all()}
        needed["put_items or use"] = bool((self.put[recipes.inputs.any(axis=1)] >= 0).all())
        if missing := [name for name, is_usable in needed.items() if not is_usable]:
            raise UsageError(
                f"the scripted policy cannot play in this environment: no action of type {', '.join(missing)}"
            )
        self.move_id = first_of_type["move"]
        self.step = index[self.move_id, 0]
        self.put_ids = [action_id for action_id, action_type, _ in usable if action_type in ("put_items", "use")]
        """action ids that may put items into a converter"""
        self.turn = _first_turns(turns)


def _first_turns(turns: list[tuple[int, int | None, int]]) -> Integers:
    """`[4, 4]`: first action of the shortest sequence of rotations, by current and target orientation.

    `turns` are (action index, orientation afterwards, 0) for absolute rotations, and (action index, None, number of
    clockwise quarter turns) for relative ones.
    """
    first = np.full((4, 4), turns[0][0])
    for start in range(4):
        reached = {start: -1}
        frontier = [start]
        while frontier:
            next_frontier = []
            for orientation in frontier:
                for action_index, absolute, quarters in turns:
                    turned = _turned(orientation, quarters) if absolute is None else absolute
                    if turned not in reached:
                        reached[turned] = action_index if orientation == start else reached[orientation]
                        next_frontier.append(turned)
            frontier = next_frontier
        for target, action_index in reached.items():
            if target != start:
                first[start, target] = action_index
    return first


def _turned(orientation: int, quarters: int) -> int:
    """The orientation after that many clockwise quarter turns."""
    for _ in range(quarters % 4):
        orientation = CLOCKWISE[orientation]
    return orientation
