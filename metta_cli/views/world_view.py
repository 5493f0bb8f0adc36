"""Terminal view of a world, for `metta watch` and `metta play`: the map, and a panel about one agent."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from metta import api
from metta_cli.output import format_number

ARROWS = ("▲▼◀▶", "△▽◁▷", "⇧⇩⇦⇨", "↑↓←→")
ASCII_ARROWS = ("^v<>", "AV()", "MW{}", "iy[]")
"""Signs of agents by orientation: one set for each group, so that groups are told apart without colors."""
AGENT_COLORS = ("cyan", "yellow", "magenta", "green", "red", "blue")
"""Colors of agents, by group index."""
COLORS = {"red": "red", "green": "green", "blue": "blue", "wall": "bright_black", "block": "bright_black"}
"""Colors of objects, by the last word of their names; other objects are white."""
GOAL_STYLE = "bold reverse bright_magenta"
"""Style of objects that make the item with the highest reward, such as the altar."""
PANEL_WIDTH, MAX_PANEL_WIDTH = 38, 60
"""Columns of the panel beside the map, at least and at most."""
MIN_SIDE_BY_SIDE = 72
"""Terminal width in columns below which the panel is below the map."""
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
MIN_MAP_ROWS = 7
"""Rows that a panel below the map leaves for it, at least."""


class Row(NamedTuple):
    """A label and a text, which is wrapped, of the panel."""

    label: str
    text: str
    style: str = ""
    label_style: str = "dim"


class WorldView:
    """Draws the world of an episode. `followed` is the index of the agent shown in the panel.

    The map highlights the followed agent's observation window.
    """

    def __init__(self, console: Console, player: api.EpisodePlayer, title: str):
        self.console = console
        self.player = player
        self.title = title
        self.followed = 0
        self.failure = ""
        """why the last action of the followed agent failed, if known"""
        config = player.env.config
        self._is_unicode = console.encoding.startswith("utf")
        self._cell_width = 1 + len(str(player.env.num_agents - 1))
        self._glyphs, self._words = api.cell_glyphs(config), api.action_words(config)
        self._agent_names = api.agent_names(config)
        self._styles = _object_styles(config)

    def follow_next(self) -> None:
        """Follow the next agent, after the last one the first."""
        self.followed = (self.followed + 1) % self.player.env.num_agents

    def render(self, state: str, keys: Sequence[tuple[str, str]], summary: Sequence[str] = ()) -> RenderableType:
        """Map and panel, side by side if the terminal is wide; `state` is a short status, `keys` are (key, meaning)."""
        height, inside = self.console.height - 2, self.console.width - 4
        rows = [*self._status_rows(state), *(Row("", line, "bold") for line in summary), *self._agent_rows()]
        key_row = Row("keys", _unbroken(f"{key} {meaning}" for key, meaning in keys))
        if self.console.width < MIN_SIDE_BY_SIDE:
            lines = self._lines([*rows, self._short_legend(), key_row], inside)[: height - MIN_MAP_ROWS]
            return self._frame(Group(self._map(height - len(lines), inside), *lines))
        map_width = self.player.env.config.game.width * self._cell_width
        width = max(PANEL_WIDTH, min(MAX_PANEL_WIDTH, inside - map_width - 2))
        layout = Table.grid(padding=(0, 2))
        layout.add_column(no_wrap=True)
        layout.add_column(width=width)
        panel = self._panel([*rows, key_row], width, height)
        layout.add_row(self._map(height, inside - width - 2), Group(*panel))
        return self._frame(layout)

    def _panel(self, rows: list[Row], width: int, height: int) -> list[Text]:
        """At most `height` lines of the panel: the rows, and below them the longest legend that fits."""
        for legend in ([*self._team_rows(), *self._recipe_rows()], [self._short_legend()]):
            lines = self._lines([*rows, *legend], width)
            if len(lines) <= height:
                break
        return lines[:height]

    def _frame(self, content: RenderableType) -> RenderableType:
        return Panel(content, title=Text(self.title), title_align="left", border_style="cyan", expand=False)

    # -- map -----------------------------------------------------------------------------------------------------

    def _map(self, rows: int, columns: int) -> Text:
        """The part of the map around the followed agent that fits; a sign and a number for each cell."""
        env = self.player.env
        cells, signs = env.cells(), self._signs()
        top, height = _window(cells.shape[0], rows, int(env.positions[self.followed][0]))
        left, width = _window(cells.shape[1], columns // self._cell_width, int(env.positions[self.followed][1]))
        reach = env.spec.observation_height // 2, env.spec.observation_width // 2
        agent_row, agent_col = env.positions[self.followed].tolist()
        text = Text(no_wrap=True)
        for row in range(top, top + height):
            for col in range(left, left + width):
                sign, style = signs.get((row, col)) or self._object_sign(int(cells[row, col]))
                if abs(row - agent_row) <= reach[0] and abs(col - agent_col) <= reach[1]:
                    style += " on grey15" if style != GOAL_STYLE else ""
                if (row, col) == (agent_row, agent_col):
                    style += " reverse"
                text.append(sign, style)
            text.append("\n" if row < top + height - 1 else "")
        return text

    def _object_sign(self, type_id: int) -> tuple[str, str]:
        name = self.player.env.spec.object_type_names[type_id] if type_id > 0 else "empty"
        glyph = self._glyphs[name]
        if name == "wall":
            return ("▒" if self._is_unicode else glyph) * self._cell_width, self._styles[name]
        return glyph.ljust(self._cell_width), self._styles.get(name, "bright_black")

    def _signs(self) -> dict[tuple[int, int], tuple[str, str]]:
        """(sign, style) of agents, with their numbers, and of converters, with their number of items."""
        env, signs = self.player.env, {}
        converters = env.converters()
        amounts = converters["inventory"].sum(axis=1).tolist()
        types = {entry.type_id: entry for entry in env.config.object_types.values()}
        faint = [
            types[type_id].is_faint(states)
            for type_id, states in zip(converters["type_id"].tolist(), converters["states"].tolist(), strict=True)
        ]
        found = (converters["position"].tolist(), converters["type_id"].tolist(), amounts, converters["is_busy"], faint)
        for (row, col), type_id, amount, is_busy, is_faint in zip(*found, strict=True):
            sign, style = self._object_sign(type_id)
            number = str(amount) if amount < 10 ** (self._cell_width - 1) else "+"
            sign = (sign.strip() + (number if amount else "")).ljust(self._cell_width)
            signs[row, col] = sign, style + " underline" * bool(is_busy) + " dim" * is_faint
        for index, (row, col) in enumerate(env.positions.tolist()):
            frozen = " dim" if env.freeze_counters[index] else ""
            sign = self._arrows(int(env.groups[index]))[int(env.orientations[index])]
            signs[row, col] = f"{sign}{index}".ljust(self._cell_width), f"bold {_color(int(env.groups[index]))}{frozen}"
        return signs

    def _arrows(self, group: int) -> str:
        sets = ARROWS if self._is_unicode else ASCII_ARROWS
        return sets[group % len(sets)]

    # -- panel ---------------------------------------------------------------------------------------------------

    def _lines(self, rows: Sequence[Row], width: int) -> list[Text]:
        """The rows of the panel as lines of at most `width` columns, labels on the left."""
        margin = 9
        lines = []
        for label, content, style, label_style in rows:
            wrapped = textwrap.wrap(content, width - margin if label else width) or [""]
            for number, line in enumerate(wrapped):
                head = label if number == 0 else ""
                gap = " " * (margin - len(head)) if label else ""
                text = line.replace(NO_BREAK_SPACE, " ")
                lines.append(Text.assemble((head, label_style), gap, (text, style)))
                for name in self._present_objects():
                    lines[-1].highlight_words([f"{self._legend_sign(name)} {name}"], self._styles[name])
        return lines

    def _status_rows(self, state: str) -> Iterator[Row]:
        player = self.player
        game = player.env.config.game
        last_step = min((steps for steps in (game.max_steps, game.episode_lifetime) if steps), default=None)
        of_last = f" of {last_step:,}" if last_step else ""
        yield Row("", state, "bold")
        yield Row("episode", f"{player.episode + 1}   step {int(player.env.steps[0]):,}{of_last}")
        yield Row("reward", f"{format_number(float(player.total_rewards.mean()))} per agent")

    def _agent_rows(self) -> Iterator[Row]:
        player, index = self.player, self.followed
        env = player.env
        group = int(env.groups[index])
        name = list(env.config.game.groups)[group] if len(self._agent_names) > 1 else ""
        frozen = " frozen" if env.freeze_counters[index] else ""
        sign = self._arrows(group)[int(env.orientations[index])]
        reward = format_number(float(player.total_rewards[index]))
        agent = " ".join(filter(None, (f"{sign}{index}", name + frozen)))
        yield Row("agent", f"{agent}   reward {reward}", f"bold {_color(group)}")
        items = zip(env.config.game.inventory_item_names, env.inventories[index].tolist(), strict=True)
        yield Row("holds", ", ".join(f"{amount} {item}" for item, amount in items if amount) or "nothing")
        yield Row("ahead", api.view_ahead(env, index))
        if env.steps[0]:
            yield Row("did", self._last_action(), "" if env.action_success[index] else "yellow")
            if self.failure and not env.action_success[index]:
                yield Row("because", self.failure, "yellow")

    def _last_action(self) -> str:
        action_id, argument = self.player.actions[self.followed].tolist()
        words = self._words[action_id] if 0 <= action_id < len(self._words) else []
        text = words[argument] if 0 <= argument < len(words) else f"action {action_id} {argument}"
        failed = "" if self.player.env.action_success[self.followed] else ": failed"
        reward = float(self.player.rewards[self.followed])
        return f"{text}{failed}" + (f", reward {format_number(reward)}" if reward else "")

    def _team_rows(self) -> Iterator[Row]:
        for group, (name, count) in enumerate(self._teams()):
            style = f"bold {_color(group)}"
            text = f"{name}, {count} agents" if len(self._agent_names) > 1 else name
            yield Row(self._arrows(group), text, style, style)

    def _recipe_rows(self) -> Iterator[Row]:
        names = self._present_objects()
        for name in names:
            yield Row(self._legend_sign(name), _recipe(self.player.env.config, name), label_style=self._styles[name])
        yield Row("number", "of an agent, or of the items in an object; underlined: busy", "dim")

    def _short_legend(self) -> Row:
        teams = [f"{self._arrows(group)[0]} {name}" for group, (name, _) in enumerate(self._teams())]
        objects = [f"{self._legend_sign(name)} {name}" for name in self._present_objects()]
        return Row("legend", _unbroken([*teams, *objects]))

    def _teams(self) -> list[tuple[str, int]]:
        """(name, number of agents) of each group; "agents" if there is one."""
        env = self.player.env
        names = list(env.config.game.groups) if len(self._agent_names) > 1 else ["agents"]
        return list(zip(names, np.bincount(env.groups, minlength=len(names)).tolist(), strict=True))

    def _present_objects(self) -> list[str]:
        """Names of the objects on the map: first those that make the item with the highest reward, last walls."""
        types, present = self.player.env.config.object_types, set(self.player.env.cells().ravel().tolist())
        names = [name for name, entry in types.items() if entry.type_id in present]
        return sorted(names, key=lambda name: (types[name].type == "wall", self._styles[name] != GOAL_STYLE))

    def _legend_sign(self, name: str) -> str:
        return self._object_sign(self.player.env.config.object_types[name].type_id or 0)[0][0]


def _unbroken(phrases: Iterable[str]) -> str:
    """The phrases side by side; lines are broken only between them."""
    return "  ".join(phrase.replace(" ", NO_BREAK_SPACE) for phrase in phrases)


def styled_map(config: api.EnvConfig, text: str) -> Text:
    """The text of a map and its legend, in the colors of the views."""
    glyphs, styles = api.cell_glyphs(config), _object_styles(config)
    styles |= {name: f"bold {_color(group)}" for group, name in enumerate(api.agent_names(config))}
    style_of = {glyph: styles.get(name, "bright_black") for name, glyph in glyphs.items()}
    drawing, _, legend = text.partition("\n\n")
    styled = Text.assemble(*((glyph, style_of.get(glyph, "")) for glyph in drawing), "\n\n")
    for line in legend.split("\n"):
        styled.append(line[:1], style_of.get(line[:1], "")).append(line[1:] + "\n")
    styled.rstrip()
    return styled


def earnings(config: api.EnvConfig, group: int) -> str:
    """What earns reward in a group, such as `heart +1, ore_red +0.01 (first 10)`."""
    settings = config.game.group_settings(list(config.game.groups)[group])
    rewards = {item: settings.item_reward(item) for item in config.game.inventory_item_names}
    texts = []
    for item, reward in sorted(rewards.items(), key=lambda pair: -pair[1]):
        limit = settings.item_reward_cap(item)
        limited = f" (first {limit:g})" if limit < settings.item_cap(item) else ""
        texts += [f"{item} {reward:+g}{limited}"] if reward else []
    if config.game.time_punishment:
        texts.append(f"each step {config.game.time_punishment:+g}")
    return ", ".join(texts) or "nothing"


def _recipe(config: api.EnvConfig, name: str) -> str:
    """The name of an object and its recipe, such as `altar: 3 battery_red -> 1 heart`."""
    entry = config.object_types[name]
    consumed, produced = (
        " + ".join(f"{count} {item}" for item, count in (table or {}).items()) for table in (entry.input, entry.output)
    )
    return f"{name}: {consumed} -> {produced}" if consumed else f"{name} -> {produced}" if produced else name


def _object_styles(config: api.EnvConfig) -> dict[str, str]:
    """The style of each object type; those that make the item with the highest reward stand out."""
    all_settings = [config.game.group_settings(group) for group in config.game.groups]
    rewards = {
        item: max(settings.item_reward(item) for settings in all_settings) for item in config.game.inventory_item_names
    }
    best = max(rewards.values(), default=0.0)
    goals = {item for item, reward in rewards.items() if reward == best > 0}
    return {
        name: GOAL_STYLE if goals & set(entry.output or {}) else COLORS.get(name.rpartition("_")[2], "white")
        for name, entry in config.object_types.items()
    }


def _color(group: int) -> str:
    return AGENT_COLORS[group % len(AGENT_COLORS)]


def _window(size: int, limit: int, center: int) -> tuple[int, int]:
    """(first, length) of the part of a map's side that fits and is centered, as far as possible, on a cell."""
    length = max(1, min(size, limit))
    return min(max(0, center - length // 2), size - length), length
