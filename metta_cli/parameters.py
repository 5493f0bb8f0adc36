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
MAX_SEEDS = 1000
"""Seeds of an experiment, at most."""


def _parse_seeds(text: str | tuple[int, ...]) -> tuple[int, ...]:
    """`5` -> the seeds 0 to 4; `0,1,7` -> these seeds."""
    if isinstance(text, tuple):
        return text
    items = [item.strip() for item in text.split(",")]
    numbers = [api.whole_number(item) for item in items]
    if not all(number is not None for number in numbers):
        raise typer.BadParameter(
            f'"{text}" is neither a number of seeds, such as 5, nor a list of seeds, such as 0,1,2'
        )
    seeds = [number for number in numbers if number is not None]
    if len(seeds) > 1:
        return tuple(seeds)
    if not 1 <= seeds[0] <= MAX_SEEDS:
        single = f"; to train a single seed: --seed {text}" if seeds[0] >= 0 else ""
        raise typer.BadParameter(f"the number of seeds must be from 1 to {MAX_SEEDS}; got {text}{single}")
    return tuple(range(seeds[0]))


Seeds = Annotated[
    Any,  # `_parse_seeds` returns a tuple, for which Typer would expect several arguments
    typer.Option(
        parser=_parse_seeds,
        metavar="NUMBER|SEED,SEED,...",
        help="Train a run for each seed, in an experiment directory: 5 stands for the seeds 0 to 4.",
    ),
]
Jobs = Annotated[
    int | None,
    integer_option(
        "Runs of an experiment that train at once and share the cores.  [default: 1, or as before]", 1, 1000
    ),
]
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
PolicyName = Annotated[
    str | None,
    typer.Option(
        "--policy", metavar="NAME", help="One of several policies of the run or file, to play all agents; as RUN:NAME."
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
