"""`metta tournament`: let policies play against each other, and rate them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from metta import api
from metta_cli import output
from metta_cli.parameters import POLICY_HELP, RUN_HELP, Debug, Device, Json, Quiet, Set, World, complete_run
from metta_cli.parameters import integer_option as integer
from metta_cli.resolve import load_env
from metta_cli.torch_setup import set_up_torch
from metta_cli.views import tournament_table
from metta_cli.views.progress_line import ProgressLine

LOG_SECONDS = 30.0
"""Seconds between lines about the progress where stderr is no terminal."""

Policies = Annotated[
    list[str],
    typer.Argument(
        metavar="CHECKPOINT.pt|RUN|POLICY",
        help=f"At least two policies: policy files; {RUN_HELP} (its policies over time); directories of runs (the "
        f"newest policy of each); policies without weights: {POLICY_HELP}.",
        autocompletion=complete_run,
    ),
]


def tournament(
    policy: Policies,
    env: World = None,
    episodes: Annotated[int, integer("Episodes of each pair from each side, on the same maps.", 1)] = 10,
    checkpoints: Annotated[int, integer("Policies of a run, at most: evenly spaced; 1: the newest.", 1)] = 10,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Directory of results and page.  [default: tournaments/WORLD; tournaments/world_of_RUN without --env]",
        ),
    ] = None,
    jobs: Annotated[int, integer("Pairs that are played at the same time.", 1)] = 1,
    device: Device = None,
    seed: Annotated[int, integer("Seed of maps, sides, agent orders and sampled actions.", 0)] = 0,
    set_: Set = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Let every two policies play against each other, and rate them.

    A game is one map, played twice, with exchanged sides; the larger mean reward wins. Sides are the two halves of the
    teams, or of the agents of one team. Writes tournament.html, tournament.json and results.jsonl. Repeated after an
    interruption, or with more policies, the command plays only the pairs that are missing.
    """
    set_up_torch()
    env_config = load_env("tournament", "", env, set_)
    world = "standard input" if env == "-" else Path(env).name.removesuffix(".toml") if env else _training_world(policy)
    directory = out or f"tournaments/{world.removeprefix('the ').replace(' ', '_')}"
    with ProgressLine(LOG_SECONDS) as line:
        result = api.tournament(
            policy,
            env_config,
            episodes,
            seed,
            directory,
            checkpoints,
            jobs,
            api.find_device(device or "auto"),
            _Progress(line),
        )
    paths = api.write_tournament(result, directory, world)
    if json:
        output.print_json(result.as_json() | {"world": world, "page": str(paths.page)})
    elif not quiet:
        tournament_table.print_tables(result, world)
        output.print_lines(map(str, paths))


def _training_world(policies: Sequence[str]) -> str:
    """The name of the world in which the first policy that is a run or a file was trained."""
    trained = [Path(api.split_policy_name(name)[0]).stem for name in policies if name not in api.POLICIES]
    return f"the world of {trained[0]}" if trained else "the training world"


class _Progress:
    """Prints notes about the policies, then how many pairs have been played and how long the others will take."""

    def __init__(self, line: ProgressLine):
        self._line = line
        self._begin = time.monotonic()

    def __call__(self, progress: api.TournamentProgress) -> None:
        played, total = progress.num_played, progress.num_pairs
        if not played:
            for entrant in progress.entrants:
                for note in entrant.notes:
                    output.print_note(f"{entrant.name}: {note}")
            if progress.num_stored:
                output.print_note(f"{progress.num_stored} of {total} pairs have been played before")
        done = progress.num_stored + played
        left = (time.monotonic() - self._begin) / played * (total - done) if played else None
        rest = f", {output.format_duration(left)} left" if left is not None else ""
        self._line(f"{done} of {total} pairs played{rest}", done / total)
