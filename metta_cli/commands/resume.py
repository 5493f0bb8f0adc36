"""`metta resume`: resume a run, or the runs of an experiment, from their newest checkpoints."""

from __future__ import annotations

import typer

from metta import api
from metta.errors import UsageError
from metta_cli import resolve
from metta_cli.commands.sweep import work_on_sweep
from metta_cli.commands.train import experiment_view, overrides, training_view
from metta_cli.exit_codes import CODES
from metta_cli.parameters import Debug, Device, Jobs, Json, Quiet, Run, Set, Timesteps
from metta_cli.torch_setup import set_up_torch


def resume(
    run: Run,
    device: Device = None,
    set_: Set = None,
    total_timesteps: Timesteps = None,
    jobs: Jobs = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Resume a run, an experiment or a sweep from checkpoints."""
    unused = {"--device": device, "--set": set_, "--total-timesteps": total_timesteps}
    run_dir = resolve.newest_run(run)
    if api.is_sweep(run_dir):
        if given := [name for name, value in unused.items() if value]:
            raise UsageError(f"{run_dir} is a sweep, whose settings cannot change; leave out {' and '.join(given)}")
        work_on_sweep(run_dir, jobs or 1, json, quiet)
        return
    set_up_torch()
    changes = overrides(set_, device=device, total_timesteps=total_timesteps)
    if api.is_experiment(run_dir):
        with experiment_view(json, quiet) as view:
            reason: str = api.resume_runs(run_dir, view, changes, jobs).reason
    elif jobs is not None:
        raise UsageError(f"--jobs is for experiments and sweeps, which have several runs; {run_dir} is one run")
    else:
        with training_view(json, quiet) as view:
            reason = api.resume_run(run_dir, view, changes).reason
    raise typer.Exit(CODES[reason])
