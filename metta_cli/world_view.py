"""Terminal view of a world, for `metta watch` and `metta play`: the map, and a panel about one agent."""

from __future__ import annotations

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from metta import api
from metta_cli.output import format_number

ARROWS = "▲▼◀▶"
AGENT_COLORS = ("cyan", "yellow", "magenta", "green", "red", "blue")
"""Colors of agents, by group index."""
COLORS = {"red": "red", "green": "green", "blue": "blue", "wall": "bright_black", "altar": "bright_magenta"}
"""Colors of objects, by the last word of their names; other objects are white."""
PANEL_WIDTH = 36
"""Columns of the panel beside the map."""


class WorldView:
    """Draws the world of an episode. `followed` is the index of the agent shown in the panel.

    The map highlights the followed agent's observation window.
    """

    def __init__(self, console: Console, player: api.EpisodePlayer, title: str):
        self.console = console
        self.player = player
        self.title = title
        self.followed = 0
        self._is_unicode = console.encoding.startswith("utf")

    def follow_next(self) -> None:
        """Follow the next agent, after the last one the first."""
        self.followed = (self.followed + 1) % self.player.env.num_agents

    def render(self, state: str, keys: list[tuple[str, str]]) -> RenderableType:
        """Map and panel side by side; `state` is a short status, `keys` are (key, meaning) pairs."""
        layout = Table.grid(padding=(0, 2))
        layout.add_column(no_wrap=True)
        layout.add_column(width=PANEL_WIDTH)
        layout.add_row(
            self._map(), Group(self._episode_rows(state), Text(), self._agent_rows(), Text(), _key_list(keys))
        )
        return Panel(layout, title=Text(self.title), title_align="left", border_style="cyan", expand=False)

    def _map(self) -> Text:
        """Two characters per cell: the object, then an agent's index (last digit) or a converter's number of items."""
        env = self.player.env
        glyphs, cells = [list(row) for row in env.render().splitlines()], env.cells()
        height, width = cells.shape
        marks = np.full(cells.shape, " ", "<U1")
        converters = env.converters()
        item_counts, is_busy = converters["inventory"].sum(axis=1), np.zeros(cells.shape, np.bool_)
        for (row, col), amount, busy in zip(converters["position"], item_counts, converters["is_busy"], strict=True):
            marks[row, col] = str(min(amount, 9)) if amount else " "
            is_busy[row, col] = busy
        styles = [[_object_style(env.spec.object_type_names[max(0, code)]) for code in row] for row in cells.tolist()]
        for index, (row, col) in enumerate(env.positions.tolist()):
            if self._is_unicode:
                glyphs[row][col] = ARROWS[env.orientations[index]]
            marks[row, col] = str(index)[-1]
            frozen = " dim" if env.freeze_counters[index] else ""
            styles[row][col] = f"bold {AGENT_COLORS[int(env.groups[index]) % len(AGENT_COLORS)]}{frozen}"
        top, left, rows, cols = self._crop(height, width)
        agent_row, agent_col = env.positions[self.followed].tolist()
        window_reach = env.spec.observation_height // 2, env.spec.observation_width // 2
        text = Text()
        for row in range(top, top + rows):
            for col in range(left, left + cols):
                style = styles[row][col] + (" underline" if is_busy[row, col] else "")
                if abs(row - agent_row) <= window_reach[0] and abs(col - agent_col) <= window_reach[1]:
                    style += " on grey15"
                if (row, col) == (agent_row, agent_col):
                    style += " reverse"
                glyph = "█" if glyphs[row][col] == "#" and self._is_unicode else glyphs[row][col]
                text.append(glyph + ("█" if glyph == "█" else marks[row, col]), style)
            text.append("\n")
        return text

    def _crop(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, rows, cols) of the part of the map that fits the terminal, centered on the followed agent."""
        rows = max(5, min(height, self.console.height - 3))
        cols = max(5, min(width, (self.console.width - PANEL_WIDTH - 6) // 2))
        row, col = self.player.env.positions[self.followed].tolist()
        top = min(max(0, row - rows // 2), height - rows) if rows < height else 0
        left = min(max(0, col - cols // 2), width - cols) if cols < width else 0
        return top, left, min(rows, height), min(cols, width)

    def _episode_rows(self, state: str) -> RenderableType:
        player = self.player
        game = player.env.config.game
        last_step = min((steps for steps in (game.max_steps, game.episode_lifetime) if steps), default=None)
        table = _two_columns()
        table.add_row("", Text(state, "bold"))
        table.add_row("episode", str(player.episode + 1))
        table.add_row("step", f"{int(player.env.steps[0]):,}" + (f" of {last_step:,}" if last_step else ""))
        table.add_row("reward per agent", format_number(float(player.total_rewards.mean())))
        return table

    def _agent_rows(self) -> RenderableType:
        player, index = self.player, self.followed
        env = player.env
        group = list(env.config.game.groups)[int(env.groups[index])] if env.config.game.groups else ""
        table = _two_columns()
        table.add_row("agent", Text(f"{index} {group}".strip(), "bold"))
        table.add_row("reward", format_number(float(player.total_rewards[index])))
        if env.steps[0]:
            action_id, argument = player.actions[index].tolist()
            names = env.spec.action_names
            name = names[action_id] if 0 <= action_id < len(names) else str(action_id)
            failed = "" if env.action_success[index] else " failed"
            table.add_row("last action", Text(f"{name} {argument}{failed}", "dim" if failed else ""))
            table.add_row("last reward", format_number(float(player.rewards[index])))
        if env.freeze_counters[index]:
            table.add_row("", Text("frozen", "bold blue"))
        for item, amount in zip(env.config.game.inventory_item_names, env.inventories[index].tolist(), strict=True):
            if amount:
                table.add_row(item, str(amount))
        return table


def _object_style(name: str) -> str:
    return COLORS.get(name.rpartition("_")[2], "white")


def _two_columns() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    return table


def _key_list(keys: list[tuple[str, str]]) -> RenderableType:
    table = _two_columns()
    for key, meaning in keys:
        table.add_row(key, meaning)
    return table
