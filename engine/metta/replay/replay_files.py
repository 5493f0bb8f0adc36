"""Replay files: write a recorded episode as a MettaScope file and as an HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metta.files import write_atomically
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


def write_replay(replay: Replay, directory: str | Path, name: str, title: str | None = None) -> ReplayPaths:
    """Write `NAME.json.z` and `NAME.html` into `directory`, which is created if it does not exist.

    Each file is written completely or not at all. `title`, by default `name`, is the heading of the page. Raises
    OSError if a file cannot be written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    paths = ReplayPaths(folder / f"{name}.json.z", folder / f"{name}.html")
    write_atomically(paths.mettascope, mettascope_bytes(replay))
    write_atomically(paths.page, standalone_html(replay, title or name).encode())
    return paths
