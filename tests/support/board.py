"""A drawn world that a test plays by hand: map and actions in, map out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import dedent
from typing import Any, Protocol

import numpy as np

from metta.config.env.env_config import EnvConfig
from metta.config.env.map_builder import GLYPHS

FACING = "^v<>"
ITEMS = ["ore_red", "battery_red", "heart", "armor", "laser"]
QUIET = {
    # a game in which nothing happens to rewards but what a test asks for
    "max_steps": 0,
    "episode_lifetime": 0,
    "time_punishment": 0.0,
    "ore_red_reward": 0.0,
    "battery_red_reward": 0.0,
    "heart_reward": 0.0,
    "inventory_item_names": ITEMS,
    "observation_width": 7,
    "observation_height": 7,
}


class Backend(Protocol):
    """What plays the world: the engine or the reference stepper, which must agree on every rule."""

    def reset(self) -> np.ndarray:
        """The first observations `[agents, tokens, 3] uint8`."""

    def step(
        self, actions: np.ndarray, order: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations, rewards, terminated, truncated and success of `actions` `[agents, 2]`."""

    def state(self) -> dict[str, np.ndarray]:
        """What `recorded_state` names."""

    def statistics(self) -> dict[str, Any]:
        """The counters of the episode."""


MakeBackend = Callable[[EnvConfig], Backend]


def chest(item: str, units: int, glyph: str) -> tuple[str, dict[str, Any]]:
    """A mine that is full from the start and makes nothing more; for `Board(chests=[...])`."""
    entry = {"type": "mine", "name": f"chest_{glyph}", "output": {item: 1}, "max_output": 0, "initial_items": units}
    return glyph, entry


class Board:
    """One world on a drawn map. Agents are drawn as `^v<>` and are numbered in reading order.

    `groups`: one name for each agent, in that order; the config's groups are these names as they first come, each with
    the settings of `group_settings`. `chests`: see `chest`. What else is given goes into `[env.game]`.
    """

    def __init__(
        self,
        make_backend: MakeBackend,
        drawing: str,
        groups: Sequence[str] = (),
        group_settings: dict[str, dict[str, Any]] | None = None,
        chests: Sequence[tuple[str, dict[str, Any]]] = (),
        objects: Sequence[dict[str, Any]] = (),
        actions: Sequence[dict[str, Any]] | None = None,
        **game: Any,
    ):
        rows = dedent(drawing).strip("\n").split("\n")
        facing = [glyph for row in rows for glyph in row if glyph in FACING]
        members = list(groups) or ["agent"] * len(facing)
        names = list(dict.fromkeys(members))
        whose = iter(members)
        team_glyphs = {name: chr(0x3B1 + index) for index, name in enumerate(names)}
        settings = group_settings or {}
        self.config = EnvConfig.model_validate(
            {
                "game": QUIET
                | {"groups": {name: {"id": i, **settings.get(name, {})} for i, name in enumerate(names)}}
                | game,
                "objects": [*objects, *(entry for _, entry in chests)],
                "actions": list(actions) if actions is not None else ALL_ACTIONS,
                "map_builder": {
                    "type": "Ascii",
                    "map": "\n".join(
                        "".join(team_glyphs[next(whose)] if glyph in FACING else glyph for glyph in row) for row in rows
                    ),
                    "legend": {
                        **{glyph: f"agent.{name}" for name, glyph in team_glyphs.items()},
                        **{glyph: entry["name"] for glyph, entry in chests},
                        **{
                            entry["name"][0]: entry["name"] for entry in objects if entry["name"] not in GLYPHS.values()
                        },
                    },
                },
            }
        )
        builder = self.config.map_builder
        glyph_of = {name: glyph for glyph, name in reversed(GLYPHS.items())}
        glyph_of |= {name: glyph for glyph, name in getattr(builder, "legend", {}).items()}
        self._glyphs = {entry.type_id: glyph_of.get(name, "?") for name, entry in self.config.object_types.items()}
        self.num_agents = len(facing)
        self.backend = make_backend(self.config)
        self.observations = self.backend.reset()
        self.rewards = np.zeros(self.num_agents, np.float32)
        self.success = self.terminated = self.truncated = np.zeros(self.num_agents, bool)
        if any(glyph != "^" for glyph in facing):
            self.act(*(f"turn_{['up', 'down', 'left', 'right'][FACING.index(glyph)]}" for glyph in facing))

    def act(self, *actions: str, order: Sequence[int] | None = None) -> Board:
        """One step: an action for each agent as `"move"`, `"attack 5"` or `"turn_left"`, missing ones are `noop`."""
        pairs = [self._pair(action) for action in actions] + [self._pair("noop")] * (self.num_agents - len(actions))
        turns = np.arange(self.num_agents) if order is None else np.array(order)
        self.observations, self.rewards, self.terminated, self.truncated, self.success = self.backend.step(
            np.array(pairs, np.int32), turns
        )
        return self

    def _pair(self, action: str) -> tuple[int, int]:
        names = self.config.spec.action_names
        if action.startswith("turn_"):
            return names.index("rotate"), ("up", "down", "left", "right").index(action.removeprefix("turn_"))
        name, _, argument = action.partition(" ")
        number = names.index(name) if name in names else int(name)
        return number, int(argument or 0)

    def drawn(self) -> str:
        """The map as it is now, in the words of the tests' drawings."""
        state = self.backend.state()
        glyphs = {0: "."} | self._glyphs
        rows = [[glyphs.get(int(cell), "?") for cell in row] for row in state["cells"]]
        for agent, (row, col) in enumerate(state["position of agents"]):
            rows[row][col] = FACING[int(state["orientation of agents"][agent])]
        return "\n".join("".join(row) for row in rows)

    def held(self, agent: int = 0) -> dict[str, int]:
        """What an agent holds, by item."""
        return self._named(self.backend.state()["inventory of agents"][agent])

    def stock(self, converter: int = 0) -> dict[str, int]:
        """What a converter holds, by item; converters are numbered in reading order, chests too."""
        return self._named(self.backend.state()["inventory of converters"][converter])

    def is_busy(self, converter: int = 0) -> bool:
        return bool(self.backend.state()["busy of converters"][converter])

    def is_frozen(self, agent: int = 0) -> bool:
        return bool(self.backend.state()["frozen of agents"][agent])

    def color(self, agent: int = 0) -> int:
        return int(self.backend.state()["color of agents"][agent])

    def counters(self, agent: int = 0) -> dict[str, float]:
        """The statistics of one agent."""
        counters: dict[str, float] = self.backend.statistics()["agent"][agent]
        return {key: float(value) for key, value in counters.items() if value}

    def converter_counters(self, converter: int = 0) -> dict[str, float]:
        """The statistics of one converter."""
        counters: dict[str, float] = self.backend.statistics()["converter"][converter]
        return {key: float(value) for key, value in counters.items() if value}

    def tokens(self, agent: int = 0) -> list[tuple[int, int, str, int]]:
        """What an agent sees: (rows down, columns right, feature, value) in the order of tokens."""
        spec = self.config.spec
        return [
            (
                (int(location) >> 4) - spec.observation_height // 2,
                (int(location) & 15) - spec.observation_width // 2,
                spec.feature_names[feature],
                int(value),
            )
            for location, feature, value in self.observations[agent]
            if (location, feature, value) != (0xFF, 0xFF, 0xFF)
        ]

    def has_token(self, agent: int = 0) -> dict[str, int]:
        """The items an agent sees on itself, also those of which it has 0 units."""
        prefix = "inv:"
        own = (token for token in self.tokens(agent) if token[:2] == (0, 0))
        return {name.removeprefix(prefix): value for _, _, name, value in own if name.startswith(prefix)}

    def _named(self, amounts: np.ndarray) -> dict[str, int]:
        items = self.config.game.inventory_item_names
        return {item: int(amount) for item, amount in zip(items, amounts, strict=True) if amount}


ALL_ACTIONS: list[dict[str, Any]] = [
    {"type": "noop", "key": "noop"},
    {"type": "move", "key": "move"},
    {"type": "rotate", "key": "rotate"},
    {"type": "put_items", "key": "put"},
    {"type": "get_items", "key": "get"},
    {"type": "attack", "key": "attack"},
    {"type": "swap", "key": "swap"},
    {"type": "change_color", "key": "change_color"},
    {"type": "gift", "key": "gift", "item": "heart"},
    {"type": "use", "key": "use"},
    {"type": "rotate", "key": "right", "delta": 1},
    {"type": "rotate", "key": "left", "delta": -1},
    {"type": "rotate", "key": "back", "delta": 2},
]
"""Every type of action, free of charge."""


def picture(drawing: str) -> str:
    """A drawing as `Board.drawn` gives it."""
    return dedent(drawing).strip("\n").replace(" ", ".")
