"""Looking on while a policy plays, and playing along: the loops between keys, stage and screen."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from metta.api import EpisodePlayer, Policy
from metta_cli.key_bindings import KeyBindings
from metta_cli.keyboard import Keyboard
from metta_cli.world_view import WorldView

SPEEDS = (1, 2, 5, 10, 20, 50, 100, 200)
"""Steps per second."""
PICTURES_PER_SECOND = 20
SECONDS_BETWEEN_EPISODES = 1.5

WATCH_KEYS = [
    ("space", "pause, go on"),
    ("s", "one step"),
    ("+ -", "faster, slower"),
    ("tab", "next agent"),
    ("n", "next episode"),
    ("q", "leave"),
]

Newer = Callable[[], tuple[str, Policy] | None]
"""Title and policy, if there is a newer one than last time."""


def watch(keyboard: Keyboard, stage: EpisodePlayer, title: str, speed: int, newer: Newer) -> None:
    """Let the policy play episode after episode, at about `speed` steps per second, until the person leaves."""
    console = Console()
    view = WorldView(console, stage, title)
    is_paused = False
    due = time.monotonic()
    with keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            state = "paused" if is_paused else "the episode is over" if stage.is_over else f"{speed} steps/s"
            live.update(view.picture(state, WATCH_KEYS), refresh=True)
            key = keyboard.read(None if is_paused else max(0.0, due - time.monotonic()))
            now = time.monotonic()
            match key:
                case "q" | "escape":
                    return
                case "space":
                    is_paused, due = not is_paused, now
                case "s":
                    is_paused = True
                    _advance(stage, view, newer, 1)
                case "+" | "=":
                    speed = next((faster for faster in SPEEDS if faster > speed), speed)
                case "-":
                    speed = next((slower for slower in reversed(SPEEDS) if slower < speed), speed)
                case "tab":
                    view.follow_next()
                case "n":
                    _begin(stage, view, newer)
                case None:
                    steps = max(1, speed // PICTURES_PER_SECOND)
                    _advance(stage, view, newer, steps)
                    # a slow machine does not have to catch up with what it could not show
                    due = max(now, due + steps / speed) + (SECONDS_BETWEEN_EPISODES if stage.is_over else 0.0)


def _advance(stage: EpisodePlayer, view: WorldView, newer: Newer, steps: int) -> None:
    if stage.is_over:
        _begin(stage, view, newer)
        return
    for _ in range(steps):
        stage.step()
        if stage.is_over:
            return


def _begin(stage: EpisodePlayer, view: WorldView, newer: Newer) -> None:
    found = newer()
    if found is not None:
        view.title = found[0]
    stage.start_episode(found[1] if found else None)


def play(keyboard: Keyboard, stage: EpisodePlayer, title: str, agent_index: int) -> None:
    """Let a person steer one agent, a step for each key; the others are played by the stage's policy."""
    console = Console()
    view = WorldView(console, stage, title)
    view.followed = agent_index
    steering = KeyBindings(stage.env.config)
    keys = [*steering.help, ("n", "new episode"), ("q", "leave")]
    with keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            state = "the episode is over: n plays another" if stage.is_over else "your turn"
            live.update(view.picture(state, keys), refresh=True)
            key = keyboard.read()
            if key in ("q", "escape"):
                return
            if key == "n":
                stage.start_episode()
            elif key is not None and not stage.is_over:
                orientation = int(stage.env.orientations[agent_index])
                if (action := steering.action(key, orientation)) is not None:
                    stage.step({agent_index: action})
