"""`metta train`: train a policy. Also option overrides and choice of the view, shared with `metta resume`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from metta import api
from metta_cli import output
from metta_cli.parameters import Debug, Device, From, Json, Quiet, RunDir, Seed, Set, Source, Timesteps
from metta_cli.torch_setup import set_up_torch
from metta_cli.views.training_lines import JsonView, PlainView, View

OrResume = Annotated[
    bool,
    typer.Option(
        "--or-resume",
        help="Resume the run in --run-dir if there is one, so that the same command can be repeated until it is done.",
    ),
]


def train(
    source: Source,
    run_dir: RunDir = None,
    or_resume: OrResume = False,
    from_: From = None,
    device: Device = None,
    seed: Seed = None,
    set_: Set = None,
    total_timesteps: Timesteps = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a policy; print progress and a summary."""
    options = overrides(
        set_, run_dir=run_dir, init_from=from_, device=device, seed=seed, total_timesteps=total_timesteps
    )
    with api.open_config(source, options) as config:
        set_up_torch()
        with training_view(json, quiet) as view:
            ended = api.train_run(config, view, or_resume)
    raise typer.Exit(130 if ended.reason == "interrupted" else 0)


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
    if not output.can_animate():
        return PlainView()
    from metta_cli.views.training_view import LiveView, is_in_foreground  # noqa: PLC0415  # imports rich

    return LiveView(output.make_console()) if is_in_foreground(sys.stdout.fileno()) else PlainView()
