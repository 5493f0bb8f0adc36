"""Paths given by the user, in a TOML file, an option or a call: `~` and `~user` stand for home directories."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from metta.config.validation.frozen_model import NAME_PATTERN
from metta.errors import Problem, RulesError, UsageError, printable

IN_RUN = "{run_dir}"
"""First part of paths in `config.toml` that lie in the run directory, so that a copied or moved run has its own."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path that the user means: `~/x` and `~user/x` start at a home directory, `./~` is a file of that name.

    Raises UsageError if `~user` names neither a user nor a file. Calling it again does not change the path.
    """
    text = os.fspath(path)
    found = Path(_expanded(text))
    is_literal = not text.startswith("~") and found.parts[:1] and found.parts[0].startswith("~")
    return found.absolute() if is_literal else found


def split_policy_name(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """The file or directory, and the name of a policy in it, that `FILE:NAME` means; the name is empty without one.

    A path that exists is a path without a name.
    """
    found = user_path(path)
    match = re.fullmatch(rf"(.+):({NAME_PATTERN})", str(found))
    return (Path(match[1]), match[2]) if match and not os.path.lexists(found) else (found, "")


def join_policy_name(path: str | os.PathLike[str], name: str) -> str:
    """`FILE:NAME`, which `split_policy_name` splits; the path alone for an empty name."""
    return f"{user_path(path)}:{name}" if name else str(user_path(path))


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise UsageError if no file can be written to the path, whose directory need not exist yet."""
    path = user_path(path)
    existing = next(parent for parent in (path, *path.absolute().parents) if os.path.lexists(parent))
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file")
    if existing != path and not existing.is_dir():
        raise UsageError(f"{existing} is a file, not a directory")
    if not os.access(path.absolute().parent if existing == path else existing, os.W_OK):
        raise UsageError(f"{path} cannot be written: permission denied")


def from_run(text: str, root: Path) -> Path:
    """The path that a text in the config of the run in `root` means, with `IN_RUN` replaced."""
    path = Path(text)
    return root.joinpath(*path.parts[1:]) if path.parts[:1] == (IN_RUN,) else path


def policy_from_run(text: str, root: Path) -> str:
    """The path of a policy in the config of the run in `root`, with `IN_RUN` replaced."""
    return str(from_run(text, root)) if text.startswith(IN_RUN) else text


def _expanded(text: str) -> str:
    expanded = text if "\0" in text else os.path.expanduser(text)
    if expanded.startswith("~") and not os.path.lexists(text):
        name = printable(text)
        raise UsageError(f"{name}: there is no such home directory; for a file of this name, write ./{name}")
    return expanded


def _text(path: Any) -> Any:
    return os.fspath(path) if isinstance(path, os.PathLike) else path


def _checked(path: str) -> str:
    if any(ord(character) < 32 for character in path):
        raise RulesError([Problem((), "must be a path without control characters")])
    if len(path.encode(errors="surrogatepass")) > 4000 or any(len(part.encode()) > 255 for part in path.split("/")):
        raise RulesError([Problem((), "must be a path of at most 4000 bytes, each part of it at most 255 bytes")])
    try:
        return _expanded(path)
    except UsageError as error:
        raise RulesError([Problem((), f"cannot be {error}")]) from None


FilePath = Annotated[str, BeforeValidator(_text, json_schema_input_type=str), AfterValidator(_checked)]
"""A path of a file or directory that operating systems accept, with `~` expanded; it need not exist."""
