"""`metta watch`: show a policy playing in the terminal."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from metta import api
from metta.errors import UsageError
from metta_cli import resolve
from metta_cli.parameters import (
    RUN_HELP,
    Debug,
    Deterministic,
    Device,
    PolicyName,
    Set,
    World,
    complete_run,
    integer_option,
)
from metta_cli.torch_setup import set_up_torch


def watch(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT.pt|RUN|POLICY",
            help=f"A policy file, {RUN_HELP}, which is followed, or a baseline policy.",
            autocompletion=complete_run,
        ),
    ],
    policy: PolicyName = None,
    env: World = None,
    speed: Annotated[int, integer_option("Steps per second.", 1, 1000)] = 10,
    deterministic: Deterministic = False,
    device: Device = None,
    seed: Annotated[int, integer_option("Seed of the first episode.", 0)] = 0,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Show a policy playing in this terminal, or follow a run.

    With a run directory, the newest policy of the run plays each episode. The command waits until there is one.
    """
    from metta_cli import interactive  # noqa: PLC0415  # rich and prompt_toolkit are imported only where needed
    from metta_cli.keyboard import Keyboard  # noqa: PLC0415

    set_up_torch()
    checkpoint = resolve.newest_run(source, policy)
    options = [*(["--env", env] if env else []), *(f"--set={value}" for value in set_ or ())]
    options += ["--deterministic"] if deterministic else []
    try:
        keyboard = Keyboard(
            "watch", f"{shlex.join(['metta', 'replay', checkpoint, *options])} writes a web page instead"
        )
    except UsageError:  # the hint is for a policy that can be loaded; another error says what is wrong with it
        resolve.load("watch", resolve.newest_policy(checkpoint), env, set_, device)
        raise
    path, name = api.split_policy_name(checkpoint)
    run_dir = path if path.is_dir() else None
    newest = resolve.wait_for_policy(run_dir) if run_dir else path
    players, env_config = resolve.load("watch", api.join_policy_name(newest, name), env, set_, device)

    details = (f", policy {name}" if name else "") + (f" in {Path(env).stem}" if env else "")
    if deterministic:
        resolve.note_sampling(checkpoint)

    def newer_policy() -> tuple[str, api.Policy | api.Team] | None:
        nonlocal newest
        newer = api.newest_checkpoint(run_dir) if run_dir else None
        if newer is None or newer == newest:
            return None
        newest = newer
        # without the notes of `resolve.load`, which were printed for the first policy and would break the view
        loaded = api.load_policy(api.join_policy_name(newest, name), api.find_device(device or "auto"), env_config)
        return newest.stem + details, loaded.team

    player = api.EpisodePlayer(players, env_config, seed, deterministic)
    interactive.watch(keyboard, player, newest.stem + details, speed, newer_policy)
