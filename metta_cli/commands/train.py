"""`metta train`: train a policy. Also option overrides and choice of the view, shared with `metta resume`."""

from __future__ import annotations

from typing import Annotated

import typer

from metta import api
from metta.errors import UsageError
from metta_cli import output
from metta_cli.exit_codes import CODES
from metta_cli.parameters import Debug, Device, From, Jobs, Json, Quiet, RunDir, Seed, Seeds, Set, Source, Timesteps
from metta_cli.torch_setup import set_up_torch
from metta_cli.views.experiment_lines import ExperimentView, JsonExperimentView, PlainExperimentView
from metta_cli.views.training_lines import JsonView, PlainView, View

OrResume = Annotated[
    bool,
    typer.Option(
        "--or-resume",
        help="Resume the run (with --seeds: the experiment) in --run-dir if there is one, so that the same command can "
        "be repeated until it is done.",
    ),
]


def train(
    source: Source,
    run_dir: RunDir = None,
    or_resume: OrResume = False,
    from_: From = None,
    device: Device = None,
    seed: Seed = None,
    seeds: Seeds = None,
    jobs: Jobs = None,
    set_: Set = None,
    total_timesteps: Timesteps = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a policy, or one per seed; print progress and a summary."""
    options = overrides(
        set_, run_dir=run_dir, init_from=from_, device=device, seed=seed, total_timesteps=total_timesteps
    )
    if jobs is not None and seeds is None:
        raise UsageError("--jobs is the number of runs that --seeds trains at once; add --seeds, such as --seeds 5")
    for option in options:
        if seeds is not None and option.path == ("run", "seed"):
            raise UsageError(f"--seeds and {option.option} both set the seed of the runs; leave out one")
    with api.open_config(source, options) as config:
        set_up_torch()
        if seeds is None:
            with training_view(json, quiet) as view:
                reason: str = api.train_run(config, view, or_resume).reason
        else:
            with experiment_view(json, quiet) as view:
                reason = api.train_runs(config, seeds, view, jobs or 1, or_resume).reason
    raise typer.Exit(CODES[reason])


def overrides(set_: list[str] | None, **options: str | int | None) -> list[api.Override]:
    """Overrides of values of the file: those of `--set`, and the options that set keys of `[run]`."""
    return [api.Override.parse(text) for text in set_ or ()] + [
        api.Override("--from" if key == "init_from" else f"--{key.replace('_', '-')}", ("run", key), str(value))
        for key, value in options.items()
        if value is not None
    ]


def training_view(json: bool, quiet: bool) -> View:
    """The view of a run: quiet, JSON, else live in a terminal and plain lines elsewhere and in the background.

    Ranks above 0 are always quiet.
    """
    if quiet or api.job_rank():
        return View()
    if json:
        return JsonView()
    if not output.can_redraw():
        return PlainView()
    from metta_cli.views.training_view import LiveView  # noqa: PLC0415  # imports rich

    return LiveView(output.make_console())


def experiment_view(json: bool, quiet: bool) -> ExperimentView:
    """The view of an experiment, as `training_view` chooses that of a run."""
    if quiet:
        return ExperimentView()
    if json:
        return JsonExperimentView()
    if not output.can_redraw():
        return PlainExperimentView()
    from metta_cli.views.experiment_view import LiveExperimentView  # noqa: PLC0415  # imports rich

    return LiveExperimentView(output.make_console())
