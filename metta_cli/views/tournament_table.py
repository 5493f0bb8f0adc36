"""Result of `metta tournament` as tables: standings, progress of runs, win matrix."""

from __future__ import annotations

from metta import api
from metta_cli import output
from metta_cli.views.evaluation_table import estimate

CELL_WIDTH = 5
"""Columns of a cell of the win matrix."""


def print_tables(result: api.TournamentResult, world: str) -> None:
    """Print the standings, how the ratings of runs have changed, and the win matrix."""
    standings = result.standings
    names = [f"{place} {standing.entrant.name}" for place, standing in enumerate(standings, 1)]
    output.print_lines([f"tournament in {world}"])
    output.print_wrapped(
        f"{result.num_games} games per pair, each on one map from both sides ({sides(result)}); "
        f"{output.encodable('±', '+-')} 95 % interval"
    )
    header = ("", "rating", "score", "won", "drawn", "lost", "reward difference")
    rows = [
        (
            name,
            estimate(standing.rating),
            f"{standing.score:.0%}",
            *(f"{count:,}" for count in (standing.wins, standing.draws, standing.losses)),
            estimate(standing.difference),
        )
        for name, standing in zip(names, standings, strict=True)
    ]
    output.print_columns(header, rows)
    for run, points in result.progress.items():
        output.print_lines([f"rating of {run} over agent steps"])
        output.print_columns(
            ("policy", "agent steps", "rating"),
            [
                (standing.entrant.name, f"{standing.entrant.agent_steps:,}", estimate(standing.rating))
                for standing in points
            ],
        )
    _print_matrix(result, names)


def sides(result: api.TournamentResult) -> str:
    """Which agents the two sides of a world are."""
    if any(result.sides):
        return " against ".join(" and ".join(side) for side in result.sides)
    return "half of the agents against the others"


def _print_matrix(result: api.TournamentResult, names: list[str]) -> None:
    count = len(names)
    width = output.terminal_columns() - CELL_WIDTH * count - 1
    if width < output.MIN_LABEL_WIDTH:
        output.print_wrapped(f"The win matrix of {count} policies is wider than this terminal; the page has it.")
        return
    width = min(width, max(map(len, names)))
    output.print_lines(["score of each policy against each other, in %: games won, and half of those drawn"])
    output.print_lines([" " * width + "".join(f"{place:>{CELL_WIDTH}}" for place in range(1, count + 1))])
    for row, name in enumerate(names):
        cells = ["-" if row == column else f"{result.games[row, column].score:.0%}"[:-1] for column in range(count)]
        output.print_lines([f"{name[:width]:<{width}}" + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells)])
