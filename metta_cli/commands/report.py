"""`metta report`: compare runs on one web page."""

from __future__ import annotations

from typing import Annotated

import typer

from metta import api
from metta_cli import output, resolve
from metta_cli.parameters import RUN_HELP, Debug, complete_run


def report(
    run: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help=f"Runs: {RUN_HELP}; repeatable.", autocompletion=complete_run),
    ],
    out: Annotated[str | None, typer.Option(metavar="FILE.html", help="File to write.  [default: report.html]")] = None,
    debug: Debug = False,
) -> None:
    """Compare runs on one web page: curves, settings, replays."""
    path = api.write_report(resolve.all_runs(run), out or "report.html", overwrite=out is not None)
    output.print_lines([str(path)])
