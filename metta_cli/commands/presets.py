"""`metta presets` and `metta presets show`: list the presets, and print one."""

from __future__ import annotations

from typing import Annotated

import typer

from metta import api
from metta_cli import output
from metta_cli.parameters import complete_preset

presets = typer.Typer(help="List the presets, or print one.", rich_markup_mode=None)


@presets.callback(invoke_without_command=True)
def list_presets(context: typer.Context) -> None:
    """List the presets, one line each."""
    if context.invoked_subcommand is None:
        output.print_glossary([(preset.name, preset.aim) for preset in api.presets()])
        output.print_lines(["", "suites, for metta eval --suite:"])
        output.print_glossary([(name, suite.aim) for name, suite in api.SUITES.items()])
        for problem in api.broken_preset_packages():
            output.print_note(problem)


@presets.command("show")
def show_preset(
    name: Annotated[str, typer.Argument(metavar="PRESET", help="Name of a preset.", autocompletion=complete_preset)],
) -> None:
    """Print the TOML text of a preset, as a template for a new file."""
    output.print_lines([api.find_preset(name).text.rstrip("\n")])
