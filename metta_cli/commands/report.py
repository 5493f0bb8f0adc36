"""`metta report`: compare runs on one web page."""

from __future__ import annotations

from typing import Annotated

import typer

from metta import api
from metta_cli import output
from metta_cli.parameters import Debug


def report(
    run_dirs: Annotated[list[str], typer.Argument(metavar="RUN_DIR", help="Run directories.")],
    out: Annotated[str | None, typer.Option(metavar="FILE.html", help="File to write.  [default: report.html]")] = None,
    debug: Debug = False,
) -> None:
    """Compare runs on one web page: curves, settings, replays."""
    path = api.write_report(run_dirs, out or "report.html", overwrite=out is not None)
    output.print_lines([str(path)])
