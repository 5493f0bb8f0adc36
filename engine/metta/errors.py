"""Everything that can go wrong and is not a bug: one tree, each with the exit code the command line gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config: where (a key path such as `("env", "game", "width")`), what, and what to do."""

    path: tuple[str | int, ...]
    message: str
    line: int | None = None

    @property
    def key(self) -> str:
        """The path as a TOML user writes it: `env.objects[2].name`."""
        key = ""
        for part in self.path:
            key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
        return key


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
        lines = [f"{self.source} has {count} problem{'' if count == 1 else 's'}"]
        places = [f"line {problem.line}" if problem.line is not None else "" for problem in self.problems]
        place_width = max(map(len, places), default=0)
        key_width = min(48, max((len(problem.key) for problem in self.problems), default=0))
        for place, problem in zip(places, self.problems, strict=True):
            columns = [f"{place:<{place_width}}", f"{problem.key:<{key_width}}", problem.message]
            lines.append("  " + "  ".join(column for column in columns if column.strip()))
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
