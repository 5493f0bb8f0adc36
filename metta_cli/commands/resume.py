"""`metta resume`: resume a run from its newest checkpoint."""

from __future__ import annotations

import typer

from metta import api
from metta_cli import resolve
from metta_cli.commands.train import overrides, training_view
from metta_cli.parameters import Debug, Device, Json, Quiet, Run, Set, Timesteps
from metta_cli.torch_setup import set_up_torch


def resume(
    run: Run,
    device: Device = None,
    set_: Set = None,
    total_timesteps: Timesteps = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Resume a run from its newest valid checkpoint."""
    set_up_torch()
    run_dir = resolve.newest_run(run)
    with training_view(json, quiet) as view:
        ended = api.resume_run(run_dir, view, overrides(set_, device=device, total_timesteps=total_timesteps))
    raise typer.Exit(130 if ended.reason == "interrupted" else 0)
