"""Interactive loops of `metta watch` and `metta play`: read keys, step the episode and draw the world."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.live import Live

from metta import api
from metta_cli import output
from metta_cli.key_bindings import KeyBindings
from metta_cli.keyboard import Keyboard
from metta_cli.world_view import WorldView

SPEEDS = (1, 2, 5, 10, 20, 50, 100, 200)
"""Speeds that + and - select, in steps per second."""
FRAMES_PER_SECOND = 20
SECONDS_BETWEEN_EPISODES = 1.5
EPISODE_OVER = "episode over"

WATCH_KEYS = [
    ("space", "pause, continue"),
    ("s", "single step"),
    ("+ -", "faster, slower"),
    ("tab", "next agent"),
    ("n", "next episode"),
    ("q", "quit"),
]

NewerPolicy = Callable[[], tuple[str, api.Policy] | None]
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


def play(keyboard: Keyboard, player: api.EpisodePlayer, title: str, agent_index: int) -> None:
    """Let the user control one agent, one step per key press; the player's policy controls the others."""
    console = output.make_console()
    view = WorldView(console, player, title)
    view.followed = agent_index
    bindings = KeyBindings(player.env.config)
    keys = [*bindings.help, ("n", "new episode"), ("q", "quit")]
    with keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            state = f"{EPISODE_OVER}; press n for another" if player.is_over else "your turn"
            live.update(view.render(state, keys), refresh=True)
            key = keyboard.read()
            if key in ("q", "escape"):
                return
            if key == "n":
                player.start_episode()
            elif key is not None and not player.is_over:
                orientation = int(player.env.orientations[agent_index])
                if (action := bindings.action(key, orientation)) is not None:
                    player.step({agent_index: action})
