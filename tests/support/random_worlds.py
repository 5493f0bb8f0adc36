"""Random configs for tests: small, crowded worlds with random objects, actions and settings; and random actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import registered_parts  # noqa: F401  # registers the rewards, features and ends of episodes of random worlds
from custom_rules import CUSTOM_ACTIONS, CUSTOM_OBJECTS

from metta.config.env.env_config import EnvConfig

ITEMS = ["ore_red", "battery_red", "heart", "armor", "laser", "blueprint", "coin"]
BUILDERS: dict[str, dict[str, Any]] = {
    "Rooms": {},
    "Ascii": {},
    "Maze": {"corridor_width": 2, "loops": 0.2},
    "Caves": {"fill": 0.3, "rounds": 2},
}
"""Map builders other than Random, with their fixed settings."""

FEATURES = ("test.last action", "test.facing", "test.trail", "nearest_seen", "nearest_seen")

ACTION_TYPES = ["noop", "move", "rotate", "put_items", "get_items", "attack", "swap", "change_color", "gift", "use"]


def random_tasks(
    generator: np.random.Generator,
    count: int = 2,
    with_costs: bool = True,
    every_action: bool = False,
    num_agents: int | None = None,
    with_rules: bool = False,
) -> list[EnvConfig]:
    """Configs that can share a batch: equal specs, all else different. By default a random number of agents.

    Without costs, actions and defense consume nothing, so only recipes and caps create or destroy items. With rules,
    they have those of custom_rules.py, registered_parts.py and metta.
    """
    frame = _Frame.random(generator, with_costs, every_action, with_rules)
    if num_agents is not None:
        frame = replace(frame, num_agents=num_agents)
    return [_Task(generator, frame).config() for _ in range(count)]


def tasks_beside(
    generator: np.random.Generator, config: EnvConfig, sizes: Sequence[tuple[int, int]]
) -> list[EnvConfig]:
    """Configs of these sizes (rows, cols) that can share a batch with `config`, all else random."""
    frame = _Frame.of(config)
    return [_Task(generator, frame, size).config() for size in sizes]


@dataclass(frozen=True)
class _Frame:
    """The part that all tasks of a batch have in common."""

    with_costs: bool
    items: list[str]
    num_agents: int
    group_ids: list[int]
    actions: list[dict[str, Any]]
    entities: list[tuple[str, int]]  # name and type id of each object
    window: dict[str, int]
    rules: tuple[str, ...] = ()  # registered objects, which are named after their types
    features: tuple[str, ...] = ()  # registered features, named alike

    @classmethod
    def random(
        cls, generator: np.random.Generator, with_costs: bool, every_action: bool, with_rules: bool = False
    ) -> _Frame:
        # a gift separates the turns before and after it, so most worlds should have none
        some = [*ACTION_TYPES, "attack", "move", "rotate", "swap"]
        types = [type_ for type_ in some if every_action or generator.random() < (0.3 if type_ == "gift" else 0.75)]
        types += CUSTOM_ACTIONS if with_rules else []
        actions: list[dict[str, Any]] = []
        for index, type_ in enumerate(generator.permutation([*types, "move"]).tolist()):
            action = {"type": type_, "key": f"{type_}_{index}", "enabled": every_action or generator.random() < 0.9}
            if type_ == "rotate":
                action["delta"] = int(generator.integers(-3, 4)) if generator.random() < 0.5 else None
            actions.append(action)
        return cls(
            with_costs=with_costs,
            items=generator.permutation(ITEMS)[: generator.integers(2, len(ITEMS) + 1)].tolist(),
            num_agents=int(generator.integers(2, 21 if every_action else 11)),
            group_ids=generator.permutation(12)[: generator.integers(1, 4)].tolist(),
            actions=actions,
            entities=[
                (f"object_{index}", type_id)
                for index, type_id in enumerate((15 + generator.permutation(240))[:8].tolist())
            ],
            window={
                "observation_height": int(generator.choice([1, 3, 5, 5, 7])),
                "observation_width": int(generator.choice([1, 3, 5, 5, 9])),
                "num_observation_tokens": int(generator.choice([2, 10, 40, 100])),
            },
            rules=CUSTOM_OBJECTS if with_rules else (),
            features=("signal", *(name for name in FEATURES if generator.random() < 0.7)) if with_rules else (),
        )

    @classmethod
    def of(cls, config: EnvConfig) -> _Frame:
        """The part that worlds must have in common with `config`; costs of actions can differ."""
        game = config.game
        return cls(
            with_costs=True,
            items=list(game.inventory_item_names),
            num_agents=game.num_agents,
            group_ids=[group.id for group in game.groups.values()],
            actions=[
                {"type": action.type, "key": action.key, "enabled": action.enabled, "delta": action.delta}
                for action in config.actions
            ],
            entities=[(name, entry.type_id or 0) for name, entry in config.object_types.items()],
            window={
                "observation_height": game.observation_height,
                "observation_width": game.observation_width,
                "num_observation_tokens": game.num_observation_tokens,
            },
        )


class _Task:
    """A random task, of the given size (rows, cols) if there is one."""

    def __init__(self, generator: np.random.Generator, frame: _Frame, size: tuple[int, int] | None = None):
        self.generator, self.frame, self.size = generator, frame, size

    def config(self) -> EnvConfig:
        frame = self.frame
        objects = [self._object(index, name, type_id) for index, (name, type_id) in enumerate(frame.entities)]
        objects += [self._registered_object(name) for name in frame.rules]
        game, actions = self._game(), [self._action(action) for action in frame.actions]
        builder = self._map([entry["name"] for entry in objects])
        game |= {side: builder.pop(side) for side in ("height", "width") if side in builder}
        env = {"game": game, "objects": objects, "actions": actions, "map_builder": builder}
        return EnvConfig.model_validate(env | (self._rules(env) if frame.rules else {}))

    def _rules(self, env: dict[str, Any]) -> dict[str, Any]:
        """Random rewards, features and ends of episodes for the other tables of `[env]`."""
        generator, groups = self.generator, list(env["game"]["groups"])
        names = [entry["name"] for entry in env["objects"]]
        entities = [*names, "agent", *(f"agent.{group}" for group in groups), "empty"]
        keys = [action["key"] for action in env["actions"] if action["enabled"] and action["type"] != "rotate"]
        stats = [f"{self._item()}.gained", f"action.{generator.choice(keys)}.{generator.choice(['success', 'failed'])}"]
        settings: dict[str, dict[str, Any]] = {
            "distance": {
                "to": str(generator.choice(entities)),
                "gamma": float(generator.choice([0.0, 0.9, 1.0])),
                "limit": float(generator.choice([2.5, 100.0])),
                "through_walls": self._chance(0.3),
            },
            "exploration": {"shared": self._chance(0.5)},
            "supply": self._supply(env["objects"]),
            "test.near": {"to": str(generator.choice(entities)), "within": self._amount(0, 1, 2, 4)},
            "nearest_seen": {
                "to": str(generator.choice(entities)),
                "holding": str(generator.choice(["", self._item()])),
            },
            "test.facing": {"to": str(generator.choice(entities))},
            "test.trail": {"fade": self._amount(1, 60, 255)},
            "signal": {"action": next(action["key"] for action in env["actions"] if action["type"] == "signal")},
            "goal": {
                "stat": str(generator.choice(stats)),
                "amount": self._amount(2, 5, 15),
                "by": str(generator.choice(["sum", "any", "all"])),
            },
            "test.random": {"probability": float(generator.choice([0.01, 0.05]))},
        }
        rewards = [
            type_ for type_ in ("distance", "exploration", "supply", "test.near", "test.new cells") if self._chance(0.6)
        ]
        ends = [type_ for type_ in ("goal", "test.random") if self._chance(0.5)]
        return {
            "rewards": [
                {
                    "type": type_,
                    "name": f"reward_{index}",
                    "weight": float(generator.uniform(-0.3, 0.5)),
                    "groups": [group for group in groups if self._chance(0.3)],
                    "settings": settings.get(type_, {}),
                }
                for index, type_ in enumerate(generator.permutation(rewards).tolist())
            ],
            "features": [
                {"type": type_, "name": f"feature_{index}", "settings": settings.get(type_, {})}
                for index, type_ in enumerate(self.frame.features)
            ],
            "terminations": [
                {"type": type_, "truncates": self._chance(0.5), "settings": settings[type_], "name": f"end_{index}"}
                for index, type_ in enumerate(ends)
            ],
        }

    def _map(self, names: list[str]) -> dict[str, Any]:
        """Mostly a small open floor with scattered objects, otherwise the map of another builder."""
        generator, agents = self.generator, self.frame.num_agents
        type_ = "Random" if self.size else str(generator.choice(["Random", *BUILDERS], p=[0.6, *(0.4 / 4,) * 4]))
        if type_ == "Random":
            height, width = self.size or (int(size) for size in generator.integers(4, 9, 2))
            border = self._amount(0, 0, 1)
            free = (height - 2 * border) * (width - 2 * border)
            if free < agents + 2:
                height, width, border = 8, 8, 1
                free = 36
            objects = self._counts(names, (free - agents) * generator.uniform(0.3, 0.95))
            return {"height": height, "width": width, "border_width": border, "objects": objects}
        if type_ == "Rooms":
            cols = int(generator.choice([count for count in (1, 2, 3) if agents % count == 0]))
            height, width = 3 + agents // cols // 2, int(generator.integers(5, 8))
            objects = self._counts(names, (height * width - agents // cols) * generator.uniform(0.1, 0.6))
            room = {"height": height, "width": width, "border_width": 0, "agents": agents // cols, "objects": objects}
            return {"type": "Rooms", "rows": 1, "cols": cols, "border_width": 1, "door_width": 1, "room": room}
        if type_ == "Ascii":
            cells = np.full(agents * 5, ".")
            glyphs = [chr(ord("A") + index) for index in range(len(names))]
            cells[: 2 * agents] = generator.choice(glyphs, 2 * agents)
            cells[-agents:] = "@"
            rows = generator.permutation(cells).reshape(5, agents)
            drawing = "\n".join("".join(row) for row in rows)
            return {"type": "Ascii", "map": drawing, "legend": dict(zip(glyphs, names, strict=True))}
        size = {"height": int(generator.integers(13, 18)), "width": int(generator.integers(13, 18)), "border_width": 1}
        objects = self._counts(names, 12)
        return {"type": type_, **size, "objects": objects, "connected": self._chance(0.5), **BUILDERS[type_]}

    def _counts(self, names: list[str], total: float) -> dict[str, int]:
        share = self.generator.dirichlet(np.ones(len(names))) * total
        return {name: int(count) for name, count in zip(names, share, strict=True)}

    def _chance(self, probability: float) -> bool:
        return bool(self.generator.random() < probability)

    def _amount(self, *choices: int) -> int:
        return int(self.generator.choice(choices))

    def _some_items(self, most: int, *amounts: int) -> dict[str, int]:
        number = int(self.generator.integers(0, min(most, len(self.frame.items)) + 1))
        chosen = self.generator.permutation(self.frame.items)[:number].tolist()
        return {item: self._amount(*amounts) for item in chosen}

    def _game(self) -> dict[str, Any]:
        frame, generator = self.frame, self.generator
        names = [f"team_{index}" for index in range(len(frame.group_ids))]
        return {
            **self._agent_settings(),
            **frame.window,
            "num_agents": frame.num_agents,
            "inventory_item_names": frame.items,
            "max_steps": self._amount(0, 9, 25, 60),
            "episode_lifetime": self._amount(0, 0, 13, 40),
            "time_punishment": float(generator.choice([0.0, -0.01, 0.1])),
            "diversity_bonus_enabled": self._chance(0.5),
            "similarity_coef": float(generator.uniform(0, 1)),
            "diversity_coef": float(generator.uniform(0, 1)),
            "groups": {
                name: {
                    "id": group_id,
                    "group_reward_pct": float(generator.choice([0.0, 0.3, 1.0])),
                    "props": self._agent_settings() if self._chance(0.5) else {},
                }
                for name, group_id in zip(names, frame.group_ids, strict=True)
            },
            "reward_sharing_groups": {
                name: {other: float(generator.uniform(0, 1)) / len(names) for other in names if self._chance(0.5)}
                for name in names
                if self._chance(0.4)
            },
        }

    def _agent_settings(self) -> dict[str, Any]:
        generator, items = self.generator, self.frame.items
        free = [item for item in items if item not in ("ore_red", "battery_red", "heart")]
        settings = {
            "default_item_max": self._amount(0, 3, 20, 255),
            "heart_max": self._amount(0, 5, 255),
            "item_max": {item: self._amount(1, 4, 255) for item in items if item != "heart" and self._chance(0.3)},
            "freeze_duration": self._amount(-1, 0, 1, 2, 2, 5),
            "action_failure_penalty": float(generator.choice([0.0, 0.01, 0.7])),
            "ore_red_reward": float(generator.choice([0.0, 0.011])),
            "battery_red_reward": float(generator.choice([0.0, 0.37])),
            "heart_reward": float(generator.choice([0.0, 1.0, -0.3])),
            "ore_red_max": float(generator.choice([0.0, 2.5, 100.0])),
            "heart_max_reward": float(self._amount(1, 1000)),
            "item_rewards": {item: float(generator.uniform(-0.1, 0.3)) for item in free if self._chance(0.5)},
            "item_reward_max": {item: float(generator.uniform(0, 9)) for item in free if self._chance(0.5)},
        }
        absent = tuple({"ore_red", "battery_red", "heart"} - set(items))
        return {field: value for field, value in settings.items() if not field.startswith(absent)}

    def _object(self, index: int, name: str, type_id: int) -> dict[str, Any]:
        # the first two are a wall and a block in every task; the last ones have no input
        common = {"name": name, "type_id": type_id}
        if index < 2:
            return {**common, "type": "wall", "swappable": index == 1}
        entry = {
            **common,
            "type": "converter",
            "color": self._amount(0, 3, 255),
            "input": self._some_items(3, 0, 1, 1, 2, 100) if index < 6 else {},
            "output": self._some_items(3, 0, 1, 1, 5, 150) or {self.frame.items[0]: 2},
            "max_output": self._amount(-1, 0, 1, 5, 600),
            "conversion_ticks": self._amount(0, 1, 2, 7),
            "cooldown": self._amount(0, 0, 1, 3),
            "initial_items": self._amount(0, 1, 30),
        }
        if name == self.frame.entities[-1][0]:  # a source of the item of gifts
            entry["output"][self.frame.items[0]] = 5
        elif index < 6 and self._chance(0.7):  # and objects that take it
            entry["input"][self.frame.items[0]] = 1
        if not entry["conversion_ticks"] and not entry["cooldown"]:
            entry["conversion_ticks"] = self._amount(0, 1) if self._ends(entry) else 1
        return entry

    def _registered_object(self, type_: str) -> dict[str, Any]:
        settings: dict[str, dict[str, Any]] = {
            "door": {"key": self._item(), "steps_open": self._amount(0, 1, 4)},
            "field": {"item": self._item(), "spread": 0.05, "radius": self._amount(1, 2), "regrowth": 0.1},
            "conveyor": {"direction": self._amount(0, 1, 2, 3)},
        }
        return {"type": type_, "name": type_, "settings": settings.get(type_, {})}

    def _item(self) -> str:
        return str(self.generator.choice(self.frame.items))

    def _supply(self, objects: list[dict[str, Any]]) -> dict[str, str]:
        """Settings of the reward `supply`: an object that takes the item of gifts, if there is one."""
        item = self.frame.items[0]
        names = [entry["name"] for entry in objects if item in entry.get("input", {})]
        return {"to": str(self.generator.choice(names or [objects[0]["name"]])), "item": item}

    def _ends(self, entry: dict[str, Any]) -> bool:
        """Whether conversions without duration and cooldown end: they need an item that they do not produce."""
        needed = {item for item, amount in entry["input"].items() if amount > 0}
        return bool(needed - set(entry["output"]))

    def _action(self, frame: dict[str, Any]) -> dict[str, Any]:
        action, type_ = dict(frame), frame["type"]
        if type_ == "gift":
            action["item"] = self.frame.items[0]
        if type_ == "use" and self._chance(0.5):
            action["use"] = str(self.generator.choice(["converter", "object_3", "mine", *self.frame.rules]))
        if not self.frame.with_costs:
            return action
        if type_ == "attack" and self._chance(0.5):
            action["defense_resources"] = self._some_items(2, 0, 1, 1, 3)
        if self._chance(0.25):
            action["consumed_resources"] = self._some_items(2, 0, 1, 1, 2)
        if self._chance(0.25):
            action["required_resources"] = {
                item: max(amount, action.get("consumed_resources", {}).get(item, 0))
                for item, amount in self._some_items(2, 0, 1, 2).items()
            }
        return action


def random_actions(generator: np.random.Generator, config: EnvConfig, rows: int) -> np.ndarray:
    """Random actions, some with invalid arguments or ids. `[rows, 2] int32`"""
    largest = np.array(config.spec.max_action_args)
    action = generator.integers(0, len(largest), rows)
    argument = generator.integers(0, largest[action] + 1)
    odd = generator.random(rows)
    argument = np.where(odd < 0.03, generator.integers(-300, 300, rows), argument)
    action = np.where(odd > 0.98, generator.integers(-5, 400, rows), action)
    return np.stack([action, argument], axis=1).astype(np.int32)
