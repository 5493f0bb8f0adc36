"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from metta.api import presets


def presets_beginning(incomplete: str) -> list[tuple[str, str]]:
    """What the shell completes: the presets whose names begin so, with their aims; else the shell looks for files."""
    return [(preset.name, preset.aim) for preset in presets() if preset.name.startswith(incomplete)]


Source = Annotated[
    str,
    typer.Argument(
        metavar="FILE.toml|PRESET",
        help="A TOML file, or the name of a preset.",
        autocompletion=presets_beginning,
    ),
]
RunDir = Annotated[str | None, typer.Option(help="Where the run is kept.  [default: a new one in runs/]")]
Device = Annotated[str | None, typer.Option(metavar="auto|cpu|cuda", help="Where the policy computes.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random stream.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace one value of the file; repeatable."),
]
Timesteps = Annotated[int | None, typer.Option(help="Agent steps to train for, in all.")]
Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT.pt|RUN_DIR|random|scripted",
        help="A policy's file; or a run, for its newest; or the random policy; or the scripted one, which walks to the "
        "nearest useful object.",
    ),
]
World = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.toml|PRESET",
        help="Play in this world instead of the policy's own.",
        autocompletion=presets_beginning,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors and warnings alone.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
