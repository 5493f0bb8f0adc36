"""`metta resume`: resume a run from its newest checkpoint."""

from __future__ import annotations

import typer

from metta import api
from metta.errors import UsageError
from metta_cli import resolve
from metta_cli.commands.sweep import work_on_sweep
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
    unused = {"--device": device, "--set": set_, "--total-timesteps": total_timesteps}
    if len(run) == 1 and api.is_sweep(root := api.user_path(run[0])):
        if given := [name for name, value in unused.items() if value]:
            raise UsageError(f"{root} is a sweep, whose settings cannot change; leave out {' and '.join(given)}")
        work_on_sweep(str(root), 1, json, quiet)
        return
    set_up_torch()
    run_dir = resolve.newest_run(run)
    with training_view(json, quiet) as view:
        ended = api.resume_run(run_dir, view, overrides(set_, device=device, total_timesteps=total_timesteps))
    raise typer.Exit(130 if ended.reason == "interrupted" else 0)
