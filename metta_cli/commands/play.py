"""`metta play`: control an agent from the keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metta import api
from metta.errors import UsageError
from metta_cli import output, resolve
from metta_cli.parameters import Debug, Set, Source, integer_option
from metta_cli.torch_setup import set_up_torch


def play(
    source: Source,
    agent: Annotated[int, integer_option("Index of the agent to control.", 0)] = 0,
    policy: Annotated[
        str, typer.Option(metavar="CHECKPOINT.pt|RUN|POLICY", help="Policy of the other agents.")
    ] = "random",
    seed: Annotated[int, integer_option("Seed of the first episode.", 0)] = 0,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Control one agent by keyboard; a policy controls the others.

    Each key press is one step of the world.
    """
    from metta_cli import interactive  # noqa: PLC0415  # rich and prompt_toolkit are imported only where needed
    from metta_cli.keyboard import Keyboard  # noqa: PLC0415

    keyboard = Keyboard("play", "run it without redirecting stdin or stdout")
    set_up_torch()
    others, env_config = resolve.load("play", resolve.newest_policy(policy), source, set_, None)
    if agent >= env_config.game.num_agents:
        raise UsageError(f"--agent must be below {env_config.game.num_agents}, the number of agents; got {agent}")
    summary = interactive.play(keyboard, api.EpisodePlayer(others, env_config, seed), Path(source).stem, agent)
    output.print_lines(summary)
