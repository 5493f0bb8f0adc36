"""Replay files: write a recorded episode as a MettaScope file and as an HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metta.config.validation.file_paths import user_path
from metta.files import write_together
from metta.replay.mettascope import mettascope_bytes
from metta.replay.recording import Replay
from metta.replay.standalone_html import standalone_html


@dataclass(frozen=True)
class ReplayPaths:
    """The files of one recorded episode."""

    mettascope: Path
    """`.json.z` file for MettaScope"""
    page: Path
    """`.html` file for a web browser"""


def replay_title(run: str, policy: str, world: str) -> str:
    """Heading of a page: run, policy (such as "epoch 100") and world; empty parts are left out."""
    return " \u00b7 ".join(filter(None, [run, policy, f"world {world}" if world else ""]))


def write_replay(
    replay: Replay, directory: str | Path, name: str, title: str | None = None, overwrite: bool = True
) -> ReplayPaths:
    """Write `NAME.json.z` and `NAME.html` into `directory`, which is created if it does not exist.

    Each file is written completely or not at all. `title`, by default `name`, is the heading of the page. If
    `overwrite` is false and another episode has these names, they become `NAME_2.json.z` and `NAME_2.html`, and so on.
    Raises OSError if a file cannot be written.
    """
    contents = {".json.z": mettascope_bytes(replay), ".html": standalone_html(replay, title or name).encode()}
    paths = write_together(user_path(directory), name, contents, overwrite)
    return ReplayPaths(paths[".json.z"], paths[".html"])
