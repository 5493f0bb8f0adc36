"""`metta presets` and `metta presets show`: list the presets, and print one."""

from __future__ import annotations

from typing import Annotated

import typer

from metta import api
from metta.errors import MettaError
from metta_cli import output
from metta_cli.parameters import complete_preset

presets = typer.Typer(help="List the presets, or print one.", rich_markup_mode=None)


@presets.callback(invoke_without_command=True)
def list_presets(context: typer.Context) -> None:
    """List the presets, one line each."""
    if context.invoked_subcommand is None:
        _print_presets(sorted(api.presets(), key=lambda preset: preset.name != "quickstart"))
        output.print_lines(["", "suites, for metta eval --suite:"])
        output.print_glossary([(name, suite.aim) for name, suite in api.SUITES.items()])
        for problem in api.broken_preset_packages():
            output.print_note(problem)


def _print_presets(found: list[api.Preset]) -> None:
    """Print a table of presets; below each other in a narrow terminal."""
    names = max(len(preset.name) for preset in found)
    rows = [(preset, *_agents_and_size(preset), preset.minutes or "-") for preset in found]
    if output.is_narrow():
        output.print_glossary(
            [
                (preset.name, f"{agents} agents, {size}, minutes: {minutes}; {preset.aim}")
                for preset, agents, size, minutes in rows
            ]
        )
        return
    heading = (f"{'preset':<{names}}  agents   size  minutes", "task")
    output.print_glossary(
        [
            heading,
            *(
                (f"{preset.name:<{names}}  {agents:>6}  {size:>5}  {minutes:>7}", preset.aim)
                for preset, agents, size, minutes in rows
            ),
        ]
    )
    output.print_lines(["", "size: rows x columns; minutes: training on two CPU cores"])


def _agents_and_size(preset: api.Preset) -> tuple[str, str]:
    """Agents and size of the preset's world; of a curriculum, the one in which it is evaluated."""
    try:
        game = api.load_world(preset.name).game
    except MettaError:  # of a package, for another version
        return "-", "-"
    return str(game.num_agents), f"{game.height}x{game.width}"


@presets.command("show")
def show_preset(
    name: Annotated[str, typer.Argument(metavar="PRESET", help="Name of a preset.", autocompletion=complete_preset)],
) -> None:
    """Print the TOML text of a preset, as a template for a new file."""
    output.print_lines([api.find_preset(name).text.rstrip("\n")])
