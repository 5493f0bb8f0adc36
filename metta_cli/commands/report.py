"""`metta report`: compare runs on one web page."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from metta import api
from metta_cli import output, resolve
from metta_cli.parameters import RUN_HELP, Debug, complete_run


def report(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help=f"Runs: {RUN_HELP}; or directories of experiments; repeatable. Or the directory of one sweep.",
            autocompletion=complete_run,
        ),
    ],
    out: Annotated[str | None, typer.Option(metavar="FILE.html", help="File to write.  [default: report.html]")] = None,
    average: Annotated[
        Literal["mean", "iqm"],
        typer.Option(help="Average over runs that differ only in their seed: mean, or interquartile mean."),
    ] = "mean",
    csv: Annotated[
        str | None, typer.Option(metavar="FILE.csv", help="Also write the numbers as a table to this file.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the numbers: one JSON object per line on stdout.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Compare runs on one web page: scores, curves, settings, replays.

    Runs that differ only in their seed are one group, with 95 % confidence intervals over its runs. Of a sweep, the
    page shows its trials.
    """
    found = api.read_report(resolve.all_runs(run), average)
    paths = [found.write_html(out or "report.html", overwrite=out is not None)]
    if csv:
        paths.append(found.write_csv(csv))
    if json:
        for record in ({"kind": "page", "path": str(paths[0])}, *found.records()):
            output.print_json(record)
    else:
        output.print_lines(map(str, paths))
