"""Exceptions and warnings that are shown to the user, and suggestions for misspelled names."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from types import TracebackType

MAX_SHOWN = 50
"""Maximum number of problems listed in one message; a file can have a million of them."""

MAX_LISTED = 20
"""Maximum number of known names that `did_you_mean` lists if none is similar."""


def closest_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most similar to `name`, regardless of case and of `-` or `_`; None if none is similar.

    `cutoff` is the smallest similarity, 0 to 1.
    """
    by_form = {_comparable(entry): entry for entry in reversed(list(known))}
    form = _comparable(name)
    matches = get_close_matches(form, by_form, n=4, cutoff=cutoff)
    similarity = {match: SequenceMatcher(None, match, form).ratio() for match in matches}
    best = [match for match in reversed(by_form) if similarity.get(match, 0) == max(similarity.values(), default=1)]
    return by_form[best[0]] if best else None


def similar_name(name: str, known: Iterable[str]) -> str:
    """The end of an error message with the known name that is most similar to `name`; empty if none is similar."""
    closest = closest_name(name, known)
    return f'; did you mean "{closest}"?' if closest else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name, such as `; did you mean "gamma"?`.

    If no known name is similar, it lists all of them (`; known: adam, muon`), or is empty if there are more than
    MAX_LISTED.
    """
    names = list(known)
    all_names = f"; known: {', '.join(names)}" if 0 < len(names) <= MAX_LISTED else ""
    return similar_name(name, names) or all_names


def _comparable(name: str) -> str:
    return name.casefold().replace("-", "_")


def printable(text: str) -> str:
    """The text with control characters escaped, so that a file cannot send control sequences to the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


_WRONG_PATH = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def is_wrong_path(error: OSError) -> bool:
    """Whether the path given by the user caused the error; False for other causes, such as a full disk."""
    return error.errno in _WRONG_PATH


@dataclass(frozen=True)
class Problem:
    """An error in a config: the path of a key, such as `("env", "game", "width")`, and a message."""

    path: tuple[str | int, ...]
    message: str
    line: int | None = None
    option: str | None = None
    """the command-line option that set the value; None if the file set it"""
    similar: str | None = None
    """name in the same table that the message suggests for an unknown one"""

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
        """Where the value was set: `line 3`, `--set`, or empty."""
        return self.option or (f"line {self.line}" if self.line is not None else "")


class RulesError(ValueError):
    """Raised by a validator of a config model to report several problems at once.

    The paths are relative to the model.
    """

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{problem.key}: {problem.message}".removeprefix(": ") for problem in problems))


class MettaError(Exception):
    """Base class of all errors shown to the user: the command line prints `str(error)` and exits with `exit_code`."""

    exit_code = 1


class ConfigError(MettaError):
    """The configuration is invalid. `problems` has every problem found, sorted by line."""

    exit_code = 2

    def __init__(self, source: str, problems: Sequence[Problem]):
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0)))
        super().__init__(self._text())

    def _text(self) -> str:
        count = len(self.problems)
        lines = [f"{printable(self.source)} has {count} problem{'' if count == 1 else 's'}"]
        shown = self.problems[:MAX_SHOWN]
        place_width = max((len(problem.place) for problem in shown), default=0)
        key_width = min(48, max((len(problem.key) for problem in shown), default=0))
        for problem in shown:
            message = printable(problem.message)
            columns = [f"{problem.place:<{place_width}}", f"{problem.key:<{key_width}}", message]
            lines.append("  " + "  ".join(column for column in columns if column.strip()))
        if count > MAX_SHOWN:
            lines.append(f"  and {count - MAX_SHOWN} more")
        return "\n".join(lines)


class UsageError(MettaError):
    """A name, path, option or argument does not exist or cannot be combined with the others."""

    exit_code = 2


class MapError(MettaError):
    """A map cannot be generated from its config, for example because it has more objects than free cells."""

    exit_code = 2


class CheckpointError(MettaError):
    """A checkpoint or trainer state is missing, damaged, not written by metta, or does not fit the config."""

    exit_code = 2


class TrainingError(MettaError):
    """Training stopped with an error, such as a loss that is not finite or a full disk."""


class ConfigWarning(UserWarning):
    """A config is valid, but something in it is probably not what its author meant; the command line prints a note."""


class RenamedKeyWarning(ConfigWarning, FutureWarning):
    """A file uses old names of renamed keys; the keys are loaded under their new names."""


class SkippedFileWarning(UserWarning):
    """One of several files or directories is damaged or not of the expected kind; the others are used without it."""


class Noted:
    """A context manager that adds a note to an exception."""

    def __init__(self, note: str):
        self._note = note

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(self._note)
