"""Arguments and options shared by several commands, with shell completion of preset names."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Annotated, Any

import typer

from metta import api


def complete_preset(incomplete: str) -> list[tuple[str, str]]:
    """Names and descriptions of the presets that start with `incomplete`; if none, the shell completes file names."""
    return [(preset.name, preset.aim) for preset in api.presets() if preset.name.startswith(incomplete)]


def integer_option(help_: str, low: int | None = None, high: int | None = None) -> Any:
    """An option for an integer from `low` to `high`, which can be written as 500k, 2M or 1e6."""

    def parse(text: str | int) -> int:
        number = api.whole_number(str(text))
        if number is None:
            raise typer.BadParameter(f'"{text}" is not an integer such as 500000, 500k, 2M or 1e6')
        if low is not None and number < low:
            raise typer.BadParameter(f"must be at least {low}; got {number}")
        if high is not None and number > high:
            raise typer.BadParameter(f"must be at most {high}; got {number}")
        return number

    bounds = "" if low is None else f"  [{low} to {high}]" if high is not None else f"  [at least {low}]"
    return typer.Option(parser=parse, metavar="INTEGER", help=f"{help_}{bounds}")


def complete_run(incomplete: str) -> list[str]:
    """Directories of the runs in `./runs` whose names start with `incomplete`; if none, the shell completes files."""
    pattern = f"runs/{glob.escape(incomplete.removeprefix('runs/'))}*/config.toml"
    return sorted(str(Path(config).parent) for config in glob.glob(pattern))


Source = Annotated[
    str,
    typer.Argument(
        metavar="FILE.toml|PRESET",
        help="A TOML file, - for standard input, or the name of a preset.",
        autocompletion=complete_preset,
    ),
]
RunDir = Annotated[str | None, typer.Option(help="Run directory.  [default: a new one in runs/]")]
BEST_HELP = "its newest policy; RUN/best.pt: its best one, see checkpoint.keep_best"
RUN_HELP = "a run: its directory or its name, which stands for the newest run of that name in runs/"
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="CHECKPOINT.pt|RUN",
        help=f"Start with the weights of a policy that fit: a policy file, or {RUN_HELP} ({BEST_HELP}).",
        autocompletion=complete_run,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Torch device; auto: CUDA if available; cuda:1: the GPU 1; mps: the GPU of an Apple computer.",
    ),
]
Seed = Annotated[int | None, integer_option("Seed of all random number generators.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one value of the file; repeatable."),
]
Timesteps = Annotated[int | None, integer_option("Agent steps of the whole run, such as 500k, 2M or 1e6.")]
Run = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN", help=f"{RUN_HELP[0].upper()}{RUN_HELP[1:]}.", autocompletion=complete_run, show_default=False
    ),
]
POLICY_HELP = "random, scripted (walks to the nearest useful object, attacks when that pays), or a registered one"
Checkpoint = Annotated[
    list[str],
    typer.Argument(
        metavar="CHECKPOINT.pt|RUN|POLICY",
        help=f"A policy file, {RUN_HELP} ({BEST_HELP}), or a policy without weights: {POLICY_HELP}.",
        autocompletion=complete_run,
    ),
]
World = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.toml|PRESET",
        help="World to play in: a TOML file, - for standard input, or a preset.  "
        "[default: the policy's training world]",
        autocompletion=complete_preset,
    ),
]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Take the most likely of the allowed actions instead of sampling one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only errors and warnings.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
