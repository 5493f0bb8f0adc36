"""Arguments and options shared by several commands, with shell completion of preset names."""

from __future__ import annotations

from typing import Annotated

import typer

from metta import api


def complete_preset(incomplete: str) -> list[tuple[str, str]]:
    """Names and descriptions of the presets that start with `incomplete`; if none, the shell completes file names."""
    return [(preset.name, preset.aim) for preset in api.presets() if preset.name.startswith(incomplete)]


Source = Annotated[
    str,
    typer.Argument(
        metavar="FILE.toml|PRESET",
        help="A TOML file, or the name of a preset.",
        autocompletion=complete_preset,
    ),
]
RunDir = Annotated[str | None, typer.Option(help="Run directory.  [default: a new one in runs/]")]
Device = Annotated[str | None, typer.Option(metavar="auto|cpu|cuda", help="Torch device; auto: CUDA if available.")]
Seed = Annotated[int | None, typer.Option(help="Seed of all random number generators.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one value of the file; repeatable."),
]
Timesteps = Annotated[int | None, typer.Option(help="Agent steps of the whole run.")]
Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT.pt|RUN_DIR|random|scripted",
        help="A policy file, a run directory (its newest policy), or a baseline policy: random, or scripted, which "
        "walks to the nearest useful object.",
    ),
]
World = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.toml|PRESET",
        help="World to play in.  [default: the policy's training world]",
        autocompletion=complete_preset,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only errors and warnings.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
