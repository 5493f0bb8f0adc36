"""Everything that can go wrong and is not a bug: one tree, each with the exit code the command line gives it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

MOST_SHOWN = 50
"""Problems that are printed at once; nobody reads more, and a file made to annoy could have a million."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the closest known one, else all of them if they are few."""
    names = list(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 20 else ""


def printable(text: str) -> str:
    """The text with control characters spelled out, so that a file cannot drive the terminal it is shown on."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config: where (a key path such as `("env", "game", "width")`), what, and what to do."""

    path: tuple[str | int, ...]
    message: str
    line: int | None = None
    option: str | None = None
    """the command line option that set the value, where it was not the file"""

    @property
    def key(self) -> str:
        """The path as a TOML user writes it: `env.objects[2].name`."""
        key = ""
        for part in self.path:
            if isinstance(part, int):
                key += f"[{part}]"
            else:
                name = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'
                key += f".{name}" if key else name
        return printable(key)

    @property
    def place(self) -> str:
        """Where the user wrote it: `line 3`, `--set`, or nothing."""
        return self.option or (f"line {self.line}" if self.line is not None else "")


class RulesError(ValueError):
    """Several broken rules between fields at once; raised inside validators, which may raise only one error.

    Paths are relative to the model whose validator raises it.
    """

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{problem.key}: {problem.message}" for problem in problems))


class MettaError(Exception):
    """The root of the tree. `str(error)` is what the user reads; `exit_code` is the process's."""

    exit_code = 1


class ConfigError(MettaError):
    """The user's configuration is wrong; holds every problem found, sorted by line."""

    exit_code = 2

    def __init__(self, source: str, problems: Sequence[Problem]):
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0)))
        super().__init__(self._text())

    def _text(self) -> str:
        count = len(self.problems)
        lines = [f"{printable(self.source)} has {count} problem{'' if count == 1 else 's'}"]
        shown = self.problems[:MOST_SHOWN]
        place_width = max((len(problem.place) for problem in shown), default=0)
        key_width = min(48, max((len(problem.key) for problem in shown), default=0))
        for problem in shown:
            message = printable(problem.message)
            columns = [f"{problem.place:<{place_width}}", f"{problem.key:<{key_width}}", message]
            lines.append("  " + "  ".join(column for column in columns if column.strip()))
        if count > MOST_SHOWN:
            lines.append(f"  and {count - MOST_SHOWN} more")
        return "\n".join(lines)


class UsageError(MettaError):
    """The user asked for something that does not exist or does not go together: a preset, a device, an option."""

    exit_code = 2


class MapError(MettaError):
    """A map cannot be built as asked: more objects than cells, an unknown cell name, no agent."""

    exit_code = 2


class CheckpointError(MettaError):
    """A checkpoint or trainer state is missing, damaged, foreign, or does not fit."""

    exit_code = 2


class TrainingError(MettaError):
    """Training had to stop: a loss that is not finite, a disk that is full."""
