"""`metta sweep`: search for the settings with the best score. `metta resume` shares its view and its exit code."""

from __future__ import annotations

from typing import Annotated

import typer

from metta import api
from metta.errors import TrainingError, UsageError
from metta_cli import output, resolve
from metta_cli.exit_codes import CODES
from metta_cli.parameters import Debug, Jobs, Json, Quiet
from metta_cli.torch_setup import set_up_torch
from metta_cli.views.sweep_lines import JsonSweepView, PlainSweepView, SweepView, print_status

File = Annotated[
    str | None,
    typer.Argument(
        metavar="[FILE.toml]", help="A TOML file with a table [sweep], or - for standard input.", show_default=False
    ),
]
SweepDir = Annotated[str | None, typer.Option(help="Directory of the sweep.  [default: a new one in runs/]")]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL|FILE",
        help="Database of the study: postgresql://..., or a journal file on a disk that several machines share.  "
        "[default: study.db in the directory of the sweep]",
    ),
]
Join = Annotated[
    str | None,
    typer.Option(
        metavar="SWEEP",
        help="Work on this sweep together with other processes; SWEEP is its directory or its name in runs/.",
    ),
]
Status = Annotated[
    str | None, typer.Option(metavar="SWEEP", help="Print the trials of this sweep and the best settings so far.")
]


def sweep(
    file: File = None,
    run_dir: SweepDir = None,
    jobs: Jobs = None,
    storage: Storage = None,
    join: Join = None,
    status: Status = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search for better settings with trials; bad ones stop early.

    The file names a base config, the keys to vary and the metric; `metta reference sweep` explains it.
    """
    given = {"FILE.toml": file, "--join": join, "--status": status}
    if len(names := [name for name, value in given.items() if value is not None]) != 1:
        got = f"; got {' and '.join(names)}" if names else ""
        raise UsageError(f"metta sweep takes one of FILE.toml, --join SWEEP and --status SWEEP{got}")
    if run_dir is not None and file is None:
        raise UsageError(f"--run-dir names a new directory; leave it out with {names[0]}")
    if status is not None:
        print_status(api.sweep_summary(resolve.experiment(status), storage), json)
        return
    if join is not None:
        work_on_sweep(resolve.experiment(join), jobs or 1, json, quiet, storage)
        return
    assert file is not None
    loaded = api.load_sweep(file, storage)
    set_up_torch()
    with sweep_view(json, quiet) as view:
        exit_after(api.start_sweep(loaded, view, run_dir, jobs or 1))


def work_on_sweep(root: str, jobs: int, json: bool, quiet: bool, storage: str | None = None) -> None:
    """Resume or join a sweep, and exit."""
    set_up_torch()
    with sweep_view(json, quiet) as view:
        ended = api.resume_sweep(root, view, jobs, storage)
    exit_after(ended)


def exit_after(ended: api.SweepEnded) -> None:
    """Exit with the code of a sweep. Raises TrainingError if all of its trials failed."""
    trials = ended.summary.trials
    if trials and all(trial.state == "failed" for trial in trials):
        raise TrainingError(f"all {len(trials)} trials failed; the last one: {trials[-1].reason}")
    raise typer.Exit(CODES[ended.reason])


def sweep_view(json: bool, quiet: bool) -> SweepView:
    """The view of a sweep: quiet, JSON, else a live table in a terminal and lines elsewhere and in the background."""
    if quiet:
        return SweepView()
    if json:
        return JsonSweepView()
    if not output.can_redraw():
        return PlainSweepView()
    from metta_cli.views.sweep_view import LiveSweepView  # noqa: PLC0415  # imports rich

    return LiveSweepView(output.make_console())
