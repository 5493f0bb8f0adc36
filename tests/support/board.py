"""Board: a world on a drawn map that a test steps by named actions and compares with a drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import dedent
from typing import Any, Protocol

import numpy as np

from metta.config.env.env_config import EnvConfig
from metta.config.env.glyphs import GLYPHS

FACING = "^v<>"
ITEMS = ["ore_red", "battery_red", "heart", "armor", "laser"]
QUIET = {
    # rewards are 0 except for what a test sets
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
    """A simulator of one world: the engine or the reference simulator, which must agree on every rule."""

    def reset(self) -> np.ndarray:
        """The first observations `[agents, tokens, 3] uint8`."""

    def step(
        self, actions: np.ndarray, order: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations, rewards, terminated, truncated and success of `actions` `[agents, 2]`."""

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that `conformance.recorded_state` names."""

    def statistics(self) -> dict[str, Any]:
        """The statistics of the episode."""


MakeBackend = Callable[[EnvConfig], Backend]


def chest(item: str, units: int, glyph: str) -> tuple[str, dict[str, Any]]:
    """A mine that is full from the start and produces nothing; for `Board(chests=[...])`."""
    entry = {"type": "mine", "name": f"chest_{glyph}", "output": {item: 1}, "max_output": 0, "initial_items": units}
    return glyph, entry


class Board:
    """One world on a drawn map. Agents are drawn as `^v<>` and are numbered in reading order.

    `groups` has one name per agent, in that order; the groups of the config are these names in the order of their first
    use, with the settings of `group_settings`. `chests`: see `chest`. Further arguments are keys of `[env.game]`.
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
        member = iter(members)
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
                        "".join(team_glyphs[next(member)] if glyph in FACING else glyph for glyph in row)
                        for row in rows
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
        """Take one step, with an action per agent such as `"move"`, `"attack 5"`, `"turn_left"`; by default `noop`."""
        pairs = [self.parse(action) for action in actions] + [self.parse("noop")] * (self.num_agents - len(actions))
        turns = np.arange(self.num_agents) if order is None else np.array(order)
        self.observations, self.rewards, self.terminated, self.truncated, self.success = self.backend.step(
            np.array(pairs, np.int32), turns
        )
        return self

    def parse(self, action: str) -> tuple[int, int]:
        """(action id, argument)."""
        names = self.config.spec.action_names
        if action.startswith("turn_"):
            return names.index("rotate"), ("up", "down", "left", "right").index(action.removeprefix("turn_"))
        name, _, argument = action.partition(" ")
        number = names.index(name) if name in names else int(name)
        return number, int(argument or 0)

    def drawn(self) -> str:
        """The current map, with the glyphs of the drawing."""
        state = self.backend.state()
        glyphs = {0: "."} | self._glyphs
        rows = [[glyphs.get(int(cell), "?") for cell in row] for row in state["cells"]]
        for agent, (row, col) in enumerate(state["position of agents"]):
            rows[row][col] = FACING[int(state["orientation of agents"][agent])]
        return "\n".join("".join(row) for row in rows)

    def held(self, agent: int = 0) -> dict[str, int]:
        """The inventory of an agent, by item."""
        return self._named(self.backend.state()["inventory of agents"][agent])

    def stock(self, converter: int = 0) -> dict[str, int]:
        """The inventory of a converter, by item; converters and chests are numbered in reading order."""
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
        """The tokens of an agent in order: (rows down, columns right, feature, value)."""
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

    def item_tokens(self, agent: int = 0) -> dict[str, int]:
        """The item tokens of the cell of an agent, including those with value 0."""
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
"""Every type of action, without costs."""


def picture(drawing: str) -> str:
    """A drawing in the format of `Board.drawn`."""
    return dedent(drawing).strip("\n").replace(" ", ".")
