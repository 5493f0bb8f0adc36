"""The Typer application: registers the commands in the order in which `metta --help` lists them."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

import metta.api
from metta_cli import output
from metta_cli.commands.bench import bench
from metta_cli.commands.check import check
from metta_cli.commands.eval import eval_
from metta_cli.commands.export import export
from metta_cli.commands.map import map_
from metta_cli.commands.play import play
from metta_cli.commands.presets import presets
from metta_cli.commands.reference import reference, schema
from metta_cli.commands.replay import ReplayCommand, replay
from metta_cli.commands.report import report
from metta_cli.commands.resume import resume
from metta_cli.commands.sweep import sweep
from metta_cli.commands.tournament import tournament
from metta_cli.commands.train import train
from metta_cli.commands.watch import watch
from metta_cli.exit_codes import CommandGroup

app = typer.Typer(
    cls=CommandGroup,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train)
app.command()(resume)
app.command()(sweep)
app.command("eval")(eval_)
app.command()(tournament)
app.command("map")(map_)
app.command(cls=ReplayCommand)(replay)
app.command()(watch)
app.command()(play)
app.command()(export)
app.command()(report)
app.command()(check)
app.command()(bench)
app.command()(reference)
app.command()(schema)
app.add_typer(presets, name="presets")


def _print_version(is_given: bool) -> None:
    if is_given:
        output.print_lines([f"metta {metta.__version__}"])
        raise typer.Exit


@app.callback(invoke_without_command=True)
def metta_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train teams of agents in gridworlds from one TOML file."""
    if context.invoked_subcommand is None:
        output.print_lines([context.get_help()])


def main() -> None:
    """Run the command line; entry point of the console script `metta`."""
    try:
        app(prog_name="metta")
    finally:  # a Ctrl-C or an unwritable stream would replace the exit code while the interpreter shuts down
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        output.silence_broken_streams()
