"""Interactive loops of `metta watch` and `metta play`: read keys, step the episode and draw the world."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.live import Live

from metta import api
from metta_cli import output
from metta_cli.key_bindings import KeyBindings
from metta_cli.keyboard import Keyboard
from metta_cli.views.world_view import WorldView, earnings

SPEEDS = (1, 2, 5, 10, 20, 50, 100, 200)
"""Speeds that + and - select, in steps per second."""
FRAMES_PER_SECOND = 20
SECONDS_BETWEEN_EPISODES = 1.5
EPISODE_OVER = "episode over"
OTHERS_FIRST = "another agent acted first"
FROZEN = "another agent attacked first"

WATCH_KEYS = [
    ("q", "quit"),
    ("space", "pause, continue"),
    ("s", "single step"),
    ("+ -", "faster, slower"),
    ("tab", "next agent"),
    ("n", "next episode"),
]

NewerPolicy = Callable[[], tuple[str, api.Policy | api.Team] | None]
"""Returns (title, policy) if there is a newer policy than at the previous call, else None."""


def watch(keyboard: Keyboard, player: api.EpisodePlayer, title: str, speed: int, newer_policy: NewerPolicy) -> None:
    """Play episode after episode at about `speed` steps per second, until the user quits."""
    console = output.make_console()
    view = WorldView(console, player, title)
    is_paused = False
    next_frame = time.monotonic()
    with keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            state = "paused" if is_paused else EPISODE_OVER if player.is_over else f"{speed} steps/s"
            live.update(view.render(state, WATCH_KEYS), refresh=True)
            key = keyboard.read(None if is_paused else max(0.0, next_frame - time.monotonic()))
            now = time.monotonic()
            match key:
                case "q" | "escape":
                    return
                case "space":
                    is_paused, next_frame = not is_paused, now
                case "s":
                    is_paused = True
                    _advance(player, view, newer_policy, 1)
                case "+" | "=":
                    speed = next((faster for faster in SPEEDS if faster > speed), speed)
                case "-":
                    speed = next((slower for slower in reversed(SPEEDS) if slower < speed), speed)
                case "tab":
                    view.follow_next()
                case "n":
                    _next_episode(player, view, newer_policy)
                case None:
                    steps = max(1, speed // FRAMES_PER_SECOND)
                    _advance(player, view, newer_policy, steps)
                    pause = SECONDS_BETWEEN_EPISODES if player.is_over else 0.0
                    next_frame = max(now, next_frame + steps / speed) + pause  # late frames are not caught up


def _advance(player: api.EpisodePlayer, view: WorldView, newer_policy: NewerPolicy, steps: int) -> None:
    """Play up to `steps` steps of the episode; if it is already over, start the next one instead."""
    if player.is_over:
        _next_episode(player, view, newer_policy)
        return
    for _ in range(steps):
        player.step()
        if player.is_over:
            return


def _next_episode(player: api.EpisodePlayer, view: WorldView, newer_policy: NewerPolicy) -> None:
    newer = newer_policy()
    if newer is not None:
        view.title = newer[0]
    player.start_episode(newer[1] if newer else None)


def play(keyboard: Keyboard, player: api.EpisodePlayer, title: str, agent_index: int) -> list[str]:
    """Let the user control one agent, one step per key press; the player's policy controls the others.

    Returns the lines of a summary of all episodes.
    """
    console = output.make_console()
    view = WorldView(console, player, title)
    view.followed = agent_index
    env = player.env
    bindings = KeyBindings(env.config)
    keys = [("q", "quit"), *bindings.help, ("n", "new episode")]
    earns = f"earns: {earnings(env.config, int(env.groups[agent_index]))}"
    summaries = [PlayedEpisode(player, agent_index)]
    with keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            over = [f"{EPISODE_OVER}; press n for another", *summaries[-1].lines()]
            state, *more = over if player.is_over else ["your turn", earns]
            live.update(view.render(state, keys, more), refresh=True)
            key = keyboard.read()
            if key in ("q", "escape"):
                return [line for summary in summaries if summary.steps for line in summary.lines()]
            if key == "n":
                player.start_episode()
                view.failure = ""
                summaries.append(PlayedEpisode(player, agent_index))
            elif key is not None and not player.is_over:
                orientation = int(env.orientations[agent_index])
                if (action := bindings.action(key, orientation)) is not None:
                    reason = api.failure_reason(env, agent_index, action)
                    player.step({agent_index: action})
                    view.failure = reason or (FROZEN if env.freeze_counters[agent_index] else OTHERS_FIRST)
                    summaries[-1].update()


class PlayedEpisode:
    """What one agent did in an episode: steps, reward, failed actions and items gained."""

    def __init__(self, player: api.EpisodePlayer, agent_index: int):
        self._player, self._agent = player, agent_index
        self._number = player.episode + 1
        self.steps = 0
        self._failed = 0
        self._held = player.env.inventories[agent_index].astype(int)
        self._gained = 0 * self._held
        self._rewards = player.total_rewards

    def update(self) -> None:
        """Count the step that was just played."""
        env = self._player.env
        self.steps += 1
        self._failed += not env.action_success[self._agent]
        held = env.inventories[self._agent].astype(int)
        self._gained += (held - self._held).clip(0)
        self._held = held
        self._rewards = self._player.total_rewards

    def lines(self) -> list[str]:
        """The summary as text."""
        items = zip(self._player.env.config.game.inventory_item_names, self._gained.tolist(), strict=True)
        gained = ", ".join(f"{amount} {item}" for item, amount in items if amount) or "no items"
        reward = output.format_number(float(self._rewards[self._agent]))
        others = [float(value) for index, value in enumerate(self._rewards) if index != self._agent]
        mean = f" (mean of the others: {output.format_number(sum(others) / len(others))})" if others else ""
        return [
            f"episode {self._number}: reward {reward}{mean}",
            f"gained {gained}; {self.steps:,} steps; failed actions: {self._failed:,}",
        ]
